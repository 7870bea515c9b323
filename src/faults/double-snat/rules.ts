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
