import type { SnatPath } from '../../event/fact.js';
import type { Evidence } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';

/** The way through the sending node's rules that spoiled a packet, and the fact that tells it. */
export interface KnownPath {
  path: SnatPath;
  evidence: Evidence[];
}

/** The ways through the rules of the sending node on which packets of a tunnel are masqueraded. */
interface TunnelPaths {
  /** for inner packets of the same family */
  list: SnatPath[];
  ofTunnel: SnatPath[];
  /** all rules of the node could be read, and these are the ways on which a free port is changed too */
  complete: boolean;
  evidence: Evidence[];
}

/**
 * @param entry the inner packet, handed to the tunnel device
 * @param at CLOCK_MONOTONIC, ns
 * @param spared an unmarked packet was seen to pass: no way without a mark is one
 * @returns null when the node's rules were not recorded
 */
export function pathsOf(
  { world, netns, ifindex, headers }: Observation,
  at: number,
  spared: boolean,
): TunnelPaths | null {
  const known = world.rules(netns, at);
  if (!known) return null;
  const tunnel = world.deviceName(netns, ifindex);
  const family = headers.outer.version === 6 ? 'ip6' : 'ip';
  const ofTunnel = known.fact.paths.filter(
    (path) => path.tunnel === tunnel && !(spared && path.mark === 0),
  );
  const list = ofTunnel.filter(({ innerFamily }) => innerFamily === family);
  const complete = known.fact.unread.length === 0 && ofTunnel.length > 0;
  return { list, ofTunnel, complete, evidence: [known.evidence] };
}

/** Is a packet with this mark masqueraded on that way? */
export const meets = (path: SnatPath, mark: number): boolean =>
  path.mark === 0 || (path.mark & mark) !== 0;

/**
 * Finds the rules behind a second SNAT: the way through this tunnel for the mark that the packet bore.
 * @param spared see pathsOf
 * @param others the translation is due to other packets, whose marks are not known
 * @returns null when the node's rules were not recorded, or none of their ways fits
 */
export function snatPath(
  entry: Observation | null,
  at: number,
  { spared, others }: { spared: boolean; others: boolean },
): KnownPath | null {
  const known = entry && pathsOf(entry, at, spared);
  if (!known) return null;
  const path =
    known.list.find(({ mark }) => (mark & entry.mark) !== 0) ??
    known.list.find(({ mark }) => mark === 0) ??
    (others ? known.ofTunnel[0] : undefined);
  return path ? { path, evidence: known.evidence } : null;
}
