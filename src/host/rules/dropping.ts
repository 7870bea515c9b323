import type { DroppingRule, RuleCondition } from '../../event/fact.js';
import { isMatch, natRule, type Chain, type Hook, type Match, type Table } from './model.js';
import { basesOf } from './walk.js';

const HOOKS: readonly Hook[] = ['prerouting', 'input', 'forward', 'output', 'postrouting'];
/** More ways than this are not kept: a fact is no place for a whole firewall. */
const MAX = 400;
/** nf_tables allows 16 levels of jumps (NFT_JUMP_STACK_SIZE) */
const DEPTH = 16;

/**
 * Every rule that drops or rejects packets and every chain whose policy does, once for each way that
 * leads there, in the order in which packets come to them.
 */
export function droppingRules(tables: readonly Table[]): DroppingRule[] {
  const found: DroppingRule[] = [];
  for (const hook of HOOKS)
    for (const { table, chain, base } of basesOf(tables, hook)) {
      const leading = chainsThatDrop(table);
      const visit = (at: Chain, when: RuleCondition[], depth: number): void => {
        if (!leading.has(at)) return;
        for (const rule of at.rules) {
          const targets = rule.targets.flatMap((name) => table.chains.get(name) ?? []);
          if (!rule.drops && !targets.some((target) => leading.has(target))) continue;
          if (found.length >= MAX || depth === 0) return;
          const here = [...when, ...rule.steps.filter(isMatch).map(condition)];
          const decision = rule.steps.find((step) => !isMatch(step) && isDrop(step.do));
          const sure = rule.steps.some((step) => !isMatch(step) && 'sure' in step && step.sure);
          if (rule.drops)
            found.push({
              ...natRule(table, at, rule),
              hook,
              priority: base.priority,
              action:
                decision && !isMatch(decision) && decision.do === 'reject' ? 'reject' : 'drop',
              when: decision ? here : [...here, { match: 'unknown', text: rule.text }],
            });
          for (const target of targets)
            visit(
              target,
              sure ? here : [...here, { match: 'unknown', text: rule.text }],
              depth - 1,
            );
        }
      };
      visit(chain, familyOf(table), DEPTH);
      if (!base.accept && found.length < MAX)
        found.push({
          backend: table.backend,
          family: table.family,
          table: table.name,
          chain: chain.name,
          text: `policy drop`,
          handle: 0,
          hook,
          priority: base.priority,
          action: 'drop',
          policy: true,
          when: familyOf(table),
        });
    }
  return found;
}

const isDrop = (action: string): boolean => action === 'drop' || action === 'reject';

const familyOf = (table: Table): RuleCondition[] =>
  table.family === 'inet' ? [] : [{ match: 'family', family: table.family, negated: false }];

/** Chains with a rule that drops, and those that lead to one. */
function chainsThatDrop(table: Table): Set<Chain> {
  const chains = [...table.chains.values()];
  const leading = new Set(chains.filter(({ rules }) => rules.some((rule) => rule.drops)));
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

function condition(match: Match): RuleCondition {
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
