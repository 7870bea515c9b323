import { runClients, startServer } from '../../lab/endpoints.js';
import { runLookups, startNameServer } from '../../lab/dns.js';
import { defineLab, type RunningLab } from '../../lab/lab.js';
import { Namespaces, type Cable } from '../../lab/namespaces.js';
import type { SettingsOf } from '../../lab/settings.js';
import { sysctls } from '../../lab/vxlan.js';

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
  up,
});

async function up(settings: WireSettings, signal?: AbortSignal): Promise<RunningLab> {
  const scripts = scriptsOf(settings);
  const namespaces = await Namespaces.create(Object.keys(scripts), CABLES, signal);
  try {
    await Promise.all(
      Object.entries(scripts).map(([role, script]) => namespaces.script(role, script, signal)),
    );
    if (settings.protocol === 'dns') await startNameServer(namespaces, 'server');
    else await startServer(namespaces, 'server', { answer: PORT });
  } catch (error) {
    await namespaces.remove();
    throw error;
  }
  const { names } = namespaces;
  return {
    namespaces: names,
    node: names['client']!,
    traced: [names['client']!, names['node']!, ...(settings.traceServer ? [names['server']!] : [])],
    run: (runSignal) => {
      const { clients, resolver } = settings;
      const purpose = 'faulty';
      if (settings.protocol === 'tcp') {
        const connection = { address: SERVER, port: PORT, timeoutMs: 20000, purpose };
        return runClients(namespaces, 'client', Array(clients).fill(connection), runSignal);
      }
      const lookups = Array.from({ length: clients }, (_, i) => ({
        name: `host${i + 1}.example`,
        servers: [SERVER],
        resolver,
        purpose,
      }));
      return runLookups(namespaces, 'client', lookups, {
        resolvConf: `nameserver ${SERVER}\n`,
        signal: runSignal,
      });
    },
    exec: (command, options) =>
      namespaces.exec('client', command, { SKBWHY_SERVER: `${SERVER}:${PORT}` }, options),
    keep: () => namespaces.keep(),
    down: () => namespaces.remove(),
  };
}

function scriptsOf({ direction, lost, percent }: WireSettings): Record<string, string> {
  const port = `meta l4proto { tcp, udp } th ${direction === 'request' ? 'dport' : 'sport'} ${PORT}`;
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
table netdev wire {
  chain loss {
    type filter hook ingress device ${direction === 'request' ? 'left' : 'right'} priority 0;
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
