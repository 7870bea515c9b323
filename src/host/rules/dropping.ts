import type { DroppingRule } from '../../event/fact.js';
import { natRule, type Action, type Chain, type Hook, type Rule, type Table } from './model.js';
import { basesOf } from './walk.js';
import { condition, familyOf, unsure, waysFrom } from './ways.js';

const HOOKS: readonly Hook[] = ['prerouting', 'input', 'forward', 'output', 'postrouting'];
/** More ways than this are not kept: a fact is no place for a whole firewall. */
const MAX = 400;

/**
 * Every rule that drops or rejects packets and every chain whose policy does, once for each way that
 * leads there, in the order in which packets come to them.
 */
export function droppingRules(tables: readonly Table[]): DroppingRule[] {
  return HOOKS.flatMap((hook) =>
    basesOf(tables, hook).flatMap(({ table, chain, base }) => {
      const found: DroppingRule[] = [];
      const where = { hook, priority: base.priority };
      waysFrom(
        table,
        chain,
        ({ drops }) => drops,
        ({ chain: at, rule, decisions, when, skippable }) => {
          const action = dropOf(decisions);
          const mapped = decisions.flatMap((one) => ('drops' in one ? one.drops : []))[0];
          const last = action ? [] : mapped ? [condition(mapped)] : [unsure(rule)];
          found.push({
            ...{ ...natRule(table, at, rule), ...where, action: action ?? 'drop' },
            ...(skippable ? { skippable } : {}),
            when: [...when, ...last],
          });
          return found.length < MAX;
        },
      );
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
