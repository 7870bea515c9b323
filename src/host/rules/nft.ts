import { protocolNumber } from './iptables.js';
import type { Action, Chain, Hook, Match, Step, Table } from './model.js';
import { prefix, subtract, union, ANY_PORT, type RangeSet } from './ranges.js';

/* eslint-disable @typescript-eslint/no-explicit-any -- the shape of libnftables-json(5) is looked at piece by piece */
type Json = any;

const HOOKS = new Set<string>(['prerouting', 'input', 'forward', 'output', 'postrouting']);

/**
 * Reads `nft -s -j list ruleset` (libnftables-json(5)).
 * `text`: `nft -s -a list ruleset`, from which the rules' own text is taken.
 * `skip`: tables that iptables made (`family name`): nft shows their MASQUERADE without its
 * options, so they are read in iptables-save syntax.
 */
export function parseNft(json: string, text: string, skip: ReadonlySet<string>): Table[] {
  const objects = (JSON.parse(json) as { nftables: Json[] }).nftables;
  const texts = ruleTexts(text);
  const tables = new Map<string, Table>();
  const verdictMaps = new Map<string, string[]>();
  const tableOf = (family: string, name: string): Table | undefined =>
    tables.get(`${family} ${name}`);

  for (const { table, map, chain } of objects) {
    if (table && ['ip', 'ip6', 'inet'].includes(table.family)) {
      const key = `${table.family} ${table.name}`;
      if (!skip.has(key))
        tables.set(key, {
          backend: 'nft',
          family: table.family,
          name: table.name,
          chains: new Map(),
        });
    }
    if (map?.map === 'verdict')
      verdictMaps.set(`${map.family} ${map.table} ${map.name}`, targetsOf(map.elem ?? []));
    if (chain) {
      const base =
        chain.hook && HOOKS.has(chain.hook)
          ? {
              hook: chain.hook as Hook,
              priority: Number(chain.prio),
              type: chain.type,
              accept: chain.policy !== 'drop',
            }
          : null;
      tableOf(chain.family, chain.table)?.chains.set(chain.name, {
        name: chain.name,
        base,
        rules: [],
      } satisfies Chain);
    }
  }
  for (const { rule } of objects) {
    if (!rule) continue;
    const table = tableOf(rule.family, rule.table);
    const chain = table?.chains.get(rule.chain);
    if (!table || !chain) continue;
    const place = `${rule.family} ${rule.table}`;
    chain.rules.push({
      handle: rule.handle,
      text: texts.get(`${place} ${rule.chain} ${rule.handle}`) ?? JSON.stringify(rule.expr),
      steps: (rule.expr as Json[]).flatMap((expression) =>
        parseExpression(expression, (name) => verdictMaps.get(`${place} ${name}`) ?? []),
      ),
    });
  }
  return [...tables.values()];
}

/** Rules as nft prints them, by `family table chain handle`. */
function ruleTexts(listing: string): Map<string, string> {
  const texts = new Map<string, string>();
  let table = '';
  let chain = '';
  for (const line of listing.split('\n')) {
    const open = /^\t?(table \S+ \S+|chain \S+) \{/.exec(line)?.[1]?.split(' ');
    if (open?.[0] === 'table') table = `${open[1]} ${open[2]}`;
    else if (open?.[0] === 'chain') chain = open[1] ?? '';
    else {
      const rule = /^\t\t(.*) # handle (\d+)$/.exec(line);
      if (rule) texts.set(`${table} ${chain} ${rule[2]}`, rule[1] ?? '');
    }
  }
  return texts;
}

/** Chains that the verdicts of a verdict map lead to. */
function targetsOf(elements: Json[]): string[] {
  return elements.flatMap(([, verdict]: Json) => {
    const target = verdict?.jump?.target ?? verdict?.goto?.target;
    return target ? [target as string] : [];
  });
}

function parseExpression(expression: Json, mapTargets: (name: string) => string[]): Step[] {
  const [kind = '', value] = Object.entries<Json>(expression)[0] ?? [];
  switch (kind) {
    case 'match':
      return [parseMatch(value)];
    case 'mangle':
      return parseMangle(value);
    case 'masquerade':
    case 'snat':
      return [parseSnat(kind, value)];
    case 'jump':
    case 'goto':
      return [{ do: kind, targets: [value.target], sure: true }];
    case 'vmap': {
      const targets =
        typeof value.data === 'string'
          ? mapTargets(value.data.slice(1))
          : targetsOf(value.data.set ?? []);
      return [{ do: 'jump', targets, sure: false }];
    }
    case 'return':
    case 'drop':
    case 'accept':
      return [{ do: kind }];
    case 'reject':
      return [{ do: 'drop' }];
    case 'dnat':
    case 'redirect':
      return [{ do: 'accept' }];
    case 'xt':
      return [{ match: 'unknown', text: `xt ${value?.type ?? ''} ${value?.name ?? ''}`.trim() }];
    case 'limit':
    case 'quota':
    case 'ct count':
      return [{ match: 'unknown', text: kind }];
    default:
      // counter, log, notrack, set updates: they decide nothing here
      return [];
  }
}

function parseMatch({ op, left, right }: Json): Match {
  const unknown: Match = { match: 'unknown', text: JSON.stringify({ op, left, right }) };
  const negated = op === '!=';
  if (op !== '==' && op !== '!=' && op !== 'in') return compareMatch(op, left, right) ?? unknown;

  const masked = left?.['&'];
  if (isMark(left) || (isMark(masked?.[0]) && typeof masked[1] === 'number')) {
    const values = numbers(right);
    const mask = masked ? masked[1] >>> 0 : 0xffffffff;
    // `mark 0x1` without `==` on a bit field: op "in" means that one of the bits is set
    if (op === 'in') return { match: 'mark', mask: orOf(values), values: [[0, 0]], negated: true };
    return values ? { match: 'mark', mask, values, negated } : unknown;
  }
  const key = left?.meta?.key;
  switch (key) {
    case 'nfproto':
      return { match: 'family', family: right === 'ipv6' ? 'ip6' : 'ip', negated };
    case 'protocol':
      return right === 'ip' || right === 'ip6'
        ? { match: 'family', family: right, negated }
        : unknown;
    case 'oifname':
    case 'oif':
      return { match: 'oif', names: list(right).map(String), negated };
    case 'iifname':
    case 'iif':
      return { match: 'iif', names: list(right).map(String), negated };
    case 'l4proto':
      return protocolMatch(right, negated) ?? unknown;
  }
  const { protocol, field } = left?.payload ?? {};
  if (protocol === 'ip' && field === 'protocol') return protocolMatch(right, negated) ?? unknown;
  if (protocol === 'ip6' && field === 'nexthdr') return protocolMatch(right, negated) ?? unknown;
  if ((protocol === 'ip' || protocol === 'ip6') && (field === 'saddr' || field === 'daddr')) {
    const values = addresses(right);
    return values
      ? { match: field === 'saddr' ? 'source' : 'destination', values, negated }
      : unknown;
  }
  if (field === 'sport' || field === 'dport') {
    const values = numbers(right);
    return values ? { match: field, values: toRangeSet(values), negated } : unknown;
  }
  const fib = left?.fib;
  if (fib?.result === 'type' && right === 'local') {
    const flags: string[] = list(fib.flags);
    return { match: 'local', which: flags.includes('saddr') ? 'source' : 'destination', negated };
  }
  if (left?.ct?.key === 'state')
    return { match: 'ctstate', states: list(right).map((s) => String(s).toUpperCase()), negated };
  return unknown;
}

/** `<`, `<=`, `>`, `>=` on ports. */
function compareMatch(op: string, left: Json, right: Json): Match | null {
  const field = left?.payload?.field;
  if ((field !== 'sport' && field !== 'dport') || typeof right !== 'number') return null;
  const below: RangeSet = toRangeSet([[0, op === '<' || op === '>=' ? right - 1 : right]]);
  const values = op.startsWith('<') ? below : subtract(ANY_PORT, below);
  return { match: field, values, negated: false };
}

function protocolMatch(right: Json, negated: boolean): Match | null {
  const values = list(right).map((name) => protocolNumber(String(name)));
  if (values.some((value) => value === null)) return null;
  const ranges = (values as number[]).map((value): [number, number] => [value, value]);
  return { match: 'protocol', values: toRangeSet(ranges), negated };
}

function parseMangle({ key, value }: Json): Action[] {
  if (!isMark(key)) return [];
  const affine = markExpression(value);
  return affine ? [{ do: 'mark', ...affine }] : [{ do: 'mark-unknown', mask: 0xffffffff }];
}

/** An expression on the mark as (mark & and) ^ xor: constants, &, | and ^ of them; null for all else. */
function markExpression(value: Json): { and: number; xor: number } | null {
  if (typeof value === 'number') return { and: 0, xor: value >>> 0 };
  if (isMark(value)) return { and: 0xffffffff, xor: 0 };
  const [operator, operands] = Object.entries<Json>(value ?? {})[0] ?? [];
  if (!Array.isArray(operands) || operands.length !== 2) return null;
  const first = markExpression(operands[0]);
  const second = markExpression(operands[1]);
  if (!first || !second || (first.and !== 0 && second.and !== 0)) return null;
  const [inner, constant] = second.and === 0 ? [first, second.xor] : [second, first.xor];
  switch (operator) {
    case '&':
      return { and: (inner.and & constant) >>> 0, xor: (inner.xor & constant) >>> 0 };
    case '|':
      return { and: (inner.and & ~constant) >>> 0, xor: (inner.xor | constant) >>> 0 };
    case '^':
      return { and: inner.and, xor: (inner.xor ^ constant) >>> 0 };
    default:
      return null;
  }
}

function parseSnat(kind: 'masquerade' | 'snat', value: Json): Action {
  const flags: string[] = list(value?.flags ?? []);
  const port = value?.port;
  const range = typeof port === 'number' ? [port, port] : port?.range;
  return {
    do: 'snat',
    masquerade: kind === 'masquerade',
    random: flags.includes('random') || flags.includes('fully-random'),
    ports: Array.isArray(range) ? [Number(range[0]), Number(range[1])] : null,
    address: typeof value?.addr === 'string' ? value.addr : null,
  };
}

const isMark = (value: Json): boolean => value?.meta?.key === 'mark';

const list = (value: Json): Json[] =>
  Array.isArray(value) ? value : Array.isArray(value?.set) ? value.set : [value];

/** Numbers and ranges of numbers; null when something else is among them (a named set, a name). */
function numbers(value: Json): [number, number][] | null {
  const result: [number, number][] = [];
  for (const element of list(value)) {
    const range = element?.range;
    const [low, high] = typeof element === 'number' ? [element, element] : (range ?? []);
    if (typeof low === 'number' && typeof high === 'number') result.push([low, high]);
    else return null;
  }
  return result;
}

function addresses(value: Json): RangeSet | null {
  const sets: RangeSet[] = [];
  for (const element of list(value)) {
    if (typeof element === 'string') {
      const set = prefix(element)?.set;
      if (!set) return null;
      sets.push(set);
    } else if (element?.prefix) {
      const set = prefix(`${element.prefix.addr}/${element.prefix.len}`)?.set;
      if (!set) return null;
      sets.push(set);
    } else if (Array.isArray(element?.range)) {
      const low = prefix(element.range[0])?.set[0];
      const high = prefix(element.range[1])?.set[0];
      if (!low || !high) return null;
      sets.push([[low[0], high[1]]]);
    } else return null;
  }
  return union(...sets);
}

const toRangeSet = (ranges: readonly (readonly [number, number])[]): RangeSet =>
  union(...ranges.map(([low, high]): RangeSet => [[BigInt(low), BigInt(high)]]));

const orOf = (values: [number, number][] | null): number =>
  (values ?? []).reduce((bits, [low]) => (bits | low) >>> 0, 0);
