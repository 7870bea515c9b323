import type { NatRule } from '../../event/fact.js';
import type { Evidence } from '../../explain/finding.js';
import type { World } from '../../explain/world.js';
import type { Crossing } from './crossing.js';

/** The rules of the sending node that did it, as far as its rule facts tell. */
export interface SecondSnatRules {
  marking: NatRule | null;
  /** masquerades the inner packet */
  inner: NatRule | null;
  /** masquerades the outer packet */
  outer: NatRule | null;
  /** the chain clears the mark, but another rule masquerades the inner packet before it is reached */
  masqueradeFirst: boolean;
  evidence: Evidence[];
}

/**
 * Finds the rules behind the two SNATs by the mark that the outer packet bore.
 * @returns null when the node's rules were not recorded
 */
export function secondSnatRules(
  world: World,
  netns: number,
  crossing: Crossing,
): SecondSnatRules | null {
  const known = world.rules(netns, crossing.startedAt);
  if (!known) return null;
  const mark = crossing.entry?.mark ?? crossing.sent?.mark ?? 0;
  const { marking, masquerade } = known.fact;
  const outerIndex = masquerade.findIndex(
    (rule) =>
      rule.mark !== null &&
      rule.mark.value !== 0 &&
      (mark & rule.mark.mask) >>> 0 === rule.mark.value,
  );
  const outer = masquerade[outerIndex] ?? null;
  const earlier = outer
    ? masquerade.slice(0, outerIndex).findLast((rule) => rule.mark === null)
    : null;
  // Had the chain's own rule masqueraded the inner packet, the mark would be gone.
  const masqueradeFirst = outer?.clearsMark === true;
  return {
    marking: marking.find((rule) => (rule.value & mark) !== 0) ?? null,
    inner: masqueradeFirst ? (earlier ?? null) : outer,
    outer,
    masqueradeFirst,
    evidence: [known.evidence],
  };
}
