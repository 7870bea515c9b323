import { protocolNumber } from './iptables.js';
import {
  isMatch,
  type Action,
  type Chain,
  type Hook,
  type Match,
  type Step,
  type Table,
} from './model.js';
import { ANY_PORT, prefix, subtract, union, type RangeSet } from './ranges.js';

const HOOKS: Readonly<Record<string, Hook>> = {
  prerouting: 'prerouting',
  input: 'input',
  forward: 'forward',
  output: 'output',
  postrouting: 'postrouting',
};
const FAMILIES: Readonly<Record<string, Table['family']>> = { ip: 'ip', ip6: 'ip6', inet: 'inet' };
const TYPES: Readonly<Record<string, 'nat' | 'filter' | 'route'>> = {
  nat: 'nat',
  filter: 'filter',
  route: 'route',
};

/**
 * Reads `nft -s -j list ruleset` (libnftables-json(5)).
 * `text`: `nft -s -a list ruleset`, from which the rules' own text is taken.
 * `skip`: tables that iptables made (`family name`): nft shows their MASQUERADE without its
 * options, so they are read in iptables-save syntax.
 */
export function parseNft(json: string, text: string, skip: ReadonlySet<string>): Table[] {
  const objects = list(get(JSON.parse(json), 'nftables'));
  const texts = ruleTexts(text);
  const tables = new Map<string, Table>();
  const verdictMaps = new Map<string, string[]>();
  const place = (object: unknown): string =>
    `${string(get(object, 'family'))} ${string(get(object, 'table'))}`;

  for (const entry of objects) {
    const table = get(entry, 'table');
    const map = get(entry, 'map');
    const chain = get(entry, 'chain');
    if (isObject(table)) {
      const family = FAMILIES[string(get(table, 'family'))];
      const name = string(get(table, 'name'));
      if (family && !skip.has(`${family} ${name}`))
        tables.set(`${family} ${name}`, { backend: 'nft', family, name, chains: new Map() });
    } else if (isObject(map) && get(map, 'map') === 'verdict')
      verdictMaps.set(
        `${place(map)} ${string(get(map, 'name'))}`,
        verdictTargets(list(get(map, 'elem') ?? [])),
      );
    else if (isObject(chain)) {
      const name = string(get(chain, 'name'));
      tables.get(place(chain))?.chains.set(name, { name, base: baseOf(chain), rules: [] });
    }
  }
  for (const entry of objects) {
    const rule = get(entry, 'rule');
    const chain = tables.get(place(rule))?.chains.get(string(get(rule, 'chain')));
    if (!chain) continue;
    const handle = Number(get(rule, 'handle'));
    const expressions = list(get(rule, 'expr'));
    const steps = expressions.flatMap((expression) =>
      parseExpression(expression, (name) => verdictMaps.get(`${place(rule)} ${name}`) ?? []),
    );
    const actions = steps.flatMap((step) => (isMatch(step) ? [] : [step]));
    chain.rules.push({
      handle,
      text: texts.get(`${place(rule)} ${chain.name} ${handle}`) ?? JSON.stringify(expressions),
      steps,
      targets: actions.flatMap((action) => ('targets' in action ? action.targets : [])),
      marks: actions.some((action) => action.do === 'mark' || action.do === 'mark-unknown'),
      // a verdict map may drop too
      drops: /"(drop|reject)":/.test(JSON.stringify(expressions)),
      translates: actions.some((action) => action.do === 'snat'),
    });
  }
  return [...tables.values()];
}

function baseOf(chain: unknown): Chain['base'] {
  const hook = HOOKS[string(get(chain, 'hook'))];
  if (!hook) return null;
  return {
    hook,
    priority: Number(get(chain, 'prio')),
    type: TYPES[string(get(chain, 'type'))] ?? 'filter',
    accept: get(chain, 'policy') !== 'drop',
  };
}

/** Rules as nft prints them, by `family table chain handle`. */
function ruleTexts(listing: string): Map<string, string> {
  const texts = new Map<string, string>();
  let table = '';
  let chain = '';
  for (const line of listing.split('\n')) {
    const [kind, ...names] = /^\t?(table \S+ \S+|chain \S+) \{/.exec(line)?.[1]?.split(' ') ?? [];
    if (kind === 'table') table = names.join(' ');
    else if (kind === 'chain') chain = names.join(' ');
    else {
      const rule = /^\t\t(.*) # handle (\d+)$/.exec(line);
      if (rule) texts.set(`${table} ${chain} ${rule[2]}`, rule[1] ?? '');
    }
  }
  return texts;
}

/** Chains that the verdicts of a verdict map's elements lead to. */
function verdictTargets(elements: readonly unknown[]): string[] {
  return elements.flatMap((element) => {
    const verdict = list(element)[1];
    const target = get(verdict, 'jump', 'target') ?? get(verdict, 'goto', 'target');
    return typeof target === 'string' ? [target] : [];
  });
}

function parseExpression(expression: unknown, mapTargets: (name: string) => string[]): Step[] {
  if (!isObject(expression)) return [];
  const [kind = '', value] = Object.entries(expression)[0] ?? [];
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
      return [{ do: kind, targets: [string(get(value, 'target'))], sure: true }];
    case 'vmap': {
      const data = get(value, 'data');
      const targets =
        typeof data === 'string' ? mapTargets(data.slice(1)) : verdictTargets(list(data));
      const dropped = (typeof data === 'string' ? [] : list(data)).flatMap((element) => {
        const [key, verdict] = list(element);
        return get(verdict, 'drop') === undefined ? [] : [key];
      });
      const drops = parseMatch({ op: '==', left: get(value, 'key'), right: { set: dropped } });
      const dropping = dropped.length > 0 ? { drops } : {};
      return [{ do: 'jump', targets, sure: false, ...dropping }];
    }
    case 'return':
    case 'drop':
    case 'accept':
      return [{ do: kind }];
    case 'reject':
      return [{ do: 'reject' }];
    case 'dnat':
    case 'redirect':
      return [{ do: 'accept' }];
    case 'xt':
      return [
        {
          match: 'unknown',
          text: `xt ${string(get(value, 'type'))} ${string(get(value, 'name'))}`,
        },
      ];
    case 'limit':
    case 'quota':
    case 'ct count':
      return [{ match: 'unknown', text: kind }];
    default:
      // counter, log, notrack, set updates: they decide nothing here
      return [];
  }
}

function parseMatch(value: unknown): Match {
  const op = get(value, 'op');
  const left = get(value, 'left');
  const right = get(value, 'right');
  const unknown: Match = { match: 'unknown', text: JSON.stringify(value) };
  if (op !== '==' && op !== '!=' && op !== 'in') return compareMatch(op, left, right) ?? unknown;
  const negated = op === '!=';

  if (isMark(left) || isMark(get(left, '&', 0))) return markMatch(op, left, right) ?? unknown;
  switch (get(left, 'meta', 'key')) {
    case 'nfproto':
      return { match: 'family', family: right === 'ipv6' ? 'ip6' : 'ip', negated };
    case 'protocol':
      return right === 'ip' || right === 'ip6'
        ? { match: 'family', family: right, negated }
        : unknown;
    case 'oifname':
    case 'oif':
      return { match: 'oif', names: list(right).map(string), negated };
    case 'iifname':
    case 'iif':
      return { match: 'iif', names: list(right).map(string), negated };
    case 'l4proto':
      return protocolMatch(right, negated) ?? unknown;
  }
  const field = get(left, 'payload', 'field');
  switch (field) {
    case 'protocol':
    case 'nexthdr':
      return protocolMatch(right, negated) ?? unknown;
    case 'saddr':
    case 'daddr': {
      const values = addresses(right);
      return values
        ? { match: field === 'saddr' ? 'source' : 'destination', values, negated }
        : unknown;
    }
    case 'sport':
    case 'dport': {
      const values = numbers(right);
      return values ? { match: field, values: toRangeSet(values), negated } : unknown;
    }
  }
  if (get(left, 'fib', 'result') === 'type' && right === 'local') {
    const source = list(get(left, 'fib', 'flags')).includes('saddr');
    return { match: 'local', which: source ? 'source' : 'destination', negated };
  }
  if (get(left, 'ct', 'key') === 'state')
    return {
      match: 'ctstate',
      states: list(right).map((state) => string(state).toUpperCase()),
      negated,
    };
  return unknown;
}

/** `meta mark …` or `meta mark & 0x… …` */
function markMatch(op: '==' | '!=' | 'in', left: unknown, right: unknown): Match | null {
  const values = numbers(right);
  const operand = get(left, '&', 1);
  if (!values || (operand !== undefined && typeof operand !== 'number')) return null;
  // on a bit field `in` means that one of the bits is set
  if (op === 'in') {
    const bits = values.reduce((sum, [low]) => (sum | low) >>> 0, 0);
    return { match: 'mark', mask: bits, values: [[0, 0]], negated: true };
  }
  return { match: 'mark', mask: (operand ?? 0xffffffff) >>> 0, values, negated: op === '!=' };
}

/** `<`, `<=`, `>`, `>=` on ports. */
function compareMatch(op: unknown, left: unknown, right: unknown): Match | null {
  const field = get(left, 'payload', 'field');
  if ((field !== 'sport' && field !== 'dport') || typeof right !== 'number') return null;
  const below = toRangeSet([[0, op === '<' || op === '>=' ? right - 1 : right]]);
  const values = op === '<' || op === '<=' ? below : subtract(ANY_PORT, below);
  return { match: field, values, negated: false };
}

function protocolMatch(right: unknown, negated: boolean): Match | null {
  const values = list(right).map((name) => protocolNumber(string(name)));
  const ranges = values.flatMap((value): [number, number][] =>
    value === null ? [] : [[value, value]],
  );
  return ranges.length === values.length
    ? { match: 'protocol', values: toRangeSet(ranges), negated }
    : null;
}

function parseMangle(value: unknown): Action[] {
  if (!isMark(get(value, 'key'))) return [];
  const affine = markExpression(get(value, 'value'));
  return affine ? [{ do: 'mark', ...affine }] : [{ do: 'mark-unknown', mask: 0xffffffff }];
}

/** An expression on the mark as (mark & and) ^ xor: constants, &, | and ^ of them; null for all else. */
function markExpression(value: unknown): { and: number; xor: number } | null {
  if (typeof value === 'number') return { and: 0, xor: value >>> 0 };
  if (isMark(value)) return { and: 0xffffffff, xor: 0 };
  if (!isObject(value)) return null;
  const [operator, operands] = Object.entries(value)[0] ?? [];
  const first = markExpression(get(operands, 0));
  const second = markExpression(get(operands, 1));
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

function parseSnat(kind: 'masquerade' | 'snat', value: unknown): Action {
  const flags = list(get(value, 'flags') ?? []);
  const port = get(value, 'port');
  const address = get(value, 'addr');
  return {
    do: 'snat',
    masquerade: kind === 'masquerade',
    random: flags.includes('random') || flags.includes('fully-random'),
    ports: (port === undefined ? null : numbers(port))?.[0] ?? null,
    address: typeof address === 'string' ? address : null,
  };
}

const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null;

/** The value behind a row of keys; undefined where there is none. */
function get(value: unknown, ...keys: (string | number)[]): unknown {
  return keys.reduce<unknown>(
    (inner, key) =>
      isObject(inner) ? (inner as Record<string | number, unknown>)[key] : undefined,
    value,
  );
}

const string = (value: unknown): string =>
  typeof value === 'string' || typeof value === 'number' ? String(value) : '';

const isMark = (value: unknown): boolean => get(value, 'meta', 'key') === 'mark';

/** The elements of an array or an anonymous set; anything else is its own only element. */
function list(value: unknown): unknown[] {
  const set = get(value, 'set');
  return Array.isArray(value) ? value : Array.isArray(set) ? set : [value];
}

/** Numbers and ranges of numbers; null when something else is among them (a named set, a name). */
function numbers(value: unknown): [number, number][] | null {
  const result: [number, number][] = [];
  for (const element of list(value)) {
    const [low, high] =
      typeof element === 'number' ? [element, element] : list(get(element, 'range'));
    if (typeof low !== 'number' || typeof high !== 'number') return null;
    result.push([low, high]);
  }
  return result;
}

/** Addresses, prefixes and ranges of addresses; null when something else is among them. */
function addresses(value: unknown): RangeSet | null {
  const sets = list(value).map((element): RangeSet | null => {
    if (typeof element === 'string') return prefix(element)?.set ?? null;
    const { addr, len } = (get(element, 'prefix') ?? {}) as { addr?: unknown; len?: unknown };
    if (addr !== undefined) return prefix(`${string(addr)}/${string(len)}`)?.set ?? null;
    const [low, high] = list(get(element, 'range')).map((end) => prefix(string(end))?.set[0]);
    return low && high ? [[low[0], high[1]]] : null;
  });
  const known = sets.filter((set) => set !== null);
  return known.length === sets.length ? union(...known) : null;
}

const toRangeSet = (ranges: readonly (readonly [number, number])[]): RangeSet =>
  union(...ranges.map(([low, high]): RangeSet => [[BigInt(low), BigInt(high)]]));
