import type { Case } from '../diagnose.js';
import type { Observation } from '../exchanges/observation.js';
import type { Passage } from '../finding.js';
import { isFailedInsertion } from './insertion.js';

/**
 * Between which devices a packet was dropped because its conntrack entry could not be inserted: the
 * one that received it last and the one that it was to leave by, to which ip_output and ip6_output
 * (net/ipv4/ip_output.c, net/ipv6/ip6_output.c) set skb->dev before POSTROUTING. null for other drops,
 * for a packet that came from no device or was for this namespace, and where it was not seen.
 */
export function passageOf(exchange: Case, drop: Observation): Passage | null {
  if (!isFailedInsertion(drop)) return null;
  const received = exchange.observations.findLast(
    (o) =>
      (o.point === 'device.receive' || o.point === 'tunnel.receive') &&
      o.netns === drop.netns &&
      o.attempt === drop.attempt &&
      o.tunnel === drop.tunnel &&
      o.time <= drop.time,
  );
  if (!received || received.ifindex === drop.ifindex || drop.ifindex === 0) return null;
  const nameOf = ({ world, netns, ifindex }: Observation) => world.deviceName(netns, ifindex);
  return { from: nameOf(received), to: nameOf(drop) };
}
