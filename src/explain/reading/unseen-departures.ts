import type { PointName } from '../../event/point.js';
import type { Observation } from '../exchanges/observation.js';
import { isRequest } from './attempts.js';

const LEAVES: ReadonlySet<PointName> = new Set(['device.transmit', 'tunnel.transmit']);
const ARRIVES: ReadonlySet<PointName> = new Set(['device.receive', 'tunnel.receive']);

/**
 * How many requests came to another namespace and were not seen to leave the one where they were made,
 * though earlier ones of the exchange were, and other events there later: the kernel did not run the
 * programs that tell of it, and did not count that (tell_if_skipped, bpf/device.bpf.c, notices the like
 * of packets that arrive). A packet is known by its IP identification, which IPv6 has not.
 * @param netns where the exchange began
 */
export function unseenDepartures(observations: readonly Observation[], netns: number): number {
  const isDeparture = (o: Observation) => o.netns === netns && LEAVES.has(o.point) && isRequest(o);
  const first = observations.find(isDeparture);
  if (!first) return 0;
  const ofSession = observations.filter((o) => o.evidence.session === first.evidence.session);
  const last = ofSession.findLast((o) => o.netns === netns)!.time;
  const left = new Set(ofSession.filter(isDeparture).map(identification));
  const arrived = new Set(
    ofSession
      .filter((o) => o.netns !== netns && o.attempt > first.attempt && o.time < last)
      .filter((o) => ARRIVES.has(o.point) && isRequest(o))
      .map(identification),
  );
  return [...arrived].filter((id) => id !== 0 && !left.has(id)).length;
}

const identification = (o: Observation): number => o.headers.flow.identification(o.record);
