import type { SourceNatRule } from '../../event/fact.js';
import { natRule, type SnatAction, type Table } from './model.js';
import { basesOf } from './walk.js';
import { waysFrom } from './ways.js';

/** More ways than this are not kept. */
const MAX = 200;

/**
 * Every rule of POSTROUTING that translates sources, once for each way that leads there, in the order
 * in which packets come to them; the first that a new flow meets is its rule.
 */
export function sourceNatRules(tables: readonly Table[]): SourceNatRule[] {
  return basesOf(tables, 'postrouting')
    .flatMap(({ table, chain, base }) => {
      const found: SourceNatRule[] = [];
      waysFrom(
        table,
        chain,
        ({ translates }) => translates,
        ({ chain: at, rule, decisions, when, skippable }) => {
          const action = decisions.find((one): one is SnatAction => one.do === 'snat');
          if (action)
            found.push({
              ...{ ...natRule(table, at, rule), hook: 'postrouting', priority: base.priority },
              ...{ random: action.random, ports: action.ports, when: [...when] },
              ...(skippable ? { skippable } : {}),
            });
          return found.length < MAX;
        },
      );
      return found;
    })
    .slice(0, MAX);
}
