import type {
  CountersFact,
  DatapathFact,
  DeviceFact,
  Fact,
  ProcessFact,
  RulesFact,
  SocketsFact,
} from '../event/fact.js';
import { BoundedMap } from './bounded-map.js';
import type { Evidence } from './finding.js';

/** A fact with when it became known and the record that says so. */
export interface Known<T> {
  fact: T;
  time: number;
  evidence: Evidence;
}

/**
 * What one machine (one boot) was made of while it was watched, as its facts tell it. Facts of the
 * same thing replace each other; earlier ones stay as history, so that a change can be named.
 */
export class World {
  private readonly places = new Map<number, Place>();
  /** namespaces that went, the longest gone first */
  private readonly gone = new Set<number>();
  private readonly processes = new BoundedMap<number, ProcessFact>(MAX_PROCESSES);
  private readonly symbols = new Map<string, string>();

  /** @param offset what times in its facts need to be on the clock that it is asked by, ns */
  constructor(private readonly offset = 0) {}

  /** Takes a fact in; facts that tell nothing of the machine are ignored. */
  learn(fact: Fact, time: number, evidence: Evidence): void {
    switch (fact.fact) {
      case 'netns':
        if (fact.gone) this.leave(fact.netns);
        else {
          this.gone.delete(fact.netns);
          this.place(fact.netns).name = fact.name;
        }
        break;
      case 'device':
        push(this.place(fact.netns).devices, fact.ifindex, { fact, time, evidence });
        break;
      case 'rules':
        remember(this.place(fact.netns).rules, {
          fact,
          time: fact.changed ? fact.changed.before + this.offset : time,
          evidence,
        });
        break;
      case 'datapath':
        remember(this.place(fact.netns).datapaths, { fact, time, evidence });
        break;
      case 'settings':
        for (const [name, value] of Object.entries(fact.values))
          push(this.place(fact.netns).settings, name, { fact: value, time, evidence });
        break;
      case 'counters':
        sampled(this.place(fact.netns).counters, { fact, time, evidence });
        break;
      case 'sockets':
        remember(this.place(fact.netns).sockets, { fact, time, evidence });
        break;
      case 'process':
        this.processes.set(fact.pid, fact);
        break;
      case 'symbol':
        this.symbols.set(fact.address, fact.name);
        break;
    }
  }

  private place(netns: number): Place {
    let place = this.places.get(netns);
    if (!place)
      this.places.set(
        netns,
        (place = {
          name: null,
          devices: new Map(),
          rules: [],
          datapaths: [],
          settings: new Map(),
          counters: [],
          sockets: [],
        }),
      );
    return place;
  }

  /** What went is asked about for a while; of many only the latest are remembered. */
  private leave(netns: number): void {
    this.gone.delete(netns);
    this.gone.add(netns);
    if (this.gone.size <= MAX_GONE) return;
    const longest = this.gone.values().next().value!;
    this.gone.delete(longest);
    this.places.delete(longest);
  }

  netnsName(netns: number): string {
    if (netns === 0) return 'unknown namespace';
    return this.places.get(netns)?.name ?? `netns ${netns}`;
  }

  /** The device as it was known at `time` (the earliest known one when it was learnt later). */
  device(netns: number, ifindex: number, time = Infinity): Known<DeviceFact> | null {
    return at(this.places.get(netns)?.devices.get(ifindex), time);
  }

  deviceName(netns: number, ifindex: number): string {
    return (
      this.device(netns, ifindex)?.fact.name ??
      (ifindex === LOOPBACK_IFINDEX ? 'lo' : `device ${ifindex}`)
    );
  }

  /** The devices of a namespace as they were known at `time`. */
  devicesOf(netns: number, time = Infinity): Known<DeviceFact>[] {
    return [...(this.places.get(netns)?.devices.values() ?? [])].flatMap((list) => {
      const known = at(list, time);
      return known && !known.fact.gone ? [known] : [];
    });
  }

  /** Does a device of the namespace bear this address? */
  owns(netns: number, address: string): boolean {
    for (const list of this.places.get(netns)?.devices.values() ?? []) {
      const { fact } = list.at(-1)!;
      if (!fact.gone)
        for (const own of fact.addresses) if (own.split('/')[0] === address) return true;
    }
    return false;
  }

  /**
   * The rules in force at `time`; null when they are not known, or were changed between two readings
   * around it, so that either may have been in force.
   */
  rules(netns: number, time = Infinity): Known<RulesFact> | null {
    const list = this.places.get(netns)?.rules;
    const known = at(list, time);
    const changed = list?.some(
      (later) =>
        later.time > time &&
        (later.fact.changed ? later.fact.changed.after + this.offset : later.time - RULES_DELAY) <=
          time &&
        later.fact.digest !== known?.fact.digest,
    );
    return changed ? null : known;
  }

  /** By what packets of a namespace are forwarded; null in sessions of before. */
  datapath(netns: number, time = Infinity): Known<DatapathFact> | null {
    return at(this.places.get(netns)?.datapaths, time);
  }

  setting(netns: number, name: string, time = Infinity): Known<string> | null {
    return at(this.places.get(netns)?.settings.get(name), time);
  }

  /** A setting as a number; null when it is not known. */
  number(netns: number, name: string, time = Infinity): number | null {
    const known = this.setting(netns, name, time);
    if (!known) return null;
    const value = Number(known.fact);
    return Number.isFinite(value) ? value : null;
  }

  /**
   * How far a counter of a namespace rose over a stretch of time: from its last sample before to its
   * first after. 0 also where it is not sampled; what else moved it is not known.
   */
  rise(netns: number, name: string, from: number, to: number): Known<number> | null {
    const samples = this.places
      .get(netns)
      ?.counters.filter(({ fact }, i) => i === 0 || name in fact.values);
    const [first] = samples ?? [];
    if (!samples || !first) return null;
    const before = samples.findLast(({ time }) => time <= from) ?? first;
    const after = samples.find(({ time }) => time >= to) ?? samples.at(-1)!;
    const rise = (after.fact.values[name] ?? 0) - (before.fact.values[name] ?? 0);
    return { fact: Math.max(rise, 0), time: after.time, evidence: after.evidence };
  }

  /**
   * The samples of a namespace's counters on both sides of a stretch of time: its last one before, its
   * first one after (the nearest, where there is none), and what differs between them.
   */
  samplesAround(netns: number, from: number, to: number): Samples | null {
    const samples = this.places.get(netns)?.counters;
    const [first, last] = [samples?.[0], samples?.at(-1)];
    if (!samples || !first || !last) return null;
    const before = Math.max(
      samples.findLastIndex(({ time }) => time <= from),
      0,
    );
    const found = samples.findIndex(({ time }) => time >= to);
    const after = found < 0 ? samples.length - 1 : found;
    const changed: Samples['changed'] = new Map();
    for (const { fact } of samples.slice(before + 1, after + 1))
      for (const [name, value] of Object.entries(fact.values)) {
        const { before: value0 = valueAt(samples, before, name) } = changed.get(name) ?? {};
        changed.set(name, { before: value0, after: value });
      }
    return { first: samples[before]!, last: samples[Math.max(before, after)]!, changed };
  }

  /** A counter's (or gauge's) sample closest to a moment; null where it is not sampled. */
  sample(netns: number, name: string, time: number): Known<number> | null {
    const samples =
      this.places.get(netns)?.counters.filter(({ fact }) => name in fact.values) ?? [];
    const [first] = samples;
    if (!first) return null;
    const closest = samples.reduce((best, s) =>
      Math.abs(s.time - time) < Math.abs(best.time - time) ? s : best,
    );
    return { ...closest, fact: closest.fact.values[name]! };
  }

  /** The sockets that had dropped packets, as told first from `time` on, else last before. */
  overflowedSockets(netns: number, time: number): Known<SocketsFact> | null {
    const known = this.places.get(netns)?.sockets;
    return known?.find((told) => told.time >= time) ?? known?.at(-1) ?? null;
  }

  process(pid: number): ProcessFact | null {
    return this.processes.get(pid) ?? null;
  }

  /** `function+0x1eb [module]` at a drop location, else its address. */
  symbol(address: string): string {
    return this.symbols.get(address) ?? address;
  }
}

/** What is known of one namespace. */
interface Place {
  name: string | null;
  /** by ifindex */
  devices: Map<number, Known<DeviceFact>[]>;
  rules: Known<RulesFact>[];
  datapaths: Known<DatapathFact>[];
  settings: Map<string, Known<string>[]>;
  counters: Known<CountersFact>[];
  sockets: Known<SocketsFact>[];
}

/** A namespace's counters on both sides of a stretch of time. */
export interface Samples {
  first: Known<CountersFact>;
  last: Known<CountersFact>;
  changed: Map<string, { before: number; after: number }>;
}

/** Only changes are told: a counter that no fact has was 0. */
function valueAt(samples: readonly Known<CountersFact>[], at: number, name: string): number {
  for (let i = at; i >= 0; i--) {
    const value = samples[i]!.fact.values[name];
    if (value !== undefined) return value;
  }
  return 0;
}

/** How long after a change of rules its fact may come in sessions that do not say it, ns. */
const RULES_DELAY = 4e9;

/** The loopback device of every namespace (include/net/flow.h); no fact tells of it. */
const LOOPBACK_IFINDEX = 1;
/** History is bounded: what a diagnosis can ask about is recent. */
const HISTORY = 32;
/** A connect fails after two minutes, and a busy namespace is sampled each second. */
const COUNTERS_HISTORY = 150;
/** Namespaces that went, and processes, of which something is still known. */
const MAX_GONE = 1024;
const MAX_PROCESSES = 32_768;

function push<K, T>(map: Map<K, Known<T>[]>, key: K, known: Known<T>): void {
  const list = map.get(key);
  if (list) remember(list, known);
  else map.set(key, [known]);
}

/** The first stays: it holds for what was before it. */
function remember<T>(list: Known<T>[], known: Known<T>): void {
  list.push(known);
  if (list.length > HISTORY) list.splice(1, 1);
}

/** Keeps a sample; of the oldest, where there are too many, the values stay and become the base. */
function sampled(samples: Known<CountersFact>[], known: Known<CountersFact>): void {
  samples.push(known);
  if (samples.length <= COUNTERS_HISTORY) return;
  const [base, next] = samples.splice(0, 2) as [Known<CountersFact>, Known<CountersFact>];
  const values = { ...base.fact.values, ...next.fact.values };
  samples.unshift({ ...next, fact: { ...next.fact, values } });
}

function at<T>(list: Known<T>[] | undefined, time: number): Known<T> | null {
  if (!list) return null;
  let found = list[0] ?? null;
  for (const known of list) if (known.time <= time) found = known;
  return found;
}
