import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname, machine, release, version } from 'node:os';
import { SkbwhyError } from '../event/errors.js';
import { encodeFact, type Fact, type LostFact } from '../event/fact.js';
import { LAYOUT } from '../event/layout.js';
import { Point, type Mechanism } from '../event/point.js';
import { discoverNamespaces, type Namespace } from '../host/namespaces.js';
import { processFact } from '../host/processes.js';
import { HostWatch } from '../host/watch.js';
import { Probe, type Losses, type ProgramCost } from '../probe/probe.js';
import { Symbols } from '../probe/symbols.js';
import type { Batch, Session, SessionHeader } from './session.js';

const BATCH_BYTES = 256 << 10;
const SHORTEST_WAIT_MS = 1;
const LONGEST_WAIT_MS = 20;
const TICK_MS = 1000;
/** Closing waits so long at most for the last numbers. */
const LAST_MS = 5000;
/** Scans in which a namespace must be missing before it counts as gone (/proc is not read at once). */
const MISSES = 2;
const POINT = LAYOUT.point[0];
const LOCATION = LAYOUT.location[0];
const PID = LAYOUT.pid[0];
/** events and facts bear it at the same place */
const TIME = LAYOUT.time[0];
/** A pid is looked up again after this long: it may be another process by then. */
const PROCESS_MS = 10_000;
const MAX_PROCESSES = 4096;

/** What else is told about the node; see host/watch. */
export interface HostSource {
  /** everything, once */
  start(): Promise<Fact[]>;
  /** what changed */
  poll(): Promise<Fact[]>;
  /** the numbers that rose to the very end, and what a poll under way has read, if within so long */
  last(withinMs: number): Promise<Fact[]>;
}

export interface TraceOptions {
  /** pcap-filter expression */
  filter?: string | undefined;
  /** names of network namespaces; absent: all, also those that appear later */
  netns?: string[] | undefined;
  /** only hooks of these kinds; absent: any */
  mechanisms?: readonly Mechanism[] | undefined;
  /** size of the ring, a power of two; 32 MiB by default */
  ringBytes?: number | undefined;
  /** the node's other facts; HostWatch by default, null: none */
  host?: ((namespaces: () => Namespace[]) => HostSource) | null;
  /**
   * A batch's memory becomes the next one's: for who keeps nothing of it. That spares the garbage
   * collector the events, and a busy node a third of what reading one costs.
   */
  transient?: boolean | undefined;
}

/** A session of this node, as it happens. */
export interface LiveTrace extends Session {
  /** what the programs have cost; see Probe.costs() */
  costs(): ProgramCost[];
}

/**
 * Traces this node.
 * @throws SkbwhyError 'no-privilege', 'no-btf', 'library-missing', 'bad-filter', 'netns-missing',
 *   'kernel-refused', 'nothing-attached'; nothing stays attached then
 */
export async function trace(options: TraceOptions = {}): Promise<LiveTrace> {
  const probe = new Probe({
    filter: options.filter,
    netnsOnly: options.netns !== undefined,
    ...(options.mechanisms === undefined ? {} : { mechanisms: options.mechanisms }),
    ...(options.ringBytes === undefined ? {} : { ringBytes: options.ringBytes }),
  });
  const session = new LiveSession(probe, options);
  try {
    await session.start();
  } catch (error) {
    await session.close();
    throw error;
  }
  return session;
}

/** CLOCK_MONOTONIC in ns, as the events have it. */
function monotonicNs(): number {
  return Number(process.hrtime.bigint());
}

class LiveSession implements LiveTrace {
  readonly header: SessionHeader;
  private readonly host: HostSource | null;
  private readonly symbols = new Symbols();
  /** one batch's, where the next one may have it */
  private readonly memory: Buffer | undefined;
  /** fact records that wait for the next batch */
  private facts: Buffer[] = [];
  /** batches taken when the session was closed */
  private rest: Batch[] = [];
  private namespaces = new Map<number, Namespace>();
  private readonly misses = new Map<number, number>();
  private readonly locations = new Set<string>();
  /** pid → until when what was told of it holds, performance.now() */
  private readonly processes = new Map<number, number>();
  private losses: Losses = { ring: [], missed: new Map() };
  private taken: Promise<Batch | null> = Promise.resolve(null);
  private nextSeq = 0;
  private nextTick = 0;
  private scanning = false;
  private closed = false;
  /** the last facts are told */
  private ended = false;
  private closing: Promise<void> | undefined;
  private wake: () => void = () => {};

  constructor(
    private readonly probe: Probe,
    private readonly options: TraceOptions,
  ) {
    const create = options.host === undefined ? watchHost : options.host;
    this.host = create ? create(() => [...this.namespaces.values()]) : null;
    this.memory = options.transient ? Buffer.allocUnsafeSlow(BATCH_BYTES) : undefined;
    this.header = describe(probe, options);
  }

  /** Finds the namespaces, learns about the host, then attaches everything. */
  async start(): Promise<void> {
    const found = this.chosen(await discoverNamespaces());
    for (const name of this.options.netns ?? [])
      if (!found.some((namespace) => namespace.name === name))
        throw new SkbwhyError(
          'netns-missing',
          `there is no network namespace ${name}: \`ip netns list\` shows those with a name`,
        );
    const symbols = this.symbols.load();
    for (const namespace of found) this.namespaces.set(namespace.inode, namespace);
    for (const { inode, name } of found) this.tell({ fact: 'netns', netns: inode, name });
    if (this.host) this.tellHost(await this.host.start());
    for (const namespace of found)
      try {
        this.enter(namespace);
      } catch (error) {
        if (this.options.netns || !isGone(error)) throw error;
      }
    // it takes the time of thousands of events, which nobody would read meanwhile
    await symbols;
    this.probe.start();
    this.losses = this.probe.losses();
    this.nextTick = performance.now() + TICK_MS;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void> {
    let wait = SHORTEST_WAIT_MS;
    try {
      while (!this.closed) {
        if (performance.now() >= this.nextTick) this.tick();
        const batch = await this.take();
        if (batch) {
          yield batch;
          wait = SHORTEST_WAIT_MS;
        } else {
          wait = Math.min(wait * 2, LONGEST_WAIT_MS);
        }
        if (this.closed) break;
        // behind: only let others run; else let events gather
        await (this.probe.ring.waiting > BATCH_BYTES ? immediate() : this.sleep(wait));
      }
      await this.closing;
      yield* this.rest.splice(0);
    } finally {
      await this.close();
    }
  }

  /** Detaches everything at once; the events already in the ring are still iterated. */
  close(): Promise<void> {
    this.closing ??= this.finish();
    return this.closing;
  }

  costs(): ProgramCost[] {
    return this.probe.costs();
  }

  private async finish(): Promise<void> {
    this.closed = true;
    this.wake();
    try {
      this.probe.stop();
      this.tellLosses();
      await this.tellLast();
      this.tell({ fact: 'tick' });
      for (let batch = await this.take(); batch; batch = await this.take()) this.rest.push(batch);
    } finally {
      this.probe.close();
    }
  }

  /** Counters that rose in the last moments: without them what was lost then has no cause. */
  private async tellLast(): Promise<void> {
    if (this.host) this.tellHost(await this.host.last(LAST_MS));
    this.ended = true;
  }

  /** What waits, facts first; null when there is nothing. One after the other, also on closing. */
  private take(): Promise<Batch | null> {
    const batch = this.taken.then(() => this.takeNow());
    this.taken = batch.catch(() => null);
    return batch;
  }

  private async takeNow(): Promise<Batch | null> {
    // what is taken on closing waits together
    const { count, bytes: events } = this.probe.ring.take(
      BATCH_BYTES,
      this.closed ? undefined : this.memory,
    );
    await this.introduce(events);
    const facts = this.facts;
    this.facts = [];
    // Events wait in the ring while facts are told: records stay in the order of time, by which
    // several sessions are merged.
    if (count > 0) {
      const first = events.readBigUInt64LE(TIME);
      for (const fact of facts)
        if (fact.readBigUInt64LE(TIME) > first) fact.writeBigUInt64LE(first, TIME);
    }
    if (count + facts.length === 0) return null;
    const batch: Batch = {
      firstSeq: this.nextSeq,
      count: count + facts.length,
      bytes: facts.length === 0 ? events : Buffer.concat([...facts, events]),
    };
    this.nextSeq += batch.count;
    return batch;
  }

  /** Tells what stands at drop locations, and which processes connect, when seen for the first time. */
  private async introduce(events: Buffer): Promise<void> {
    const words = new Uint32Array(events.buffer, events.byteOffset, events.length / 4);
    for (let at = 0; at < events.length; at += words[at >>> 2] as number) {
      const point = events[at + POINT];
      if (point === Point['socket.state']) this.introduceProcess(words[(at + PID) >>> 2] as number);
      if (point !== Point['packet.drop']) continue;
      const low = words[(at + LOCATION) >>> 2] as number;
      const high = words[(at + LOCATION + 4) >>> 2] as number;
      const address = `0x${high.toString(16)}${low.toString(16).padStart(8, '0')}`;
      if (this.locations.has(address)) continue;
      this.locations.add(address);
      this.tell({ fact: 'symbol', address, name: await this.symbols.name(address) });
    }
  }

  /** A process is looked up while it is likely to be there still; a pid may come again later. */
  private introduceProcess(pid: number): void {
    if (pid === 0) return;
    const now = performance.now();
    const until = this.processes.get(pid);
    if (until !== undefined && now < until) return;
    if (this.processes.size >= MAX_PROCESSES) this.processes.clear();
    this.processes.set(pid, now + PROCESS_MS);
    const fact = processFact(pid);
    if (fact) this.tell(fact);
  }

  /** Once a second. What takes time goes on beside the draining. */
  private tick(): void {
    this.nextTick = performance.now() + TICK_MS;
    this.tellLosses();
    this.tell({ fact: 'tick' });
    if (this.scanning) return;
    this.scanning = true;
    void this.scan().finally(() => {
      this.scanning = false;
    });
  }

  private async scan(): Promise<void> {
    const found = this.chosen(await discoverNamespaces());
    if (this.closed) return;
    this.update(found);
    if (!this.host) return;
    const facts = await this.host.poll();
    if (!this.ended) this.tellHost(facts);
  }

  private update(found: readonly Namespace[]): void {
    const present = new Set(found.map(({ inode }) => inode));
    for (const namespace of found) {
      const { inode } = namespace;
      const known = this.namespaces.get(inode);
      // named after a process: keeps its first name when that process ends before the others
      const name =
        known && isOfProcess(known) && isOfProcess(namespace) ? known.name : namespace.name;
      this.misses.delete(inode);
      this.namespaces.set(inode, { ...namespace, name });
      if (known?.name !== name) this.tell({ fact: 'netns', netns: inode, name });
      if (known) continue;
      try {
        this.enter(namespace);
      } catch (error) {
        // refused: without its netfilter points it is still traced
        if (!(error instanceof SkbwhyError) && !isGone(error)) throw error;
      }
    }
    for (const { inode, name } of this.namespaces.values()) {
      if (present.has(inode)) continue;
      const misses = (this.misses.get(inode) ?? 0) + 1;
      this.misses.set(inode, misses);
      if (misses < MISSES) continue;
      this.misses.delete(inode);
      this.namespaces.delete(inode);
      this.probe.detachNetns(inode);
      this.probe.disallowNetns(inode);
      this.tell({ fact: 'netns', netns: inode, name, gone: true });
    }
  }

  private chosen(found: readonly Namespace[]): Namespace[] {
    const { netns } = this.options;
    return found.filter(({ name }) => netns === undefined || netns.includes(name));
  }

  private enter({ path, inode }: Namespace): void {
    this.probe.allowNetns(inode);
    this.probe.attachNetns(path, inode);
  }

  private tell(fact: Fact): void {
    this.facts.push(encodeFact(fact, monotonicNs()));
  }

  private tellHost(facts: readonly Fact[]): void {
    for (const fact of facts) {
      if (fact.fact === 'device' && fact.tunnel && !fact.gone)
        this.probe.addTunnelPort(fact.tunnel.kind, fact.tunnel.port);
      this.tell(fact);
    }
  }

  private tellLosses(): void {
    const now = this.probe.losses();
    const fact: LostFact = { fact: 'lost', ring: {}, missed: {} };
    now.ring.forEach((count, cpu) => {
      const more = count - (this.losses.ring[cpu] ?? 0);
      if (more > 0) fact.ring[cpu] = more;
    });
    for (const [program, count] of now.missed) {
      const more = count - (this.losses.missed.get(program) ?? 0);
      if (more > 0) fact.missed[program] = more;
    }
    this.losses = now;
    if (Object.keys(fact.ring).length + Object.keys(fact.missed).length > 0) this.tell(fact);
  }

  private sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

function watchHost(namespaces: () => Namespace[]): HostSource {
  return new HostWatch(namespaces);
}

function isOfProcess({ name }: Namespace): boolean {
  return name.startsWith('pid:');
}

/** Whether a namespace went between being found and being entered. */
function isGone(error: unknown): boolean {
  return ['ENOENT', 'ESRCH', 'netns-missing'].includes((error as { code?: string }).code ?? '');
}

function immediate(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function describe(probe: Probe, options: TraceOptions): SessionHeader {
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  const startNs = monotonicNs();
  const realtimeUs = (performance.timeOrigin + performance.now()) * 1000;
  return {
    format: 1,
    id: createHash('sha256').update(`${boot} ${startNs} ${process.pid}`).digest('hex').slice(0, 12),
    node: hostname(),
    boot,
    startedAt: new Date(realtimeUs / 1000).toISOString(),
    kernel: { release: release(), version: version(), machine: machine(), hz: probe.hz },
    clock: { startNs, realtimeOffsetUs: Math.round(realtimeUs - startNs / 1000) },
    // a script may have broken it over lines
    filter: options.filter?.trim().replace(/\s+/g, ' ') ?? null,
    netns: options.netns ?? null,
    plan: probe.plan,
    layout: LAYOUT,
    reasons: probe.reasons,
  };
}
