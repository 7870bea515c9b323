import type { SnatPath } from '../../event/fact.js';
import type { Evidence } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';

/** The way through the sending node's rules that spoiled a packet, and the fact that tells it. */
export interface KnownPath {
  path: SnatPath;
  evidence: Evidence[];
}

/**
 * The ways through the rules of the node on which an outer packet may be masqueraded.
 * @param entry the inner packet, handed to the tunnel device
 * @param at CLOCK_MONOTONIC, ns
 * @returns null when the node's rules were not recorded
 */
export function knownPaths(
  { world, netns, ifindex, headers }: Observation,
  at: number,
): { list: SnatPath[]; evidence: Evidence[] } | null {
  const known = world.rules(netns, at);
  if (!known) return null;
  const tunnel = world.deviceName(netns, ifindex);
  const family = headers.outer.version === 6 ? 'ip6' : 'ip';
  const fits = (path: SnatPath) => path.tunnel === tunnel && path.innerFamily === family;
  return { list: known.fact.paths.filter(fits), evidence: [known.evidence] };
}

/** Is a packet with this mark masqueraded on that way? */
export const meets = (path: SnatPath, mark: number): boolean =>
  path.mark === 0 || (path.mark & mark) !== 0;

/**
 * Finds the rules behind a second SNAT: the way through this tunnel for the mark that the packet bore.
 * @param othersMark the translation is another packet's, whose mark is not known
 * @returns null when the node's rules were not recorded, or none of their ways fits
 */
export function snatPath(
  entry: Observation | null,
  at: number,
  othersMark: boolean,
): KnownPath | null {
  const known = entry && knownPaths(entry, at);
  if (!known) return null;
  const path =
    known.list.find(({ mark }) => mark !== 0 && (othersMark || (mark & entry.mark) !== 0)) ??
    known.list.find(({ mark }) => mark === 0);
  return path ? { path, evidence: known.evidence } : null;
}
