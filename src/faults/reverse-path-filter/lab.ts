import { defineLab } from '../../lab/lab.js';
import { ROUTED_CABLES, routedAddress, routedScripts } from '../../lab/routed.js';
import { build } from '../../lab/topology.js';
import { sysctls } from '../../lab/nodes.js';

const PORT = 8080;
/** The client’s address, which the node routes to over the other cable. */
const SOURCE = '10.83.0.1';

const SETTINGS = [
  {
    key: 'rpFilter',
    kind: 'number',
    default: 1,
    range: [0, 2],
    help: 'net.ipv4.conf.*.rp_filter on the node: 0 off, 1 strict, 2 loose',
  },
  {
    key: 'route',
    kind: 'text',
    default: 'other',
    values: ['other', 'same', 'none'],
    help: 'the route back to the clients’ address: over the other cable, the same one, or none',
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [0, 1000],
    help: 'connections from that address, all at once',
  },
  {
    key: 'timeout',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 2.5,
    range: [0.1, 3600],
    help: 'how long a client waits for its answer',
  },
] as const;

/** A client on two cables to a node: its packets come by one, and the route back is the other. */
export const lab = defineLab({
  name: 'reverse-path-filter',
  title: 'packets that come by a device through which no route leads back',
  settings: SETTINGS,
  up: ({ rpFilter, route, clients, timeout }, signal) => {
    const scripts = routedScripts('ipv4');
    const address = routedAddress('server', 'ipv4');
    const filter = (value: number, ...devices: string[]) =>
      sysctls(
        Object.fromEntries(
          ['all', 'default', ...devices].map((name) => [`net.ipv4.conf.${name}.rp_filter`, value]),
        ),
      );
    const back = {
      other: `ip route add ${SOURCE}/32 via 10.82.0.2`,
      same: `ip route add ${SOURCE}/32 via ${routedAddress('client', 'ipv4')}`,
      none: '',
    }[route];
    return build(
      {
        cables: [
          ...ROUTED_CABLES,
          [
            ['client', 'eth1'],
            ['node', 'other'],
          ],
        ],
        scripts: {
          ...scripts,
          client: `${scripts.client}
${filter(0, 'eth0', 'eth1')}
# else it asks for the node in the name of ${SOURCE}, and the filter leaves that unanswered
${sysctls({ 'net.ipv4.conf.all.arp_announce': 2 })}
ip address add ${SOURCE}/32 dev lo
ip address add 10.82.0.2/24 dev eth1
ip link set eth1 up
ip route replace default via ${routedAddress('node', 'ipv4')} src ${SOURCE}
`,
          node: `${scripts.node}
ip address add 10.82.0.1/24 dev other
ip link set other up
${back}
${filter(rpFilter, 'client', 'server', 'other')}
`,
        },
        servers: { server: { answer: PORT } },
        clients: {
          client: Array.from({ length: clients }, () => ({
            ...{ address, port: PORT, purpose: 'faulty', timeoutMs: timeout * 1000 },
          })),
        },
        node: 'client',
        environment: { SKBWHY_SERVER: address },
      },
      signal,
    );
  },
});
