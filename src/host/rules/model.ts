import type { NatRule } from '../../event/fact.js';
import type { RangeSet } from './ranges.js';

/**
 * The rules of a namespace in one small model, whatever tool made them: tables of chains of rules,
 * each rule a row of steps. A match that fails ends its rule, an action acts or decides.
 */
export interface Table {
  backend: NatRule['backend'];
  family: NatRule['family'];
  name: string;
  chains: Map<string, Chain>;
}

export type Hook = 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';

export interface Chain {
  name: string;
  /** null for a chain that is only jumped to */
  base: { hook: Hook; priority: number; type: 'nat' | 'filter' | 'route'; accept: boolean } | null;
  rules: Rule[];
}

export interface Rule {
  /** nft handle, or the rule's number in its chain, from 1 */
  handle: number;
  /** as the rule's own tool prints it */
  text: string;
  /** may be worked out when first asked for: most rules of a node are never walked through */
  readonly steps: readonly Step[];
  /** chains that it may lead to */
  readonly targets: readonly string[];
  /** it may change the mark */
  readonly marks: boolean;
  /** it may drop or reject a packet */
  readonly drops: boolean;
  /** it may translate a packet's source */
  readonly translates: boolean;
}

export type Step = Match | Action;

/** Fields of a packet whose possible values are a set of whole numbers. */
export type Field = 'source' | 'destination' | 'protocol' | 'sport' | 'dport';

export type Match =
  | { match: 'mark'; mask: number; values: [number, number][]; negated: boolean }
  | { match: Field; values: RangeSet; negated: boolean }
  /** names end in `+` or `*` where any continuation is meant */
  | { match: 'oif' | 'iif'; names: string[]; negated: boolean }
  | { match: 'family'; family: 'ip' | 'ip6'; negated: boolean }
  /** the address is one of this node's own */
  | { match: 'local'; which: 'source' | 'destination'; negated: boolean }
  | { match: 'ctstate'; states: string[]; negated: boolean }
  | { match: 'unknown'; text: string };

export type Action =
  /** mark = (mark & and) ^ xor */
  | { do: 'mark'; and: number; xor: number }
  /** these bits come from elsewhere (a conntrack mark, a map) */
  | { do: 'mark-unknown'; mask: number }
  | {
      do: 'snat';
      masquerade: boolean;
      /** --random or --random-fully: the kernel always picks another port (get_unique_tuple, NF_NAT_RANGE_PROTO_RANDOM_ALL) */
      random: boolean;
      ports: [number, number] | null;
      /** the new source address; null: the outgoing device's, or not known */
      address: string | null;
    }
  /**
   * sure: every packet that comes here goes to (the one) target; else to some of them or to none.
   * drops: what a verdict map drops, when it does
   */
  | { do: 'jump' | 'goto'; targets: string[]; sure: boolean; drops?: Match }
  | { do: 'return' | 'accept' | 'drop' | 'reject' };

export type SnatAction = Extract<Action, { do: 'snat' }>;

export const isMatch = (step: Step): step is Match => 'match' in step;

/** The rule with where it stands, as facts and findings name it. */
export function natRule(table: Table, chain: Chain, rule: Rule): NatRule {
  const { backend, family, name } = table;
  return { backend, family, table: name, chain: chain.name, text: rule.text, handle: rule.handle };
}

/** One string per rule, to tell two apart. */
export const ruleKey = (rule: NatRule): string =>
  `${rule.backend} ${rule.family} ${rule.table} ${rule.chain} ${rule.handle}`;

/** Does the table see packets of this family? */
export const concerns = (table: Table, family: 'ip' | 'ip6'): boolean =>
  table.family === 'inet' || table.family === family;
