import type { MasqueradeRule, NatRule, NoSnatPath, SnatPath } from '../../event/fact.js';
import {
  concerns,
  isMatch,
  natRule,
  ruleKey,
  type Action,
  type Chain,
  type Rule,
  type SnatAction,
  type Table,
} from './model.js';
import { ANY_PORT, anyAddress, only, prefix, union, type RangeSet } from './ranges.js';
import { basesOf, enter, walkHook, type AbstractPacket, type State, type Watcher } from './walk.js';

/** A tunnel as far as rules can tell its packets apart. */
export interface TunnelEnd {
  device: string;
  /** device the inner packet is routed to: the tunnel, or the bridge it is a port of */
  via: string;
  /** destinations routed there; empty: not known */
  destinations: string[];
  local: string | null;
  /** addresses of the peers; empty: not known */
  peers: string[];
  family: 'ip' | 'ip6';
  port: number;
  sourcePorts: [number, number];
  /** name of the underlay device; null: not known */
  underlay: string | null;
  /** the address masquerading takes on the underlay; null: not known */
  underlayAddress: string | null;
}

/** What rules do with packets that leave through tunnels. */
export interface Judgement {
  marking: (NatRule & { value: number; mask: number })[];
  masquerade: MasqueradeRule[];
  paths: SnatPath[];
  spared: NoSnatPath[];
}

const TCP_OR_UDP: RangeSet = union(only(6), only(17));
const UDP: RangeSet = only(17);

/**
 * Walks, for every tunnel, a packet with every mark that a rule can set through POSTROUTING, and
 * what comes out of it, as the outer packet, through POSTROUTING again.
 */
export function judge(tables: readonly Table[], tunnels: readonly TunnelEnd[]): Judgement {
  const marking = markingRules(tables);
  const reached = new Map<string, Reached>();
  const { paths, spared } = findPaths(tables, tunnels, marking, reached);
  const masquerade = inOrder(tables, [...reached.values()].map(masqueradeRule));
  // rules that only marked packets come to
  const forMark = new Set(masquerade.filter(({ mark }) => mark).map(ruleKey));
  const cleared = clearingAt(tables, paths, forMark);
  const left =
    paths.length > 0 ? findPaths(cleared, tunnels, marking, new Map()).paths.map(pathKey) : [];
  return {
    marking,
    masquerade,
    paths: paths.map((path) => ({
      ...path,
      masqueradeFirst: path.first !== null && path.mark !== 0 && !forMark.has(ruleKey(path.first)),
      curedByClearing: path.mark !== 0 && !left.includes(pathKey(path)),
    })),
    spared,
  };
}

const pathKey = (path: SnatPath): string =>
  [
    path.tunnel,
    path.innerFamily,
    path.mark,
    path.first ? ruleKey(path.first) : '',
    ruleKey(path.second),
  ].join('|');

type Marking = NatRule & { value: number; mask: number };

/** Rules that set a mark and that a packet can come to. */
function markingRules(tables: readonly Table[]): Marking[] {
  const result: Marking[] = [];
  for (const table of tables)
    for (const chain of reachable(table))
      for (const rule of chain.rules)
        for (const step of rule.marks ? rule.steps : [])
          // what toggles a bit in place (--xor-mark) takes a mark away rather than giving one
          if (!isMatch(step) && step.do === 'mark' && (step.xor & ~step.and) !== 0)
            result.push({
              ...natRule(table, chain, rule),
              value: step.xor,
              mask: ~step.and >>> 0,
            });
  return result;
}

/** Chains that a packet can come to from a hook (of those, when `hook` is given). */
function reachable(table: Table, hook?: string): Set<Chain> {
  const todo = [...table.chains.values()].filter(
    ({ base }) => base && (hook === undefined || base.hook === hook),
  );
  const seen = new Set(todo);
  for (const chain of todo)
    for (const { targets } of chain.rules)
      for (const name of targets) {
        const target = table.chains.get(name);
        if (target && !seen.has(target)) {
          seen.add(target);
          todo.push(target);
        }
      }
  return seen;
}

/** Marks worth trying on packets of a family, with the rules that set them; 0 is one. */
function startMarks(
  tables: readonly Table[],
  marking: readonly Marking[],
  family: 'ip' | 'ip6',
): Map<number, NatRule[]> {
  const marks = new Map<number, NatRule[]>([[0, []]]);
  for (const { value, mask: _mask, ...rule } of marking) {
    if (rule.family !== 'inet' && rule.family !== family) continue;
    marks.set(value, [...(marks.get(value) ?? []), rule]);
  }
  // a mark that rules ask for and none sets may come from a program
  const asked = tables
    .filter((table) => concerns(table, family))
    .flatMap((table) => [...reachable(table, 'postrouting')])
    .flatMap((chain) => chain.rules.flatMap((rule) => rule.steps));
  for (const step of asked)
    if (isMatch(step) && step.match === 'mark')
      for (const [low] of step.values) {
        const tested = low !== 0 ? low : step.mask === 0xffffffff ? 0 : step.mask;
        const set = [...marks.keys()].some((mark) => (mark & step.mask) >>> 0 === tested);
        if (!set) marks.set(tested, []);
      }
  return marks;
}

interface Found {
  paths: SnatPath[];
  spared: NoSnatPath[];
}

function findPaths(
  tables: readonly Table[],
  tunnels: readonly TunnelEnd[],
  marking: readonly Marking[],
  masquerade: Map<string, Reached>,
): Found {
  const paths = new Map<string, SnatPath>();
  const spared: NoSnatPath[] = [];
  for (const tunnel of tunnels) {
    const why = new Reasons(tunnel.device);
    let doubled = false;
    const watch =
      (mark: number): Watcher =>
      (rule, action, state) =>
        noteMasquerade(masquerade, rule, action, state, mark);
    // an outer packet's way depends on the mark alone
    const outerWays = new Map<number, State[]>();
    const outerOf = (mark: number): State[] => {
      const known = outerWays.get(mark);
      if (known) return known;
      const states = outerStates(tables, tunnel, mark, watch(mark));
      outerWays.set(mark, states);
      return states;
    };
    const unmarkedOuter = new Set(
      outerOf(0).flatMap(({ snat }) => (snat ? [ruleKey(snat.rule)] : [])),
    );
    for (const family of ['ip', 'ip6'] as const)
      for (const [mark, setters] of startMarks(tables, marking, family)) {
        const inner = innerStates(tables, tunnel, family, mark, watch(mark));
        for (const state of inner) {
          if (state.snat) why.note('outer-not-masqueraded', null);
          const surviving = state.packet.mark;
          const cleared = state.marked.at(-1) ?? null;
          if (mark !== 0 && (surviving & mark) === 0 && state.snat)
            why.note('mark-cleared', cleared);
          for (const outer of outerOf(surviving)) {
            if (!outer.snat) continue;
            const changes = whatChanges(outer.snat.action, tunnel);
            if (!changes) {
              why.note('outer-unchanged', outer.snat.rule);
              continue;
            }
            const needsMark = !unmarkedOuter.has(ruleKey(outer.snat.rule));
            if (needsMark && surviving === 0) continue;
            // without a mark one way is enough: the packet that no rule touched
            if (!needsMark && (mark !== 0 || state.snat)) continue;
            doubled = true;
            const path: SnatPath = {
              tunnel: tunnel.device,
              innerFamily: family,
              outerFamily: tunnel.family,
              mark: needsMark ? mark : 0,
              marking: needsMark
                ? setters.length > 0
                  ? setters
                  : state.marked.filter(() => mark === 0)
                : [],
              first: needsMark ? (state.snat?.rule ?? null) : null,
              second: outer.snat.rule,
              changes,
              clearing: needsMark ? clearingRule(tables, mark, outer.snat.rule) : null,
              masqueradeFirst: false,
              curedByClearing: false,
              assumes: [...new Set([...state.assumes, ...outer.assumes])],
            };
            if (needsMark && mark !== 0 && setters.length === 0)
              path.assumes = [
                ...path.assumes,
                `something other than these rules sets mark 0x${mark.toString(16)}`,
              ];
            const other = paths.get(pathKey(path));
            if (!other || other.assumes.length > path.assumes.length)
              paths.set(pathKey(path), path);
          }
        }
      }
    if (!doubled) spared.push(why.strongest());
  }
  return {
    paths: [...paths.values()].sort(
      (a, b) =>
        a.assumes.length - b.assumes.length || Number(b.first !== null) - Number(a.first !== null),
    ),
    spared,
  };
}

/** The most telling reason why a tunnel's outer packets are left alone. */
class Reasons {
  private static readonly ORDER = [
    'no-masquerade',
    'outer-not-masqueraded',
    'mark-cleared',
    'outer-unchanged',
  ] as const;
  private best: NoSnatPath;

  constructor(tunnel: string) {
    this.best = { tunnel, reason: 'no-masquerade', rule: null };
  }

  note(reason: NoSnatPath['reason'], rule: NatRule | null): void {
    if (Reasons.ORDER.indexOf(reason) > Reasons.ORDER.indexOf(this.best.reason))
      this.best = { tunnel: this.best.tunnel, reason, rule };
  }

  strongest(): NoSnatPath {
    return this.best;
  }
}

function innerStates(
  tables: readonly Table[],
  tunnel: TunnelEnd,
  family: 'ip' | 'ip6',
  mark: number,
  watch: Watcher,
): State[] {
  const routed = tunnel.destinations.flatMap((text) => {
    const parsed = prefix(text);
    return parsed?.family === family ? [parsed.set] : [];
  });
  // routes of the other family only: no such packet goes into this tunnel
  if (tunnel.destinations.length > 0 && routed.length === 0) return [];
  const packet: AbstractPacket = {
    family,
    mark,
    fields: {
      source: anyAddress(family),
      destination: routed.length > 0 ? union(...routed) : anyAddress(family),
      protocol: TCP_OR_UDP,
      sport: ANY_PORT,
      dport: ANY_PORT,
    },
    oif: tunnel.via,
    local: null,
    translated: true,
    guessed: [],
  };
  return walkHook(tables, 'postrouting', [enter(packet)], { watch });
}

/** The outer packet: UDP from this node, through OUTPUT (where only marks can change) and POSTROUTING. */
function outerStates(
  tables: readonly Table[],
  tunnel: TunnelEnd,
  mark: number,
  watch: Watcher,
): State[] {
  const { family } = tunnel;
  const source = prefix(tunnel.local ?? tunnel.underlayAddress ?? '')?.set;
  const peers = union(tunnel.peers.flatMap((peer) => prefix(peer)?.set ?? []));
  const [low, high] = tunnel.sourcePorts;
  const packet: AbstractPacket = {
    family,
    mark,
    fields: {
      source: source ?? anyAddress(family),
      destination: peers.length > 0 ? peers : anyAddress(family),
      protocol: UDP,
      sport: [[BigInt(low), BigInt(high)]],
      dport: only(tunnel.port),
    },
    oif: tunnel.underlay,
    local: true,
    translated: false,
    guessed: peers.length > 0 ? [] : ['destination'],
  };
  const sent = walkHook(tables, 'output', [enter(packet)], { skipNat: true });
  return walkHook(tables, 'postrouting', sent, { watch });
}

/** What of the outer packet a source NAT rule changes; null: nothing, the tuple is free and is kept (get_unique_tuple in nf_nat_core.c). */
function whatChanges(action: SnatAction, tunnel: TunnelEnd): SnatPath['changes'] | null {
  if (action.random) return 'port';
  if (action.ports) {
    const [low, high] = action.ports;
    const [first, last] = tunnel.sourcePorts;
    if (low > first || high < last) return 'port';
  }
  const source = tunnel.local ?? tunnel.underlayAddress;
  const to = action.masquerade ? tunnel.underlayAddress : action.address;
  return source !== null && to !== null && !sameAddress(source, to) ? 'address' : null;
}

function sameAddress(a: string, b: string): boolean {
  return prefix(a)?.set[0]?.[0] === prefix(b)?.set[0]?.[0];
}

/** A rule of POSTROUTING that takes the mark away on the way to `second`. */
function clearingRule(tables: readonly Table[], mark: number, second: NatRule): NatRule | null {
  if (mark === 0) return null;
  for (const table of tables)
    for (const chain of reachable(table, 'postrouting'))
      for (const rule of chain.rules)
        for (const step of rule.marks ? rule.steps : [])
          if (!isMatch(step) && step.do === 'mark') {
            const after = ((mark & step.and) ^ step.xor) >>> 0;
            if ((after & mark) === 0 && table.name === second.table)
              return natRule(table, chain, rule);
          }
  return null;
}

/** The tables as they would be if every rule that masquerades for a mark cleared it first, as kube-proxy does since kubernetes PR 92035. */
function clearingAt(
  tables: readonly Table[],
  paths: readonly SnatPath[],
  forMark: ReadonlySet<string>,
): Table[] {
  const marks = new Map<string, number>();
  for (const { first, second, mark } of paths)
    for (const rule of [first, second])
      if (rule && forMark.has(ruleKey(rule)))
        marks.set(ruleKey(rule), (marks.get(ruleKey(rule)) ?? 0) | mark);
  const clearing = (rule: Rule, mark: number | undefined): Rule => {
    if (!mark) return rule;
    const clear: Action = { do: 'mark', and: ~mark >>> 0, xor: 0 };
    const at = rule.steps.findIndex((step) => !isMatch(step) && step.do === 'snat');
    const { text, handle, targets, steps } = rule;
    const { drops, translates } = rule;
    const cleared = steps.toSpliced(at, 0, clear);
    return { text, handle, targets, marks: true, drops, translates, steps: cleared };
  };
  const places = new Set(
    paths.flatMap(({ first, second }) => [first, second].map((rule) => rule?.chain)),
  );
  return tables.map((table) => ({
    ...table,
    chains: new Map(
      [...table.chains].map(([name, chain]) => [
        name,
        places.has(name)
          ? {
              ...chain,
              rules: chain.rules.map((rule) =>
                clearing(rule, marks.get(ruleKey(natRule(table, chain, rule)))),
              ),
            }
          : chain,
      ]),
    ),
  }));
}

/** How packets came to a masquerade rule. */
interface Reached {
  rule: NatRule;
  action: SnatAction;
  unmarked: boolean;
  /** start marks with which it was reached, and whether they were still borne there */
  marks: Map<number, boolean>;
}

function noteMasquerade(
  rules: Map<string, Reached>,
  rule: NatRule,
  action: SnatAction,
  state: State,
  mark: number,
): void {
  const key = ruleKey(rule);
  let reached = rules.get(key);
  if (!reached) rules.set(key, (reached = { rule, action, unmarked: false, marks: new Map() }));
  if (mark === 0) reached.unmarked = true;
  else {
    const borne = (state.packet.mark & mark) !== 0;
    reached.marks.set(mark, borne || (reached.marks.get(mark) ?? false));
  }
}

function masqueradeRule({ rule, action, unmarked, marks }: Reached): MasqueradeRule {
  const common = [...marks.keys()].reduce((bits, mark) => (bits & mark) >>> 0, 0xffffffff);
  return {
    ...rule,
    randomFully: action.random || action.ports !== null,
    mark: unmarked || marks.size === 0 ? null : { value: common, mask: common },
    clearsMark: marks.size > 0 && ![...marks.values()].includes(true),
  };
}

/** Rules in the order in which a packet would come to them. */
function inOrder(tables: readonly Table[], rules: MasqueradeRule[]): MasqueradeRule[] {
  const order = new Map<string, number>();
  const visit = (table: Table, chain: Chain, seen: readonly Chain[]): void => {
    for (const rule of chain.rules) {
      const key = ruleKey(natRule(table, chain, rule));
      if (!order.has(key)) order.set(key, order.size);
      for (const name of rule.targets) {
        const target = table.chains.get(name);
        if (target && !seen.includes(target)) visit(table, target, [...seen, target]);
      }
    }
  };
  for (const { table, chain } of basesOf(tables, 'postrouting')) visit(table, chain, [chain]);
  const at = (rule: NatRule): number => order.get(ruleKey(rule)) ?? order.size;
  return rules.sort((a, b) => at(a) - at(b));
}
