import { defineLab } from '../../lab/lab.js';
import { build } from '../../lab/topology.js';
import { TUNNEL, tunnelled } from '../../lab/tunnelled.js';

const SETTINGS = [
  {
    key: 'missing',
    kind: 'text',
    default: 'fdb',
    values: ['fdb', 'neighbour', 'route', 'peer', 'nothing'],
    help: "what the sender lacks: the FDB entry of the remote tunnel device, its neighbour entry, a route to the peer, an answer of the peer's address",
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [0, 1000],
    help: 'connections through the tunnel, all at once',
  },
  {
    key: 'timeout',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 4.5,
    range: [0.1, 3600],
    help: 'how long a client waits for its answer',
  },
] as const;

const DEVICE = TUNNEL.device;
const MAC = '02:00:00:00:02:02';

/** What takes it away, on the sender. */
const REMOVAL = {
  nothing: '',
  fdb: `bridge fdb del ${MAC} dev ${DEVICE}`,
  neighbour: `ip neigh del 10.244.2.0 dev ${DEVICE}`,
  route: `ip route del default
bridge fdb replace ${MAC} dev ${DEVICE} dst 203.0.113.9`,
  peer: `bridge fdb replace ${MAC} dev ${DEVICE} dst 192.168.100.77`,
} as const;

/** Two nodes joined by a VXLAN tunnel; the sender’s does not know where to send. */
export const lab = defineLab({
  name: 'tunnel-no-remote',
  title: 'a tunnel that does not know where its peer is',
  settings: SETTINGS,
  up: ({ missing, clients, timeout }, signal) =>
    build(
      tunnelled(
        'ipv4',
        { count: clients, timeoutMs: timeout * 1000 },
        { sender: REMOVAL[missing] },
      ),
      signal,
    ),
});
