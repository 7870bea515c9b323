import { defineLab } from '../../lab/lab.js';
import { build } from '../../lab/topology.js';
import { TUNNEL, tunnelled } from '../../lab/tunnelled.js';

const SETTINGS = [
  {
    key: 'receiverVni',
    kind: 'number',
    default: 2,
    range: [1, 0xffffff],
    help: `VNI of the receiver's tunnel; the sender's is ${TUNNEL.vni}`,
  },
  {
    key: 'receiverPort',
    kind: 'number',
    default: TUNNEL.port,
    range: [1, 65535],
    help: `UDP port of the receiver's tunnel; the sender's is ${TUNNEL.port}`,
  },
  {
    key: 'inner',
    kind: 'text',
    default: 'ipv4',
    values: ['ipv4', 'ipv6'],
    help: 'family of the pods',
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
    default: 2.5,
    range: [0.1, 3600],
    help: 'how long a client waits for its answer',
  },
] as const;

/** Two nodes joined by a VXLAN tunnel whose ends disagree about its VNI. */
export const lab = defineLab({
  name: 'tunnel-wrong-vni',
  title: 'a tunnel whose ends disagree about its VNI',
  settings: SETTINGS,
  up: ({ receiverVni, receiverPort, inner, clients, timeout }, signal) =>
    build(
      tunnelled(
        inner,
        { count: clients, timeoutMs: timeout * 1000 },
        { receiverTunnel: { vni: receiverVni, port: receiverPort } },
      ),
      signal,
    ),
});
