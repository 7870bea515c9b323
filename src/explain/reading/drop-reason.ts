import type { Observation } from '../exchanges/observation.js';
import { riseAround } from './counter-rise.js';
import { isReset } from './fates.js';

/** Why a packet was dropped, where the kernel tells no reasons: before 5.17. */
export interface InferredReason {
  /** as later kernels call it (enum skb_drop_reason); NOT_SPECIFIED when nothing tells */
  name: string;
  /** what beside the place it is taken from; null: that function drops for this reason alone */
  by: string | null;
}

/** Shows that a drop was for a reason: says how, or null. */
type Sign = (drop: Observation, observations: readonly Observation[]) => string | null;

/** A busy machine takes so long to read its counters, ns. */
const READING = 1.5e9;

/** The kernel counts this reason there, and the counter rose around then. */
const counter =
  (name: string): Sign =>
  ({ world, netns, time }) => {
    const rise = riseAround(world, netns, name, time, time + READING)?.rise ?? 0;
    return rise > 0 ? `${name}, which rose by ${rise} around then` : null;
  };

/** The stack refused the packet before it freed it (tcp_v4_send_reset in tcp_v4_rcv). */
const reset: Sign = (drop, observations) =>
  observations.some(
    (o) =>
      isReset(o) &&
      o.point === 'device.transmit' &&
      o.netns === drop.netns &&
      o.attempt === drop.attempt &&
      o.time < drop.time,
  )
    ? 'the RST that left before'
    : null;

const datagrams = (queue: string, lookup: string, group: string) =>
  [
    [lookup, 'UDP_CSUM', counter(`${group}.InCsumErrors`)],
    [lookup, 'NO_SOCKET', counter(`${group}.NoPorts`)],
    [queue, 'UDP_CSUM', counter(`${group}.InCsumErrors`)],
    [queue, 'SOCKET_RCVBUFF', counter(`${group}.RcvbufErrors`)],
    [queue, 'PROTO_MEM', counter(`${group}.MemErrors`)],
  ] as const;

/** Functions that free packets, why they may, and what tells (5.10). */
const PLACES: readonly (readonly [place: string, reason: string, sign?: Sign])[] = [
  ['nf_hook_slow', 'NETFILTER_DROP'],
  ['arp_error_report', 'NEIGH_FAILED'],
  ['ndisc_error_report', 'NEIGH_FAILED'],
  // which calls those two
  ['neigh_invalidate', 'NEIGH_FAILED'],
  ['ip_forward', 'PKT_TOO_BIG', counter('Ip.FragFails')],
  ['ip6_forward', 'PKT_TOO_BIG', counter('Ip6.InTooBigErrors')],
  ['ip_rcv_finish_core', 'IP_RPFILTER', counter('TcpExt.IPReversePathFilter')],
  ['tcp_v4_rcv', 'TCP_CSUM', counter('Tcp.InCsumErrors')],
  ['tcp_v4_rcv', 'NO_SOCKET', reset],
  ['tcp_v6_rcv', 'TCP_CSUM', counter('Tcp.InCsumErrors')],
  ['tcp_v6_rcv', 'NO_SOCKET', reset],
  ...datagrams('udp_queue_rcv_one_skb', '__udp4_lib_rcv', 'Udp'),
  ...datagrams('udpv6_queue_rcv_one_skb', '__udp6_lib_rcv', 'Udp6'),
];

/**
 * The reason of a drop by its place, and where a function drops for several, by what else tells of
 * one of them; never when two may be meant.
 * @param observations of the exchange that the packet belongs to
 */
export function inferReason(
  drop: Observation,
  observations: readonly Observation[],
): InferredReason {
  // function+0x1f [module], function.constprop.0+0x1f
  const [here = ''] = drop.world.symbol(drop.location).split(/[+.]/);
  const found = PLACES.flatMap(([place, name, sign]): InferredReason[] => {
    if (place !== here) return [];
    if (!sign) return [{ name, by: null }];
    const by = sign(drop, observations);
    return by === null ? [] : [{ name, by }];
  });
  return found.length === 1 ? found[0]! : { name: 'NOT_SPECIFIED', by: null };
}
