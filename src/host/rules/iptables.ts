import { setImmediate } from 'node:timers/promises';
import type { NatRule } from '../../event/fact.js';
import type { Action, Field, Hook, Match, Rule, Step, Table } from './model.js';
import { only, prefix, union, type RangeSet } from './ranges.js';

/** Hooks of the built-in chains. */
const HOOKS: Record<string, Hook> = {
  PREROUTING: 'prerouting',
  INPUT: 'input',
  FORWARD: 'forward',
  OUTPUT: 'output',
  POSTROUTING: 'postrouting',
};

/** enum nf_ip_hook_priorities (linux/netfilter_ipv4.h); nat differs by hook. */
const PRIORITIES: Record<string, number> = { raw: -300, mangle: -150, filter: 0, security: 50 };

const priority = (table: string, hook: Hook): number =>
  table === 'nat'
    ? hook === 'postrouting' || hook === 'input'
      ? 100
      : -100
    : (PRIORITIES[table] ?? 0);

/** After how many rules other work gets its turn. */
const SLICE = 250;

/**
 * Reads what iptables-save (or ip6tables-save) prints, one table or several. What it does not know
 * becomes an unknown match or is left out where it decides nothing.
 */
export async function parseIptables(
  text: string,
  backend: NatRule['backend'],
  family: 'ip' | 'ip6',
): Promise<Table[]> {
  const tables: Table[] = [];
  let table: Table | undefined;
  let count = 0;
  for (const line of text.split('\n')) {
    if (line.startsWith('*')) {
      table = { backend, family, name: line.slice(1).trim(), chains: new Map() };
      tables.push(table);
    } else if (!table) continue;
    else if (line.startsWith(':')) {
      const [name = '', policy] = line.slice(1).split(' ');
      const hook = HOOKS[name];
      const base =
        hook && policy !== '-'
          ? {
              hook,
              priority: priority(table.name, hook),
              type: table.name === 'nat' ? ('nat' as const) : ('filter' as const),
              accept: policy !== 'DROP',
            }
          : null;
      table.chains.set(name, { name, base, rules: [] });
    } else if (line.startsWith('-A ')) {
      const chain = table.chains.get(line.slice(3, line.indexOf(' ', 3)));
      if (chain) chain.rules.push(new SavedRule(line, chain.rules.length + 1, table));
      if (++count % SLICE === 0) await setImmediate();
    }
  }
  return tables;
}

/** Splits a line of iptables-save into words: blanks, double quotes, backslashes. */
export function split(line: string): string[] {
  const words: string[] = [];
  const word = /"((?:[^"\\]|\\.)*)"|(\S+)/g;
  for (const [, quoted, bare] of line.matchAll(word))
    words.push(quoted === undefined ? (bare ?? '') : quoted.replace(/\\(.)/g, '$1'));
  return words;
}

const PROTOCOLS: Record<string, number> = {
  icmp: 1,
  igmp: 2,
  ipip: 4,
  tcp: 6,
  udp: 17,
  gre: 47,
  esp: 50,
  ah: 51,
  'ipv6-icmp': 58,
  icmpv6: 58,
  sctp: 132,
  udplite: 136,
};

/** The protocol's number; null when the name is not known. */
export function protocolNumber(name: string): number | null {
  return /^\d+$/.test(name) ? Number(name) : (PROTOCOLS[name.toLowerCase()] ?? null);
}

const ADDRESSES: Record<string, Field> = {
  '-s': 'source',
  '--source': 'source',
  '-d': 'destination',
  '--destination': 'destination',
};

const PORTS: Record<string, Field> = {
  '--sport': 'sport',
  '--source-port': 'sport',
  '--sports': 'sport',
  '--source-ports': 'sport',
  '--dport': 'dport',
  '--destination-port': 'dport',
  '--dports': 'dport',
  '--destination-ports': 'dport',
};

/** A rule as iptables-save prints it; its words are looked at when they are asked for. */
class SavedRule implements Rule {
  readonly targets: readonly string[];
  readonly marks: boolean;
  readonly drops: boolean;
  readonly translates: boolean;
  private parsed: Step[] | undefined;

  constructor(
    readonly text: string,
    readonly handle: number,
    private readonly table: Table,
  ) {
    // the last one: a comment before it may hold anything
    const target = / -[jg] (\S+)(?!.* -[jg] )/.exec(text)?.[1] ?? '';
    this.targets = table.chains.has(target) ? [target] : [];
    this.marks = target === 'MARK' || target === 'CONNMARK';
    this.drops = target === 'DROP' || target === 'REJECT';
    this.translates = target === 'MASQUERADE' || target === 'SNAT' || target === 'NETMAP';
  }

  get steps(): readonly Step[] {
    return (this.parsed ??= parseSteps(split(this.text).slice(2), this.table));
  }
}

function parseSteps(words: string[], table: Table): Step[] {
  const steps: Step[] = [];
  let module = '';
  for (let at = 0; at < words.length;) {
    const start = at;
    const negated = words[at] === '!';
    if (negated) at++;
    const option = words[at++] ?? '';
    /** the option's values: everything up to the next option */
    const values: string[] = [];
    while (at < words.length && words[at] !== '!' && !words[at]?.startsWith('-'))
      values.push(words[at++] ?? '');
    const value = values[0] ?? '';

    if (option === '-j' || option === '-g' || option === '--jump' || option === '--goto') {
      steps.push(
        ...target(value, words.slice(at), option.startsWith('-g') || option === '--goto', table),
      );
      break;
    }
    if (option === '-m' || option === '--match') {
      module = value;
      // modules that match by themselves, without an option
      if (values.length > 1 || module === 'socket' || module === 'rpfilter')
        steps.push({ match: 'unknown', text: words.slice(start, at).join(' ') });
      continue;
    }
    if (option === '--comment' || option === '-c') continue;
    const match = parseMatch(option, value, module, negated);
    steps.push(match ?? { match: 'unknown', text: words.slice(start, at).join(' ') });
  }
  return steps;
}

function parseMatch(option: string, value: string, module: string, negated: boolean): Match | null {
  const address = ADDRESSES[option];
  if (address) {
    const parts = value.split(',');
    const sets = parts.flatMap((part) => prefix(part)?.set ?? []);
    return sets.length === parts.length ? { match: address, values: union(sets), negated } : null;
  }
  if (option === '-p' || option === '--protocol') {
    const number = protocolNumber(value);
    return number === null ? null : { match: 'protocol', values: only(number), negated };
  }
  if (option === '-i' || option === '--in-interface')
    return { match: 'iif', names: [value], negated };
  if (option === '-o' || option === '--out-interface')
    return { match: 'oif', names: [value], negated };
  const ports = PORTS[option];
  if (ports) return { match: ports, values: portSet(value), negated };
  if (option === '--mark' && module === 'mark') {
    const { value: mark, mask } = valueMask(value);
    return { match: 'mark', mask, values: [[mark, mark]], negated };
  }
  if ((option === '--src-type' || option === '--dst-type') && value === 'LOCAL')
    return {
      match: 'local',
      which: option === '--src-type' ? 'source' : 'destination',
      negated,
    };
  if (option === '--ctstate' || option === '--state')
    return { match: 'ctstate', states: value.split(','), negated };
  return null;
}

function portSet(text: string): RangeSet {
  return union(
    ...text.split(',').map((part): RangeSet => {
      const [low = '', high] = part.split(':');
      return [[BigInt(low || 0), BigInt(high === undefined ? low : high || 65535)]];
    }),
  );
}

/** `0x4000/0x4000`, `0x4000`: the mask is all ones where none is said. */
function valueMask(text: string): { value: number; mask: number } {
  const [value = '0', mask] = text.split('/');
  return { value: Number(value) >>> 0, mask: mask === undefined ? 0xffffffff : Number(mask) >>> 0 };
}

function target(name: string, words: string[], goto: boolean, table: Table): Step[] {
  if (table.chains.has(name)) return [{ do: goto ? 'goto' : 'jump', targets: [name], sure: true }];
  const option = (wanted: string): string | undefined => {
    const at = words.indexOf(wanted);
    return at < 0 ? undefined : (words[at + 1] ?? '');
  };
  switch (name) {
    case 'ACCEPT':
    case 'DNAT':
    case 'REDIRECT':
      return [{ do: 'accept' }];
    case 'DROP':
      return [{ do: 'drop' }];
    case 'REJECT':
      return [{ do: 'reject' }];
    case 'RETURN':
      return [{ do: 'return' }];
    case 'MARK':
      return markTarget(words);
    case 'CONNMARK':
      return words.includes('--restore-mark')
        ? [
            {
              do: 'mark-unknown',
              mask: Number(option('--nfmask') ?? option('--mask') ?? 0xffffffff) >>> 0,
            },
          ]
        : [];
    case 'MASQUERADE':
    case 'SNAT':
    case 'NETMAP': {
      const to = option('--to-source') ?? null;
      const ports =
        option('--to-ports') ??
        (to && (to.includes('.') || to.startsWith('['))
          ? /:([\d-]+)$/.exec(to.replace(/^\[[^\]]*\]/, ''))?.[1]
          : undefined);
      const [low, high] = (ports ?? '').split('-');
      return [
        {
          do: 'snat',
          masquerade: name === 'MASQUERADE',
          random: words.includes('--random') || words.includes('--random-fully'),
          ports: low ? [Number(low), Number(high ?? low)] : null,
          address: sourceAddress(to),
        },
      ];
    }
    default:
      return [];
  }
}

/** The first address of `--to-source`: `1.2.3.4`, `1.2.3.4-1.2.3.9:1-2`, `[fd00::1]:1-2`, `fd00::1`. */
function sourceAddress(text: string | null): string | null {
  if (text === null) return null;
  const bracketed = /^\[([^\]]*)\]/.exec(text)?.[1];
  if (bracketed !== undefined) return bracketed.split('-')[0] ?? null;
  const first = text.split('-')[0] ?? '';
  return first.includes('.') ? (first.split(':')[0] ?? null) : first || null;
}

function markTarget(words: string[]): Action[] {
  const [kind = '', text = '0'] = words;
  const { value, mask } = valueMask(text);
  switch (kind) {
    case '--set-xmark':
      return [{ do: 'mark', and: ~mask >>> 0, xor: value }];
    case '--set-mark':
      return [{ do: 'mark', and: ~(mask | value) >>> 0, xor: value }];
    case '--and-mark':
      return [{ do: 'mark', and: value, xor: 0 }];
    case '--or-mark':
      return [{ do: 'mark', and: ~value >>> 0, xor: value }];
    case '--xor-mark':
      return [{ do: 'mark', and: 0xffffffff, xor: value }];
    default:
      return [{ do: 'mark-unknown', mask: 0xffffffff }];
  }
}
