import { sameChecksum, updateChecksum } from '../../event/checksum.js';
import type { Crossing } from './crossing.js';

/** How the second SNAT leaves the outer checksum wrong; see `remedies` for what cures which. */
export type Defect = 'legacy-zero-checksum' | 'udpcsum-not-updated';

/**
 * Which way the outer checksum was spoiled; null when a second SNAT does not explain it.
 * Both: udp_manip_pkt, net/netfilter/nf_nat_proto.c.
 */
export function defectOf(c: Crossing): Defect | null {
  const { before, after, expected } = c.checksum!;
  if (before === 0) return 'legacy-zero-checksum';
  if (before !== null) return before === after ? 'udpcsum-not-updated' : null;
  // The moment before the second SNAT was not seen: the checksum that fits the old port tells.
  if (expected !== null && c.expectedPort !== null && c.wirePort !== null) {
    const old = updateChecksum(expected, c.wirePort, c.expectedPort);
    if (sameChecksum(old, after)) return 'udpcsum-not-updated';
  }
  return after === 0xffff ? 'legacy-zero-checksum' : null;
}
