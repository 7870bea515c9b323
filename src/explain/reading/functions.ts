import type { Case } from '../diagnose.js';
import type { Observation } from '../exchanges/observation.js';

/** include/uapi/linux/netfilter.h */
const NF_DROP = 0;

/** What a function was seen to do to the packet that an observation is of: same attempt, same namespace. */
function atFunction(exchange: Case, point: Observation['point'], of: Observation): Observation[] {
  return exchange.atFunctions.filter(
    (o) => o.point === point && o.netns === of.netns && o.attempt === of.attempt,
  );
}

/** `__nf_conntrack_confirm` refusing the entry of a packet that was dropped; null where it was not seen. */
export function refusedInsertion(exchange: Case, drop: Observation): Observation | null {
  return (
    atFunction(exchange, 'conntrack.insert', drop).findLast(
      (o) => o.reason === NF_DROP && o.tunnel === drop.tunnel,
    ) ?? null
  );
}

/** `__skb_checksum_complete` or conntrack's own check finding the checksum of a packet wrong. */
export function refusedChecksums(exchange: Case, drop: Observation): Observation[] {
  return atFunction(exchange, 'checksum.verify', drop);
}

/** `nf_nat_manip_pkt` rewriting the tunnel packet that left; null where it was not seen. */
export function rewriting(exchange: Case, sent: Observation): Observation | null {
  return (
    atFunction(exchange, 'nat.rewrite', sent).findLast(
      ({ time, skb }) => time < sent.time && skb === sent.skb,
    ) ?? null
  );
}
