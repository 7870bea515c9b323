import type { DroppingRule, RuleCondition } from '../../event/fact.js';
import {
  isMatch,
  natRule,
  type Action,
  type Chain,
  type Hook,
  type Match,
  type Rule,
  type Table,
} from './model.js';
import { basesOf } from './walk.js';

const HOOKS: readonly Hook[] = ['prerouting', 'input', 'forward', 'output', 'postrouting'];
/** More ways than this are not kept: a fact is no place for a whole firewall. */
const MAX = 400;
/** nf_tables allows 16 levels of jumps (NFT_JUMP_STACK_SIZE) */
const DEPTH = 16;

/** Where a walk stands: the conditions so far, and whether a rule before may have led around it. */
interface Way {
  when: readonly RuleCondition[];
  skippable: boolean;
  depth: number;
}

/**
 * Every rule that drops or rejects packets and every chain whose policy does, once for each way that
 * leads there, in the order in which packets come to them.
 */
export function droppingRules(tables: readonly Table[]): DroppingRule[] {
  return HOOKS.flatMap((hook) =>
    basesOf(tables, hook).flatMap(({ table, chain, base }) => {
      const found: DroppingRule[] = [];
      const leading = chainsThatDrop(table);
      const where = { hook, priority: base.priority };
      const visit = (at: Chain, way: Way): void => {
        let { skippable } = way;
        for (const rule of leading.has(at) ? at.rules : []) {
          if (found.length >= MAX || way.depth === 0) return;
          const decisions = rule.steps.filter((step): step is Action => !isMatch(step));
          // what another rule leads to may return as well
          if (decisions.some(({ do: does }) => does === 'return' || does === 'goto'))
            skippable = true;
          const targets = rule.targets.flatMap((name) => table.chains.get(name) ?? []);
          if (!rule.drops && !targets.some((target) => leading.has(target))) continue;
          const when = [...way.when, ...rule.steps.filter(isMatch).map(condition)];
          const unsure: RuleCondition[] = [...when, { match: 'unknown', text: rule.text }];
          const flag = skippable ? { skippable } : {};
          if (rule.drops) {
            const action = dropOf(decisions);
            const mapped = decisions.flatMap((one) => ('drops' in one ? one.drops : []))[0];
            found.push({
              ...{ ...natRule(table, at, rule), ...where, action: action ?? 'drop', ...flag },
              when: action ? when : mapped ? [...when, condition(mapped)] : unsure,
            });
          }
          const sure = decisions.some((action) => 'sure' in action && action.sure);
          for (const target of targets)
            visit(target, { when: sure ? when : unsure, skippable, depth: way.depth - 1 });
        }
      };
      visit(chain, { when: familyOf(table), skippable: false, depth: DEPTH });
      if (!base.accept) found.push({ ...policyOf(table, chain), ...where });
      return found;
    }),
  ).slice(0, MAX);
}

function policyOf(table: Table, chain: Chain) {
  const rule: Pick<Rule, 'text' | 'handle'> = { text: 'policy drop', handle: 0 };
  return {
    ...natRule(table, chain, rule as Rule),
    ...{ action: 'drop' as const, policy: true as const, when: familyOf(table) },
  };
}

/** What a rule that surely decides does; null when its decision is one among others (a verdict map). */
function dropOf(decisions: readonly Action[]): 'drop' | 'reject' | null {
  for (const { do: does } of decisions) if (does === 'drop' || does === 'reject') return does;
  return null;
}

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
