import { setTimeout as wait } from 'node:timers/promises';
import type { CountersFact, DeviceFact, Fact, SettingsFact } from '../event/fact.js';
import { DATAPATH_SCRIPT, parseDatapath } from './datapath.js';
import { COUNTERS_SCRIPT, parseCounters } from './counters.js';
import { DEVICES_SCRIPT, parseDevices, ROUTES_SCRIPT } from './devices.js';
import { nfTablesPresent } from './kernel.js';
import type { Namespace } from './namespaces.js';
import { isWhole, LATE, readSections } from './read.js';
import { rulesFact, RULES_SCRIPT, rulesText, tunnelEnds, viaOf } from './rules/read.js';
import { overflowed, overflowedSockets } from './sockets.js';
import { parseSettings, SETTINGS_SCRIPT } from './settings.js';

/** Devices and rules of one namespace are read again after so long, unless told otherwise. */
const FULL_EVERY_MS = 3_000;
/** Namespaces read in one poll: wholly, and settings and counters only. New ones come on top. */
const FULL_AT_ONCE = 2;
const LIGHT_AT_ONCE = 8;
const NEW_AT_ONCE = 16;
const LAST_AT_ONCE = 16;

/** What was last told of a namespace. */
interface Seen {
  name: string;
  devices: Map<number, DeviceFact>;
  /** as JSON, as the one below */
  datapath: string;
  /** rules and tunnels as they were read, to see a change without parsing */
  rules: string;
  rulesFact: string;
  /** when that reading began, CLOCK_MONOTONIC ns */
  rulesReadAt: number;
  settings: Record<string, string>;
  counters: Record<string, number>;
  /** when the reading of both began, CLOCK_MONOTONIC ns */
  numbersReadAt: number;
  fullAt: number;
  lightAt: number;
  /** when its sockets were last looked at */
  socketsAt: number;
}

/**
 * Follows what the node is made of: every namespace's devices, rules, settings and counters, as
 * facts. It changes nothing and loads no kernel module; everything is read by short-lived
 * children, a few at a time, the event loop stays free.
 */
export class HostWatch {
  private readonly seen = new Map<number, Seen>();
  private nft: Promise<boolean> | undefined;
  private busy = false;
  /** read, and not told yet */
  private readonly untold: Fact[] = [];

  /**
   * @param namespaces which ones to follow; asked again at every poll
   * @param fullEveryMs after how long a namespace's devices and rules are read again
   */
  constructor(
    private readonly namespaces: () => Namespace[] | Promise<Namespace[]>,
    private readonly fullEveryMs = FULL_EVERY_MS,
  ) {}

  /** Everything, once. */
  start(): Promise<Fact[]> {
    return this.read(Infinity);
  }

  /**
   * What changed since; about once a second. Expensive reads go round the namespaces, so that a
   * change of rules or devices is seen within some seconds. A poll while the last one is still
   * under way gives nothing.
   */
  poll(): Promise<Fact[]> {
    return this.read(NEW_AT_ONCE);
  }

  /**
   * Settings and counters of those that were read longest ago, a last time, and what a poll under way
   * has read: as far as it is read within so long.
   */
  async last(withinMs: number): Promise<Fact[]> {
    const namespaces = await this.namespaces();
    const longest = namespaces
      .filter(({ inode }) => this.seen.has(inode))
      .sort(
        (a, b) => (this.seen.get(a.inode)?.lightAt ?? 0) - (this.seen.get(b.inode)?.lightAt ?? 0),
      )
      .slice(0, LAST_AT_ONCE);
    const late = new AbortController();
    await Promise.race([
      Promise.all(longest.map((each) => this.keep(this.light(each)))).finally(() => late.abort()),
      wait(withinMs, undefined, { signal: late.signal }).catch(() => undefined),
    ]);
    return this.untold.splice(0);
  }

  private async read(newAtOnce: number): Promise<Fact[]> {
    if (this.busy) return [];
    this.busy = true;
    try {
      const namespaces = await this.namespaces();
      this.untold.push(...this.comeAndGone(namespaces));
      const now = performance.now();
      const state = (namespace: Namespace): Seen | undefined => this.seen.get(namespace.inode);
      const fresh = namespaces.filter((namespace) => !state(namespace)).slice(0, newAtOnce);
      const known = namespaces.filter(state);
      const stale = known
        .filter((namespace) => now - (state(namespace)?.fullAt ?? 0) >= this.fullEveryMs)
        .sort((a, b) => (state(a)?.fullAt ?? 0) - (state(b)?.fullAt ?? 0))
        .slice(0, FULL_AT_ONCE);
      const light = known
        .filter((namespace) => !stale.includes(namespace))
        .sort((a, b) => (state(a)?.lightAt ?? 0) - (state(b)?.lightAt ?? 0))
        .slice(0, LIGHT_AT_ONCE);
      await Promise.all([
        ...fresh.map((namespace) => this.keep(this.full(namespace))),
        ...stale.map((namespace) => this.keep(this.full(namespace))),
        ...light.map((namespace) => this.keep(this.light(namespace))),
      ]);
      return this.untold.splice(0);
    } finally {
      this.busy = false;
    }
  }

  /** Until it is told; what was read is not read again. */
  private async keep(read: Promise<Fact[]>): Promise<void> {
    this.untold.push(...(await read));
  }

  /** Namespaces that got another name, or went. */
  private comeAndGone(namespaces: readonly Namespace[]): Fact[] {
    const facts: Fact[] = [];
    const present = new Set(namespaces.map(({ inode }) => inode));
    for (const [netns, { name }] of this.seen)
      if (!present.has(netns)) {
        this.seen.delete(netns);
        facts.push({ fact: 'netns', netns, name, gone: true });
      }
    for (const { inode, name } of namespaces) {
      const seen = this.seen.get(inode);
      if (seen && seen.name !== name) {
        seen.name = name;
        facts.push({ fact: 'netns', netns: inode, name });
      }
    }
    return facts;
  }

  private async full(namespace: Namespace): Promise<Fact[]> {
    const { inode, name, path } = namespace;
    this.nft ??= nfTablesPresent();
    const readAt = monotonicNs();
    const script =
      DEVICES_SCRIPT + SETTINGS_SCRIPT + COUNTERS_SCRIPT + DATAPATH_SCRIPT + RULES_SCRIPT;
    const sections = await readSections(path, script, (await this.nft) ? 'nft' : '');
    // it went while it was read: the next poll tells
    if (!sections) return [];
    const devices = parseDevices(inode, sections);
    const names = devices.flatMap((device) =>
      device.tunnel ? [device.name, viaOf(device, devices)] : [],
    );
    const routes =
      names.length > 0 ? await readSections(path, ROUTES_SCRIPT, ...new Set(names)) : null;
    const tunnels = tunnelEnds(
      devices,
      routes ?? new Map(),
      parseSettings(sections.get('settings') ?? ''),
    );

    const facts: Fact[] = [];
    let seen = this.seen.get(inode);
    if (!seen) {
      seen = {
        name,
        devices: new Map(),
        datapath: '',
        rules: '',
        rulesFact: '',
        rulesReadAt: 0,
        settings: {},
        counters: {},
        numbersReadAt: 0,
        fullAt: 0,
        lightAt: 0,
        socketsAt: -Infinity,
      };
      this.seen.set(inode, seen);
      facts.push({ fact: 'netns', netns: inode, name });
    }
    const late = sections.has(LATE);
    if (isWhole(sections, 'offloads')) facts.push(...changedDevices(seen, devices));
    const datapath = parseDatapath(inode, sections);
    if (!late) {
      if (JSON.stringify(datapath) !== seen.datapath) facts.push(datapath);
      seen.datapath = JSON.stringify(datapath);
    }
    const rules = rulesText(sections) + JSON.stringify(tunnels);
    // those that were read once stay what is known, until they are read again
    const known = seen.rules !== '' && late;
    if (rules !== seen.rules && !known) {
      seen.rules = rules;
      const fact = await rulesFact(inode, sections, tunnels);
      const text = JSON.stringify(fact);
      if (text !== seen.rulesFact)
        facts.push(
          seen.rulesReadAt > 0
            ? { ...fact, changed: { after: seen.rulesReadAt, before: monotonicNs() } }
            : fact,
        );
      seen.rulesFact = text;
    }
    // no change of rules is told after such that were not read
    if (!known) seen.rulesReadAt = late ? 0 : readAt;
    facts.push(...(await this.numbers(namespace, seen, sections, readAt)));
    seen.fullAt = seen.lightAt = performance.now();
    return facts;
  }

  private async light(namespace: Namespace): Promise<Fact[]> {
    const { inode, path } = namespace;
    const readAt = monotonicNs();
    const sections = await readSections(path, SETTINGS_SCRIPT + COUNTERS_SCRIPT);
    const seen = this.seen.get(inode);
    if (!sections || !seen) return [];
    seen.lightAt = performance.now();
    return this.numbers(namespace, seen, sections, readAt);
  }

  /**
   * What changed of settings and counters; of sockets, when a counter tells that one had no room.
   * Nothing where a reading that began later was told already.
   */
  private async numbers(
    namespace: Namespace,
    seen: Seen,
    sections: ReadonlyMap<string, string>,
    readAt: number,
  ): Promise<Fact[]> {
    if (readAt < seen.numbersReadAt || !isWhole(sections, 'softnet')) return [];
    seen.numbersReadAt = readAt;
    const before = seen.counters;
    const facts = changedNumbers(namespace.inode, seen, sections);
    const now = performance.now();
    const again = now - seen.socketsAt >= this.fullEveryMs;
    if (seen.lightAt === 0 || !again || !overflowed(before, seen.counters)) return facts;
    seen.socketsAt = now;
    return [...facts, ...(await overflowedSockets(namespace))];
  }
}

/** As events have it. */
function monotonicNs(): number {
  return Number(process.hrtime.bigint());
}

function changedDevices(seen: Seen, devices: readonly DeviceFact[]): DeviceFact[] {
  const changed: DeviceFact[] = [];
  const present = new Set(devices.map(({ ifindex }) => ifindex));
  for (const [ifindex, device] of seen.devices)
    if (!present.has(ifindex)) {
      seen.devices.delete(ifindex);
      changed.push({ ...device, gone: true });
    }
  for (const device of devices) {
    const before = seen.devices.get(device.ifindex);
    if (before && JSON.stringify(before) === JSON.stringify(device)) continue;
    seen.devices.set(device.ifindex, device);
    changed.push(device);
  }
  return changed;
}

function changedNumbers(
  netns: number,
  seen: Seen,
  sections: ReadonlyMap<string, string>,
): (SettingsFact | CountersFact)[] {
  const facts: (SettingsFact | CountersFact)[] = [];
  const settings = parseSettings(sections.get('settings') ?? '');
  const counters = parseCounters(sections);
  const changedSettings = difference(seen.settings, settings);
  const changedCounters = difference(seen.counters, counters);
  seen.settings = settings;
  seen.counters = counters;
  if (changedSettings) facts.push({ fact: 'settings', netns, values: changedSettings });
  if (changedCounters) facts.push({ fact: 'counters', netns, values: changedCounters });
  return facts;
}

/** Entries of `now` that `before` lacks or has otherwise; null when there are none. */
function difference<T>(
  before: Record<string, T>,
  now: Record<string, T>,
): Record<string, T> | null {
  const changed = Object.entries(now).filter(([name, value]) => before[name] !== value);
  return changed.length > 0 ? Object.fromEntries(changed) : null;
}
