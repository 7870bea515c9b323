import type { SnatPath } from '../../event/fact.js';
import type { Evidence } from '../../explain/finding.js';
import type { World } from '../../explain/world.js';
import type { Crossing } from './crossing.js';

/** The way through the sending node's rules that spoiled a packet, and the fact that tells it. */
export interface KnownPath {
  path: SnatPath;
  evidence: Evidence[];
}

/**
 * Does the second SNAT meet every packet, marked or not? Either its rule says so, or an unmarked
 * retransmission was seen to be translated by a new entry.
 */
export function needsNoMark(path: SnatPath | null, crossings: readonly Crossing[]): boolean {
  return (
    path?.mark === 0 ||
    crossings.some((c) => c.n > 1 && c.newEntry && c.snat && c.entry?.mark === 0)
  );
}

/**
 * Finds the rules behind the two SNATs: the way through this tunnel for the mark that the packet bore.
 * @returns null when the node's rules were not recorded, or none of their ways fits
 */
export function snatPath(world: World, netns: number, crossing: Crossing): KnownPath | null {
  const known = world.rules(netns, crossing.startedAt);
  if (!known || !crossing.entry) return null;
  const { mark, ifindex, headers } = crossing.entry;
  const tunnel = world.deviceName(netns, ifindex);
  const family = headers.outer.version === 6 ? 'ip6' : 'ip';
  const fits = known.fact.paths.filter(
    (path) => path.tunnel === tunnel && path.innerFamily === family,
  );
  const path =
    fits.find((candidate) => candidate.mark !== 0 && (candidate.mark & mark) !== 0) ??
    fits.find((candidate) => candidate.mark === 0);
  return path ? { path, evidence: [known.evidence] } : null;
}
