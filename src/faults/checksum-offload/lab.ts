import { SkbwhyError } from '../../event/errors.js';
import { defineLab } from '../../lab/lab.js';
import type { Card } from '../../lab/network-card.js';
import { ROUTED_CABLES, routedAddress, routedScripts } from '../../lab/routed.js';
import type { SettingsOf } from '../../lab/settings.js';
import { build, type Topology } from '../../lab/topology.js';
import { tunnelled } from '../../lab/tunnelled.js';
import { sysctls } from '../../lab/nodes.js';

const PORT = 8080;
const DNS_PORT = 53;

const SETTINGS = [
  {
    key: 'card',
    kind: 'text',
    default: 'forget',
    values: ['forget', 'miscalculate', 'flip', 'alter', 'finish', 'defer'],
    help: 'what the network card does with checksums that the kernel leaves to it: it forgets them, finishes them wrongly, flips a bit of finished ones too, alters the packet but not its checksum; or finishes them, or hands them on as unfinished, which is all right',
  },
  {
    key: 'direction',
    kind: 'text',
    default: 'request',
    values: ['request', 'answer'],
    help: 'which packets it does that with',
  },
  {
    key: 'packets',
    kind: 'number',
    default: 0,
    range: [0, 1000],
    help: 'with how many, the first ones; 0: all',
  },
  {
    key: 'txOffload',
    kind: 'boolean',
    default: true,
    help: 'the device before the card leaves checksums to it (ethtool -K … tx)',
  },
  {
    key: 'protocol',
    kind: 'text',
    default: 'tcp',
    values: ['tcp', 'dns'],
    help: 'what the clients do: TCP connects, or DNS lookups; with tunnel=none',
  },
  {
    key: 'resolver',
    kind: 'text',
    default: 'musl',
    values: ['musl', 'glibc'],
    help: 'whose schedule lookups have',
  },
  {
    key: 'name',
    kind: 'text',
    default: 'host.checksum-offload.example',
    pattern: [/^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*$/, 'a domain name'],
    help: 'what lookups ask for; queries of more than 68 bytes are verified only when the server takes them',
  },
  {
    key: 'family',
    kind: 'text',
    default: 'ipv4',
    values: ['ipv4', 'ipv6'],
    help: 'family of client and server',
  },
  {
    key: 'service',
    kind: 'boolean',
    default: false,
    help: 'clients know the server by an address that the node behind the card translates (DNAT); with tunnel=none',
  },
  {
    key: 'firewall',
    kind: 'boolean',
    default: false,
    help: 'the node behind the card drops what conntrack takes for INVALID; with tunnel=none',
  },
  {
    key: 'tunnel',
    kind: 'text',
    default: 'none',
    values: ['none', 'udpcsum', 'noudpcsum'],
    help: 'the card carries a VXLAN tunnel between two nodes, with outer UDP checksums or without',
  },
  {
    key: 'traced',
    kind: 'text',
    default: 'all',
    values: ['all', 'sender', 'receiver', 'node'],
    help: 'what is traced: all but the card, only what is before it, only what is behind it; node: all but the server',
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [0, 1000],
    help: 'connects or lookups, all at once',
  },
  {
    key: 'timeout',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 2.5,
    range: [0.1, 3600],
    help: 'how long a client waits for its answer; lookups end by their resolver’s schedule',
  },
] as const;

type CardSettings = SettingsOf<typeof SETTINGS>;

const DROP_INVALID = `
nft -f - <<'RULES'
table inet firewall {
  chain forward {
    type filter hook forward priority filter;
    ct state invalid drop
  }
}
RULES
`;

/** What is not for the server ends there. */
const NO_ROUTER = { 'net.ipv4.ip_forward': 0, 'net.ipv6.conf.all.forwarding': 0 };

/** What the server is to clients of a Service. */
const SERVICE = { ipv4: '10.96.0.40', ipv6: 'fd00:10:96::40' } as const;

/**
 * A network card between two namespaces, as the backend of a virtual machine's is, which does not do
 * with checksums what the driver said it does.
 */
export const lab = defineLab({
  name: 'checksum-offload',
  title: 'a network card that leaves checksums wrong',
  settings: SETTINGS,
  up: (settings, signal) => {
    const { tunnel, protocol, service, firewall } = settings;
    if (tunnel !== 'none' && (protocol !== 'tcp' || service || firewall))
      throw new SkbwhyError('bad-option', `--set tunnel=${tunnel}: with TCP to a pod only`);
    return build(tunnel === 'none' ? routed(settings) : throughTunnel(settings), signal);
  },
});

/** The card in its own namespace: `near` is its end to whom it serves, `far` the one to the network. */
function cardOf({ card, direction, packets }: CardSettings): {
  cards: Readonly<Record<string, Card>>;
  script: string;
} {
  const devices: Card['devices'] = direction === 'request' ? ['near', 'far'] : ['far', 'near'];
  return {
    cards: { card: { devices, work: card, packets } },
    script: `
for device in near far; do echo 1 > /proc/sys/net/ipv6/conf/$device/disable_ipv6; done
ip link set near up
ip link set far up
`,
  };
}

const offload = (device: string, on: boolean): string =>
  `ethtool -K ${device} tx ${on ? 'on' : 'off'} > /dev/null`;

/** A client behind the card, a node that routes, a server. */
function routed(settings: CardSettings): Topology {
  const { direction, txOffload, protocol, resolver, name, traced, clients, timeout } = settings;
  const { family, service, firewall } = settings;
  const scripts = routedScripts(family);
  const server = routedAddress('server', family);
  const address = service ? SERVICE[family] : server;
  const ip = family === 'ipv6' ? 'ip6' : 'ip';
  const dnat = `
nft -f - <<'RULES'
table ${ip} lab {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ${ip} daddr ${address} dnat to ${server}
  }
}
RULES
ip ${family === 'ipv6' ? '-6 ' : ''}route add default via ${server}
`;
  const { cards, script } = cardOf(settings);
  const many = <T>(make: () => T): T[] => Array.from({ length: clients }, make);
  const common = { purpose: 'faulty', timeoutMs: timeout * 1000 };
  const tcp = protocol === 'tcp';
  const request = direction === 'request';
  return {
    cables: [
      [
        ['client', 'eth0'],
        ['card', 'near'],
      ],
      [
        ['card', 'far'],
        ['node', 'client'],
      ],
      ROUTED_CABLES[1]!,
    ],
    scripts: {
      ...scripts,
      server: scripts.server + (service ? sysctls(NO_ROUTER) : ''),
      client: scripts.client + (request ? offload('eth0', txOffload) : ''),
      node:
        scripts.node +
        (service ? dnat : '') +
        (firewall ? DROP_INVALID : '') +
        (request ? '' : offload('client', txOffload)),
      card: script,
    },
    cards,
    servers: tcp ? { server: { answer: PORT } } : {},
    nameServers: tcp ? {} : { server: { port: DNS_PORT } },
    clients: tcp ? { client: many(() => ({ ...common, address, port: PORT })) } : {},
    lookups: tcp
      ? {}
      : {
          client: many(() => ({
            ...common,
            name,
            servers: [address],
            resolver,
          })),
        },
    node: 'client',
    untraced: [
      'card',
      ...untraced(traced, { sender: ['client'], node: 'node', receiver: ['server'] }),
    ],
    environment: { SKBWHY_SERVER: address },
  };
}

/** Two nodes whose VXLAN packets the card carries, a pod behind the second. */
function throughTunnel(settings: CardSettings): Topology {
  const { direction, txOffload, family, tunnel, traced, clients, timeout } = settings;
  const { cards, script } = cardOf(settings);
  const topology = tunnelled(
    family,
    { count: clients, timeoutMs: timeout * 1000 },
    { tunnel: { checksum: tunnel === 'udpcsum' } },
  );
  const before = direction === 'request' ? 'sender' : 'receiver';
  return {
    ...topology,
    cables: [
      [
        ['sender', 'eth0'],
        ['card', 'near'],
      ],
      [
        ['card', 'far'],
        ['receiver', 'eth0'],
      ],
      topology.cables[1]!,
    ],
    scripts: {
      ...topology.scripts,
      [before]: topology.scripts[before] + offload('eth0', txOffload),
      card: script,
    },
    cards,
    untraced: [
      'card',
      ...untraced(traced, { sender: ['sender'], node: 'receiver', receiver: ['pod'] }),
    ],
  };
}

/** Roles that are not traced: of those before the card, the node behind it, and those behind that. */
function untraced(
  traced: CardSettings['traced'],
  { sender, node, receiver }: { sender: string[]; node: string; receiver: string[] },
): string[] {
  return { all: [], sender: [node, ...receiver], receiver: sender, node: receiver }[traced];
}
