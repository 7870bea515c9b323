import type { SourceNatRule } from '../../event/fact.js';
import type { Evidence, Remedy } from '../finding.js';
import type { Observation } from '../exchanges/observation.js';
import { meets } from './rule-match.js';

/** The rule that translated a flow's source. */
export interface KnownRule {
  rule: SourceNatRule;
  /** false: a condition on the way to it could not be judged */
  sure: boolean;
  evidence: Evidence[];
}

/**
 * The rule that chose the source of a packet that was dropped behind POSTROUTING: the first that it
 * meets whose ports fit. null: the rules are not known, or none fits.
 */
export function sourceNatRuleOf(drop: Observation): KnownRule | null {
  const known = drop.world.rules(drop.netns, drop.time) ?? drop.world.rules(drop.netns);
  const { original, reply } = drop.ct!;
  for (const rule of known?.fact.translating ?? []) {
    const { ports, skippable } = rule;
    const port = reply.destination.port;
    if (ports && (port < ports[0] || port > ports[1])) continue;
    const answer = meets(rule, drop, original.source);
    if (answer === 'no') continue;
    const sure = answer === 'yes' && !skippable;
    return { rule, sure, evidence: [known!.evidence] };
  }
  return null;
}

/**
 * The ports that NAT may choose for a client's: the rule's, else all of the client's class
 * (nf_nat_l4proto_unique_tuple, net/netfilter/nf_nat_core.c, 4.20 to 6.18).
 */
export function portsFor(
  rule: Pick<SourceNatRule, 'ports'> | null,
  clientPort: number,
): [low: number, high: number] {
  if (rule?.ports) return rule.ports;
  if (clientPort < 512) return [1, 511];
  if (clientPort < 1024) return [600, 1023];
  return [1024, 65535];
}

/** What keeps two flows that are made at the same moment from being translated to one tuple. */
export function chooseAtRandom(rule: { text: string } | null): Remedy {
  return {
    what:
      'let masquerading choose ports at random, so that two flows hardly ever choose the same: --random-fully (nft: fully-random)' +
      (rule ? `; the rule that does not is \`${rule.text}\`` : ''),
    command: null,
    source:
      'nf_nat_l4proto_unique_tuple, net/netfilter/nf_nat_core.c; measured: the collisions are gone with it',
  };
}

/** No upgrade cures a collision of reply tuples. */
export const NO_UPGRADE: Remedy = {
  what: 'upgrading the kernel is not enough: such an insertion still fails on 6.18',
  command: null,
  source: 'nf_ct_resolve_clash, net/netfilter/nf_conntrack_core.c; measured on 6.18.44',
};
