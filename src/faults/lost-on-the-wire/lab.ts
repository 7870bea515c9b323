import { defineLab } from '../../lab/lab.js';
import type { Cable } from '../../lab/namespaces.js';
import type { SettingsOf } from '../../lab/settings.js';
import { build } from '../../lab/topology.js';
import { sysctls } from '../../lab/nodes.js';

const SETTINGS = [
  {
    key: 'protocol',
    kind: 'text',
    default: 'tcp',
    values: ['tcp', 'dns'],
    help: 'what the clients do: TCP connects, or DNS lookups',
  },
  {
    key: 'direction',
    kind: 'text',
    default: 'request',
    values: ['request', 'answer'],
    help: 'which packets the wire loses',
  },
  {
    key: 'lost',
    kind: 'number',
    default: 1,
    range: [0, 1000],
    help: 'how many packets it loses, the first ones',
  },
  {
    key: 'percent',
    kind: 'number',
    unit: '%',
    default: 0,
    range: [0, 100],
    help: 'how many it loses of all, at random, instead',
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [1, 1000],
    help: 'connects or lookups at once',
  },
  {
    key: 'resolver',
    kind: 'text',
    default: 'musl',
    values: ['system', 'musl', 'glibc'],
    help: "whose schedule lookups have: the C library's own resolver, or one like musl's or glibc's",
  },
  {
    key: 'traceServer',
    kind: 'boolean',
    default: true,
    help: 'the server’s side of the wire is traced too',
  },
] as const;

type WireSettings = SettingsOf<typeof SETTINGS>;

const CABLES: Cable[] = [
  [
    ['client', 'eth0'],
    ['node', 'pod'],
  ],
  [
    ['node', 'eth0'],
    ['wire', 'left'],
  ],
  [
    ['wire', 'right'],
    ['server', 'eth0'],
  ],
];
const SERVER = '192.168.77.2';
const PORT = 53;

/** A client behind a node, a server, and between them a wire that loses packets and is not traced. */
export const lab = defineLab({
  name: 'lost-on-the-wire',
  title: 'a wire that loses packets where nobody sees it',
  settings: SETTINGS,
  up: (settings, signal) => {
    const { protocol, clients, resolver, traceServer } = settings;
    const dns = protocol === 'dns';
    const purpose = 'faulty';
    return build(
      {
        cables: CABLES,
        scripts: scriptsOf(settings),
        servers: dns ? {} : { server: { answer: PORT } },
        nameServers: dns ? { server: {} } : {},
        clients: {
          client: Array.from({ length: dns ? 0 : clients }, () => ({
            ...{ address: SERVER, port: PORT, timeoutMs: 20000, purpose },
          })),
        },
        lookups: {
          client: Array.from({ length: dns ? clients : 0 }, (_, i) => ({
            ...{ name: `host${i + 1}.example`, servers: [SERVER], resolver, purpose },
          })),
        },
        resolvConf: `nameserver ${SERVER}\n`,
        node: 'client',
        untraced: ['wire', ...(traceServer ? [] : ['server'])],
        environment: { SKBWHY_SERVER: `${SERVER}:${PORT}` },
      },
      signal,
    );
  },
});

function scriptsOf({ direction, lost, percent }: WireSettings): Record<string, string> {
  const [device, end] = direction === 'request' ? ['left', 'dport'] : ['right', 'sport'];
  const port = `iifname ${device} meta l4proto { tcp, udp } th ${end} ${PORT}`;
  const which =
    percent > 0 ? `numgen random mod 100 < ${percent}` : `limit rate 1/day burst ${lost} packets`;
  const rule = lost > 0 || percent > 0 ? `${port} ${which} drop` : '';
  return {
    client: `
ip link set lo up
ip addr add 10.88.1.2/24 dev eth0
ip link set eth0 up
ip route add default via 10.88.1.1
`,
    node: `
${sysctls({ 'net.ipv4.ip_forward': 1, 'net.ipv4.conf.all.rp_filter': 0 })}
ip link set lo up
ip addr add 10.88.1.1/24 dev pod
ip link set pod up
ip addr add 192.168.77.1/24 dev eth0
ip link set eth0 up
`,
    wire: `
ip link add wire type bridge
ip link set left master wire up
ip link set right master wire up
ip link set wire up
nft -f - <<'RULES'
table bridge wire {
  chain loss {
    type filter hook forward priority 0;
    ${rule}
  }
}
RULES
`,
    server: `
ip link set lo up
ip addr add ${SERVER}/24 dev eth0
ip link set eth0 up
ip route add default via 192.168.77.1
`,
  };
}
