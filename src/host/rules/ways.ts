import type { RuleCondition } from '../../event/fact.js';
import { isMatch, type Action, type Chain, type Match, type Rule, type Table } from './model.js';

/** nf_tables allows 16 levels of jumps (NFT_JUMP_STACK_SIZE) */
const DEPTH = 16;

/** One way from a base chain to a rule. */
export interface Way {
  chain: Chain;
  rule: Rule;
  /** what the rule does */
  decisions: readonly Action[];
  /** every condition on the way, the rule's own last */
  when: readonly RuleCondition[];
  /** a rule before it, in its chain or on the way to that, may return: not all that fits comes here */
  skippable: boolean;
}

/**
 * The ways from a base chain to the rules that are wanted, in the order in which packets come to them,
 * each rule once for each way that leads there.
 * @param take gets them; false: no more are wanted
 */
export function waysFrom(
  table: Table,
  base: Chain,
  wanted: (rule: Rule) => boolean,
  take: (way: Way) => boolean,
): void {
  const leading = chainsWith(table, wanted);
  let more = true;
  const visit = (
    at: Chain,
    before: readonly RuleCondition[],
    around: boolean,
    depth: number,
  ): void => {
    let skippable = around;
    for (const rule of leading.has(at) ? at.rules : []) {
      if (!more || depth === 0) return;
      const decisions = rule.steps.filter((step): step is Action => !isMatch(step));
      // what another rule leads to may return as well
      if (decisions.some(({ do: does }) => does === 'return' || does === 'goto')) skippable = true;
      const targets = rule.targets.flatMap((name) => table.chains.get(name) ?? []);
      if (!wanted(rule) && !targets.some((target) => leading.has(target))) continue;
      const when = [...before, ...rule.steps.filter(isMatch).map(condition)];
      if (wanted(rule)) more = take({ chain: at, rule, decisions, when, skippable });
      const sure = decisions.some((action) => 'sure' in action && action.sure);
      for (const target of targets)
        visit(target, sure ? when : [...when, unsure(rule)], skippable, depth - 1);
    }
  };
  visit(base, familyOf(table), false, DEPTH);
}

/** Whether a packet that meets the conditions is treated so depends on more than is known. */
export const unsure = ({ text }: Rule): RuleCondition => ({ match: 'unknown', text });

export const familyOf = (table: Table): RuleCondition[] =>
  table.family === 'inet' ? [] : [{ match: 'family', family: table.family, negated: false }];

/** Chains with a wanted rule, and those that lead to one. */
function chainsWith(table: Table, wanted: (rule: Rule) => boolean): Set<Chain> {
  const chains = [...table.chains.values()];
  const leading = new Set(chains.filter(({ rules }) => rules.some(wanted)));
  if (leading.size === 0) return leading;
  const from = new Map<Chain, Chain[]>();
  for (const chain of chains)
    for (const { targets } of chain.rules)
      for (const name of targets) {
        const target = table.chains.get(name);
        if (target) from.set(target, [...(from.get(target) ?? []), chain]);
      }
  for (const chain of leading) for (const before of from.get(chain) ?? []) leading.add(before);
  return leading;
}

export function condition(match: Match): RuleCondition {
  switch (match.match) {
    case 'source':
    case 'destination':
    case 'protocol':
    case 'sport':
    case 'dport':
      return {
        match: match.match,
        values: match.values.map(([low, high]) => [String(low), String(high)]),
        negated: match.negated,
      };
    default:
      return match;
  }
}
