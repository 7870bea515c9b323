import type { NatRule } from '../../event/fact.js';
import {
  concerns,
  isMatch,
  natRule,
  type Action,
  type Chain,
  type Field,
  type Hook,
  type Match,
  type Rule,
  type SnatAction,
  type Table,
} from './model.js';
import { intersect, subtract, type RangeSet } from './ranges.js';

/** What is known of a packet that enters a hook; an unknown field has all its possible values. */
export interface AbstractPacket {
  family: 'ip' | 'ip6';
  mark: number;
  fields: Readonly<Record<Field, RangeSet>>;
  /** names of the device it leaves through; null: not known */
  oif: string | null;
  /** sent by a socket or a tunnel of this node; null: may be either */
  local: boolean | null;
  /** its destination may have been translated: a Service's packet */
  translated: boolean;
  /** fields that have one value on this node which is not known: narrowing one is an assumption */
  guessed: readonly Field[];
}

/** A packet on one way through the rules. */
export interface State {
  packet: AbstractPacket;
  /** mark bits that came from elsewhere */
  unknownBits: number;
  /** the source NAT it met: nat chains are not asked again */
  snat: { rule: NatRule; action: SnatAction } | null;
  /** rules that changed the mark, in order */
  marked: NatRule[];
  /** conditions that the rules alone do not answer, as the rules print them */
  assumes: string[];
}

/** The chains of a hook in the kernel's order. */
export function basesOf(
  tables: readonly Table[],
  hook: Hook,
): { table: Table; chain: Chain; base: NonNullable<Chain['base']> }[] {
  return tables
    .flatMap((table) =>
      [...table.chains.values()].flatMap((chain) =>
        chain.base?.hook === hook ? [{ table, chain, base: chain.base }] : [],
      ),
    )
    .sort((a, b) => a.base.priority - b.base.priority);
}

/** What is seen on the way, for those who want to tell. */
export type Watcher = (rule: NatRule, action: SnatAction, state: State) => void;

export const enter = (packet: AbstractPacket): State => ({
  packet,
  unknownBits: 0,
  snat: null,
  marked: [],
  assumes: [],
});

/** More ways than this through one chain are thinned out to those that differ in mark and NAT. */
const WAYS = 128;
/** nf_tables allows 16 levels of jumps (NFT_JUMP_STACK_SIZE) */
const DEPTH = 16;

/**
 * Walks packets through every chain of a hook, in the kernel's order, exploring a condition that
 * is not known both ways. Gives the states of the packets that come out (a dropped one does not).
 */
export function walkHook(
  tables: readonly Table[],
  hook: Hook,
  states: readonly State[],
  options: { skipNat?: boolean; watch?: Watcher } = {},
): State[] {
  let current = [...states];
  for (const { table, chain, base } of basesOf(tables, hook)) {
    if (base.type === 'nat' && options.skipNat) continue;
    const enters = (state: State): boolean =>
      concerns(table, state.packet.family) && !(base.type === 'nat' && state.snat);
    const outside = current.filter((state) => !enters(state));
    const { returned, accepted } = walkChain(
      table,
      chain,
      current.filter(enters),
      options.watch,
      DEPTH,
    );
    current = thin([...outside, ...accepted, ...(base.accept ? returned : [])]);
  }
  return current;
}

interface Ways {
  returned: State[];
  accepted: State[];
}

function walkChain(
  table: Table,
  chain: Chain,
  states: State[],
  watch: Watcher | undefined,
  depth: number,
): Ways {
  let current = states;
  const accepted: State[] = [];
  const returned: State[] = [];
  for (const rule of chain.rules) {
    if (current.length === 0) break;
    const next: State[] = [];
    const jumping = new Map<Action & { do: 'jump' | 'goto' }, State[]>();
    for (const state of current) {
      for (const way of throughRule(table, chain, rule, state, watch)) {
        const { decision } = way;
        if (decision === null) next.push(way.state);
        else if (decision.do === 'return') returned.push(way.state);
        else if (decision.do === 'accept' || decision.do === 'snat') accepted.push(way.state);
        else if (decision.do === 'jump' || decision.do === 'goto') {
          const list = jumping.get(decision);
          if (list) list.push(way.state);
          else jumping.set(decision, [way.state]);
        }
      }
    }
    for (const [decision, jumpers] of jumping) {
      if (!decision.sure || depth === 0) next.push(...jumpers);
      for (const name of depth === 0 ? [] : decision.targets) {
        const target = table.chains.get(name);
        if (!target) continue;
        const there = decision.sure
          ? jumpers
          : jumpers.map((state) => assume(state, `${rule.text} → ${name}`));
        const ways = walkChain(table, target, thin(there), watch, depth - 1);
        accepted.push(...ways.accepted);
        (decision.do === 'jump' ? next : returned).push(...ways.returned);
      }
    }
    current = next.length > current.length ? thin(next) : next;
  }
  return { returned: thin([...returned, ...current]), accepted: thin(accepted) };
}

/** A state after a rule: null when the next rule is asked. */
interface Way {
  state: State;
  decision: Exclude<Action, { do: 'mark' | 'mark-unknown' | 'drop' | 'reject' }> | null;
}

function throughRule(
  table: Table,
  chain: Chain,
  rule: Rule,
  entering: State,
  watch: Watcher | undefined,
): Way[] {
  const ways: Way[] = [];
  let current = [entering];
  for (const step of rule.steps) {
    if (isMatch(step)) {
      const matching: State[] = [];
      for (const state of current) {
        const { yes, no } = test(step, state);
        matching.push(...yes);
        ways.push(...no.map((other) => ({ state: other, decision: null })));
      }
      current = matching;
    } else if (step.do === 'mark' || step.do === 'mark-unknown') {
      const by = natRule(table, chain, rule);
      current = current.map((state) => remark(state, step, by));
    } else if (step.do === 'drop' || step.do === 'reject') return ways;
    else if (step.do === 'snat') {
      const by = natRule(table, chain, rule);
      for (const state of current) {
        watch?.(by, step, state);
        ways.push({ state: { ...state, snat: { rule: by, action: step } }, decision: step });
      }
      return ways;
    } else {
      ways.push(...current.map((state) => ({ state, decision: step })));
      return ways;
    }
    if (current.length === 0) return ways;
  }
  ways.push(...current.map((state) => ({ state, decision: null })));
  return ways;
}

interface Answer {
  yes: State[];
  no: State[];
}

function test(match: Match, state: State): Answer {
  const { packet } = state;
  const sure = (matches: boolean, negated: boolean): Answer =>
    matches !== negated ? { yes: [state], no: [] } : { yes: [], no: [state] };
  // an unread condition that holds is an assumption; that it does not is the ordinary case
  const either = (text: string | null): Answer => ({
    yes: [text === null ? state : assume(state, text)],
    no: [state],
  });
  switch (match.match) {
    case 'mark': {
      const known = match.mask & ~state.unknownBits;
      const inRange = (bits: number): boolean =>
        match.values.some(([low, high]) => bits >= low && bits <= high);
      if ((match.mask & state.unknownBits) === 0)
        return sure(inRange((packet.mark & match.mask) >>> 0), match.negated);
      const possible = match.values.some(
        ([low, high]) => low !== high || ((low ^ packet.mark) & known) === 0,
      );
      return possible ? either(null) : sure(false, match.negated);
    }
    case 'oif':
      if (packet.oif === null)
        return either(`${match.negated ? 'not ' : ''}out of ${match.names.join(', ')}`);
      return sure(
        match.names.some((name) => sameDevice(name, packet.oif ?? '')),
        match.negated,
      );
    case 'iif':
      if (packet.local === true) return sure(false, match.negated);
      return either(null);
    case 'family':
      return sure(match.family === packet.family, match.negated);
    case 'local':
      if (match.which === 'destination') return sure(false, match.negated);
      return packet.local === null ? either(null) : sure(packet.local, match.negated);
    case 'ctstate':
      // nat rules are asked for the first packet of a connection only
      if (match.states.includes('NEW')) return sure(true, match.negated);
      if (packet.translated && match.states.includes('DNAT')) return either(null);
      return sure(false, match.negated);
    case 'unknown':
      return either(match.text);
    default: {
      const values = packet.fields[match.match];
      const inside = intersect(values, match.values);
      if (inside.length === 0) return sure(false, match.negated);
      const outside = subtract(values, match.values);
      if (outside.length === 0) return sure(true, match.negated);
      const narrowed = (set: RangeSet): State[] => [
        { ...state, packet: { ...packet, fields: { ...packet.fields, [match.match]: set } } },
      ];
      // to be inside is the special case that a guessed field needs luck for
      const guess = packet.guessed.includes(match.match);
      const within = narrowed(inside).map((one) =>
        guess ? assume(one, "a tunnel peer's address is among those the rule names") : one,
      );
      return match.negated
        ? { yes: narrowed(outside), no: within }
        : { yes: within, no: narrowed(outside) };
    }
  }
}

const assume = (state: State, text: string): State =>
  state.assumes.includes(text) ? state : { ...state, assumes: [...state.assumes, text] };

/** `eth+` (iptables) and `eth*` (nft) mean every name that begins so. */
const sameDevice = (pattern: string, name: string): boolean =>
  /[+*]$/.test(pattern) ? name.startsWith(pattern.slice(0, -1)) : pattern === name;

function remark(state: State, step: Action & { do: 'mark' | 'mark-unknown' }, by: NatRule): State {
  const marked = [...state.marked, by];
  if (step.do === 'mark-unknown')
    return { ...state, unknownBits: (state.unknownBits | step.mask) >>> 0, marked };
  const mark = ((state.packet.mark & step.and) ^ step.xor) >>> 0;
  return {
    ...state,
    packet: { ...state.packet, mark },
    unknownBits: (state.unknownBits & step.and) >>> 0,
    marked,
  };
}

/** Leaves out states that another one stands for; when there are too many, the least assumed ones of each kind stay. */
function thin(states: State[]): State[] {
  if (states.length < 2) return states;
  const kept = new Map<string, State>();
  for (const state of states) {
    const key = kind(state) + fieldsKey(state);
    const other = kept.get(key);
    if (!other || other.assumes.length > state.assumes.length) kept.set(key, state);
  }
  if (kept.size <= WAYS) return [...kept.values()];
  const kinds = new Map<string, State>();
  for (const state of kept.values()) {
    const other = kinds.get(kind(state));
    if (!other || other.assumes.length > state.assumes.length) kinds.set(kind(state), state);
  }
  return [...kinds.values()];
}

const kind = ({ packet, unknownBits, snat, marked }: State): string =>
  [
    packet.mark,
    unknownBits,
    snat ? `${snat.rule.table} ${snat.rule.chain} ${snat.rule.handle}` : '',
    marked.length,
  ].join(' ');

const fieldsKey = ({ packet }: State): string =>
  Object.values(packet.fields)
    .map((set) => set.map(([low, high]) => `${low}-${high}`).join(','))
    .join(';');
