import { defineLab } from '../../lab/lab.js';
import { build } from '../../lab/topology.js';
import { tunnelled } from '../../lab/tunnelled.js';
import { nodeAddress, sysctls } from '../../lab/nodes.js';

const SETTINGS = [
  {
    key: 'tooSmall',
    kind: 'text',
    default: 'tunnel',
    values: ['tunnel', 'underlay'],
    help: "what full-sized segments do not fit into: the tunnel (its MTU is 1450, the pods' is 1500), or the network below it, once they have learnt to fit into the tunnel (a route with MTU 1400; the tunnel packets bear DF)",
  },
  {
    key: 'icmp',
    kind: 'text',
    default: 'dropped',
    values: ['dropped', 'passes'],
    help: 'what becomes of the ICMP errors of the tunnel’s nodes; those that pass cure a tunnel that is too small',
  },
  {
    key: 'direction',
    kind: 'text',
    default: 'request',
    values: ['request', 'answer'],
    help: 'what is long',
  },
  {
    key: 'probing',
    kind: 'boolean',
    default: false,
    help: 'net.ipv4.tcp_mtu_probing=1 in the pods: TCP finds out by itself after some retransmissions',
  },
  {
    key: 'inner',
    kind: 'text',
    default: 'ipv4',
    values: ['ipv4', 'ipv6'],
    help: 'family of the pods',
  },
  {
    key: 'bytes',
    kind: 'number',
    default: 6000,
    range: [1, 10_000_000],
    help: 'length of the body of what is long; up to about 1300 nothing is too big',
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
    default: 5,
    range: [0.1, 3600],
    help: 'how long a client waits for its answer',
  },
] as const;

const NO_ICMP = `nft -f - <<'RULES'
table inet quiet {
  chain output {
    type filter hook output priority 0;
    ip protocol icmp drop
    icmpv6 type packet-too-big drop
  }
}
RULES`;

const UNDERLAY_MTU = 1400;

/** Pods on two nodes whose long segments do not fit into the tunnel between them. */
export const lab = defineLab({
  name: 'tunnel-mtu',
  title: 'segments that do not fit into a tunnel, and a sender that is not told',
  settings: SETTINGS,
  up: ({ tooSmall, icmp, direction, probing, inner, bytes, clients, timeout }, signal) => {
    const underlay = tooSmall === 'underlay';
    const script = (other: 1 | 2) =>
      [
        underlay
          ? `ip route add ${nodeAddress(other, 'ipv4')}/32 dev eth0 mtu ${UNDERLAY_MTU}`
          : '',
        icmp === 'dropped' && !underlay ? NO_ICMP : '',
      ].join('\n');
    return build(
      tunnelled(
        inner,
        { count: clients, timeoutMs: timeout * 1000, bytes: { [direction]: bytes }, inPod: true },
        {
          tunnel: { df: underlay },
          sender: script(2),
          receiver: script(1),
          pods: sysctls({ 'net.ipv4.tcp_mtu_probing': probing ? 1 : 0 }),
        },
      ),
      signal,
    );
  },
});
