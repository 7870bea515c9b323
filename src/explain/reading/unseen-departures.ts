import type { PointName } from '../../event/point.js';
import type { Attempt } from '../exchanges/exchange.js';
import type { Observation } from '../exchanges/observation.js';

const LEAVES: ReadonlySet<PointName> = new Set(['device.transmit', 'tunnel.transmit']);
const ARRIVES: ReadonlySet<PointName> = new Set(['device.receive', 'tunnel.receive']);

/**
 * How many packets came to another namespace and were not seen to leave the one where they were made,
 * though earlier ones of the exchange were, and other events there later: the kernel did not run the
 * programs that tell of it, and did not count that (tell_if_skipped, bpf/device.bpf.c, notices the like
 * of packets that arrive). Only of IPv4, where a packet's number says which attempt it belongs to.
 * @param netns where the exchange began
 */
export function unseenDepartures(
  observations: readonly Observation[],
  netns: number,
  attempts: readonly Attempt[],
): number {
  const first = observations.find((o) => o.netns === netns && LEAVES.has(o.point));
  if (!first) return 0;
  const { session } = first.evidence;
  const left = new Set<number>();
  const arrived = new Set<number>();
  let last = 0;
  const ofSession = observations.filter(({ evidence }) => evidence.session === session);
  for (const o of ofSession)
    if (o.netns === netns) {
      if (LEAVES.has(o.point)) left.add(o.attempt);
      last = o.time;
    }
  for (const o of ofSession)
    if (o.netns !== netns && o.attempt > first.attempt && o.time < last && ARRIVES.has(o.point))
      arrived.add(o.attempt);
  return [...arrived].filter((n) => !left.has(n) && attempts[n - 1]!.ipId !== 0).length;
}
