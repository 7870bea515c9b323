import { AT, Cursor } from '../event/cursor.js';
import { EVENT_SKIPPED, EVENT_THINNED, EVENT_TUNNEL } from '../event/flags.js';
import { formatEndpoint, Headers, IPPROTO_TCP, IPPROTO_UDP } from '../event/headers.js';
import { Point, TOLD_BY_OTHERS } from '../event/point.js';
import { clockOffsets } from '../session/merge.js';
import type { Batch, SessionHeader } from '../session/session.js';
import { assured } from './assurance.js';
import { ConntrackEntries } from './exchanges/conntrack-entries.js';
import { countersRisen, passedBy, SAMPLED_AFTER, type Passed } from './counters.js';
import type { Case, Diagnoser, Upstream } from './diagnose.js';
import { entryAnswers, type EntryAnswers } from './entry-answers.js';
import { inferReason } from './reading/drop-reason.js';
import type { Exchange } from './exchanges/exchange.js';
import type { Finding, Lost, Report, Subject, Unexplained } from './finding.js';
import { HeldExchanges } from './exchanges/held-exchanges.js';
import { JudgementPace } from './exchanges/judgement-pace.js';
import { Line } from './exchanges/line.js';
import { IPS_SRC_NAT, isAtFunction, type Observation } from './exchanges/observation.js';
import { DnsLookups, Lookup } from './exchanges/dns-lookups.js';
import { TcpConnects } from './exchanges/tcp-connects.js';
import { TcpTransfers } from './exchanges/tcp-transfers.js';
import type { Registry, Seen, Tracker } from './exchanges/tracker.js';
import { unexplained } from './unexplained.js';
import { unseenDepartures } from './reading/unseen-departures.js';
import { World } from './world.js';
import { toMicroseconds } from './wording.js';

/** What the end of the session cut in its first moments is left alone. */
const CUT_MS = 500;
/** How long after its end an exchange waits for what is told late, ns: by another session, or out of order. */
const LINGER = 20e6;
/** Exchanges in memory, unless told otherwise. */
export const MAX_EXCHANGES = 50_000;

/** How long after a loss its fact may come, ns. */
const LOSS_DELAY = 1.5e9;

/** Without these, what went wrong may not have been seen at all. */
const ESSENTIAL: ReadonlySet<string> = new Set([
  'device.transmit',
  'device.receive',
  'packet.drop',
  'socket.state',
]);
/** Findings, and entries without one, that are kept for the report: an outage makes any number. */
const MAX_KEPT = 1000;
/** Losses remembered; they are told once a second, and no exchange lasts that long. */
const MAX_LOSSES = 4096;

/** TCP_SYN_SENT, TCP_SYN_RECV, TCP_CLOSE, TCP_LISTEN, TCP_NEW_SYN_RECV (include/net/tcp_states.h): before a connection stands */
const OPENING: ReadonlySet<number> = new Set([2, 3, 7, 10, 12]);
/** Data that was there already, or that nobody wants any more (include/net/dropreason-core.h). */
const NO_LOSS: ReadonlySet<string> = new Set([
  'QUEUE_PURGE',
  'TCP_ACK_UNSENT_DATA',
  'TCP_CLOSE',
  'TCP_FIN',
  'TCP_OFOMERGE',
  'TCP_OLD_ACK',
  'TCP_OLD_DATA',
  'TCP_OLD_SEQUENCE',
  'TCP_RESET',
]);
/** what a diagnosis knows about, unless it says so */
const MOST_KINDS: readonly Subject['kind'][] = ['tcp-connect', 'dns-lookup'];
const DNS_PORT = 53;

interface Source {
  id: string;
  header: SessionHeader;
  world: World;
  /** shared, as the world is, by the sessions of one boot */
  entries: ConntrackEntries;
  /** namespace → session that is believed about it; shared by the sessions of one boot */
  owners: Map<number, number>;
  cursor: Cursor;
  startNs: number;
  /** what its times need to be on the common clock, ns: see clockOffsets */
  offset: number;
  records: number;
  events: number;
  lastTime: number;
  /** nothing of it comes any more, though others may go on */
  over: boolean;
}

export interface ExplainerOptions {
  /** what takes longer than this is looked into, ms; 500 if not told */
  slowMs?: number;
  /** exchanges in memory at once; 50,000 if not told. See HeldExchanges for who is forgotten */
  maxExchanges?: number;
}

type FindingBody = Omit<Finding, 'id' | 'revision'>;

interface Published {
  finding: Finding;
  /** as diagnosed, before losses and counters were looked at */
  body: FindingBody;
  span: Span;
}

/** When and where an exchange took place. */
interface Span {
  from: number;
  to: number;
  unseen: number;
  passed: readonly Passed[];
}

/**
 * Turns records into findings. Reads records and session headers, never the clock, the kernel or
 * the network: a replayed session gives byte for byte the findings of the live one, however it was
 * cut into batches.
 */
export class Explainer implements Registry {
  private readonly sources: Source[];
  /** when the first session began, common clock, ns */
  private readonly startNs: number;
  /** the latest time in any record, common clock, ns */
  private now: number;
  /** CLOCK_REALTIME − common clock, ms */
  private readonly realtimeMs: number;
  private readonly worlds: World[];
  private readonly entryAnswers: EntryAnswers;
  private readonly headers = new Headers();
  private readonly held: HeldExchanges;
  /** those that ended as they should not have, by when they are judged at last */
  private readonly ending = new Map<Exchange, number>();
  /** to be judged, the longest waiting first */
  private readonly due = new Line<Exchange>();
  private readonly pace = new JudgementPace();
  private readonly slowMs: number;
  private readonly tcp: TcpConnects;
  private readonly transfers: TcpTransfers;
  private readonly dns: DnsLookups;
  private readonly published = new Map<string, Published>();
  /** ended without a verdict, while the counters that may prove one were not sampled since */
  private readonly unsampled = new Set<Exchange>();
  /** findings whose counters may not have been sampled since, by id: the end of the exchange */
  private readonly uncounted = new Map<string, number>();
  private readonly unexplained_: Unexplained[] = [];
  private freshUnexplained: Unexplained[] = [];
  /** how many there ever were, those no longer kept included */
  private readonly ever = { findings: 0, unexplained: 0 };
  private readonly lossTimes: { time: number; events: number }[] = [];
  private readonly lost: Lost = { ring: 0, missed: 0, exchanges: 0 };
  private nextId = 1;
  private fresh: Finding[] = [];

  /**
   * @param headers of the sessions to explain together
   * @param diagnosers the known causes
   */
  constructor(
    headers: SessionHeader | readonly SessionHeader[],
    private readonly diagnosers: readonly Diagnoser[],
    options: ExplainerOptions = {},
  ) {
    this.slowMs = options.slowMs ?? 500;
    this.held = new HeldExchanges(options.maxExchanges ?? MAX_EXCHANGES);
    this.tcp = new TcpConnects(this, this.slowMs);
    this.transfers = new TcpTransfers(this, this.slowMs);
    this.dns = new DnsLookups(this, this.slowMs);
    const list: readonly SessionHeader[] = Array.isArray(headers) ? headers : [headers];
    const byBoot = new Map<string, Pick<Source, 'world' | 'entries' | 'owners'>>();
    const offsets = clockOffsets(list.map((header) => ({ header })));
    this.sources = list.map((header, i) => {
      const offset = offsets[i]!;
      let machine = byBoot.get(header.boot);
      if (!machine)
        byBoot.set(
          header.boot,
          (machine = {
            world: new World(offset),
            entries: new ConntrackEntries(),
            owners: new Map<number, number>(),
          }),
        );
      return {
        id: header.id,
        header,
        ...machine,
        cursor: new Cursor(),
        startNs: header.clock.startNs + offset,
        offset,
        records: 0,
        events: 0,
        lastTime: header.clock.startNs + offset,
        over: false,
      };
    });
    this.startNs = Math.min(...this.sources.map(({ startNs }) => startNs));
    this.now = this.startNs;
    const [first] = this.sources;
    this.realtimeMs = first!.header.clock.realtimeOffsetUs / 1000 - first!.offset / 1e6;
    this.worlds = [...byBoot.values()].map((machine) => machine.world);
    this.entryAnswers = entryAnswers(this.sources);
  }

  /**
   * Takes a batch of one session in.
   * @param session index of its header
   * @returns findings that were published or changed by it
   */
  feed(batch: Batch, session = 0): Finding[] {
    const source = this.sources[session]!;
    const cursor = source.cursor.reset(batch.bytes, batch.firstSeq);
    while (cursor.next()) {
      source.records++;
      const time = cursor.time + source.offset;
      if (time > source.lastTime) {
        this.pace.pass(time - source.lastTime);
        source.lastTime = time;
        this.now = Math.max(this.now, time);
        if (this.ending.size > 0) this.settle(time);
      }
      if (cursor.isFact) this.fact(source, cursor, time);
      else {
        source.events++;
        if (this.sources.length === 1 || this.owns(source, session, cursor.netns))
          this.event(cursor, session, time);
      }
      while (this.due.size > 0 && this.pace.take()) this.judgeNext();
    }
    return this.take();
  }

  /**
   * Nothing more comes of one of several sessions: about the namespaces that it spoke of others of its
   * boot are believed from now on, be it the one that watched them, too, or the next one.
   * @param session index of its header
   */
  ended(session: number): void {
    const source = this.sources[session]!;
    const { owners } = source;
    source.over = true;
    for (const [netns, owner] of owners) if (owner === session) owners.delete(netns);
  }

  /** The last session ended: what is still open is judged as it stands. */
  finish(): Finding[] {
    this.dns.settle();
    this.settle(Infinity);
    for (const exchange of [...this.open].sort((a, b) => a.startedAt - b.startedAt || a.id - b.id))
      this.close(exchange, 0);
    while (this.due.size > 0) this.judgeNext();
    this.judgeSampled(Infinity);
    while (this.due.size > 0) this.judgeNext();
    this.recount(Infinity);
    return this.take();
  }

  /** Exchanges without a verdict that ended since this was last asked. */
  takeUnexplained(): Unexplained[] {
    const fresh = this.freshUnexplained;
    this.freshUnexplained = [];
    return fresh;
  }

  /** Everything known so far, findings in the order in which their exchanges began. */
  report(): Report {
    const byStart = <T extends { startedAt: string; id: string }>(a: T, b: T): number =>
      a.startedAt < b.startedAt ? -1 : a.startedAt > b.startedAt ? 1 : a.id < b.id ? -1 : 1;
    return {
      sessions: this.sources.map((source) => {
        const { id, header, startNs, lastTime, records, events } = source;
        const notAttached = header.plan
          .filter(({ point, mechanism }) => mechanism === null && !TOLD_BY_OTHERS.has(point))
          .map(({ point, reason = '' }) => ({ point, reason }));
        return {
          id,
          node: header.node,
          kernel: header.kernel.release,
          startedAt: header.startedAt,
          durationMs: toMicroseconds((lastTime - startNs) / 1e6),
          records,
          events,
          truncated: null,
          mechanisms: [...new Set(header.plan.flatMap(({ mechanism }) => mechanism ?? []))],
          blind: notAttached.filter(({ point }) => ESSENTIAL.has(point)),
          notAttached,
        };
      }),
      findings: [...this.published.values()].map((p) => p.finding).sort(byStart),
      unexplained: [...this.unexplained_].sort(byStart),
      omitted: {
        findings: this.ever.findings - this.published.size,
        unexplained: this.ever.unexplained - this.unexplained_.length,
      },
      lost: { ...this.lost },
    };
  }

  /** Exchanges seen so far by kind, healthy ones included. */
  readonly seen: Record<Subject['kind'], number> = {
    'tcp-connect': 0,
    'tcp-transfer': 0,
    'dns-lookup': 0,
  };

  get open(): Iterable<Exchange> {
    return this.held.open;
  }

  /**
   * Two sessions that watched one namespace at the same time tell everything twice, and a packet
   * passes a place once: the session that speaks of it first is believed, as long as it lasts.
   */
  private owns(source: Source, session: number, netns: number): boolean {
    const owner = source.owners.get(netns);
    if (owner === undefined) source.owners.set(netns, session);
    return owner === undefined || owner === session;
  }

  private take(): Finding[] {
    const fresh = this.fresh;
    this.fresh = [];
    return fresh;
  }

  private fact(source: Source, cursor: Cursor, time: number): void {
    const fact = cursor.fact();
    if (fact.fact === 'lost') {
      const ring = sum(fact.ring);
      const missed = sum(fact.missed);
      this.lost.ring += ring;
      this.lost.missed += missed;
      this.lossTimes.push({ time, events: ring + missed });
      if (this.lossTimes.length > MAX_LOSSES) this.lossTimes.shift();
      this.reconsider(time);
    } else if (fact.fact === 'tick') {
      this.tcp.expire(time);
      this.transfers.expire(time);
      this.dns.expire(time);
      this.judgeSampled(time);
      this.recount(time);
    } else source.world.learn(fact, time, { session: source.id, seq: cursor.seq });
  }

  private event(cursor: Cursor, session: number, time: number): void {
    const { point } = cursor;
    if (point === Point['socket.state'] || point === Point['tcp.retransmit']) {
      const opening = OPENING.has(cursor.u8(AT.old_state));
      if (!opening) this.tcp.stands(cursor.sock);
      const tracker = opening ? this.tcp : this.transfers;
      if (point === Point['socket.state']) tracker.socketState(cursor, session, time);
      else tracker.retransmit(cursor, session, time);
    } else if (point === Point['conntrack.delete'])
      this.sources[session]!.entries.ends(cursor, session, time);
    else this.packet(cursor, session, time, point);
  }

  private packet(cursor: Cursor, session: number, time: number, point: number): void {
    const { headers } = this;
    const tunnel = (cursor.flags & EVENT_TUNNEL) !== 0;
    if (!headers.parse(cursor.bytes, cursor.base + AT.packet, cursor.packetLength, tunnel)) return;
    const { flow, quoted } = headers;
    if (flow.l4 < 0 && quoted.l4 < 0) return;
    // of a tunnel's own entries those that are translated: where nothing is wrong they are few, if any
    if (!tunnel || (cursor.ctStatus & IPS_SRC_NAT) !== 0)
      this.sources[session]!.entries.see(cursor, session, time);
    const seen: Seen = { cursor, headers, session, time, point, tunnel };
    const skipped = (cursor.flags & EVENT_SKIPPED) !== 0;
    if (skipped) this.lost.missed++;
    if ((cursor.flags & EVENT_THINNED) !== 0) {
      if (skipped && quoted.version === 0) {
        this.transfers.unseen(seen);
        return;
      }
      const { reasons } = this.sources[session]!.header;
      if (point === Point['packet.drop'] && NO_LOSS.has(reasons[cursor.u32(AT.reason)] ?? ''))
        return;
      this.transfers.packet(seen);
      if (quoted.version !== 0 && quoted.protocol === IPPROTO_UDP) this.dns.error(seen);
      return;
    }
    const tracker =
      flow.protocol === IPPROTO_TCP ? this.tcp : flow.protocol === IPPROTO_UDP ? this.dns : null;
    if (isAtFunction(point, cursor.hook)) {
      tracker?.witness(seen);
      return;
    }
    tracker?.packet(seen);
    if (tracker === this.tcp && (flow.dport === DNS_PORT || flow.sport === DNS_PORT))
      this.dns.retried(seen);
  }

  begin(exchange: Exchange, tracker: Tracker): boolean {
    exchange.id = this.nextId++;
    this.seen[exchange.kind]++;
    if (this.held.full) {
      this.lost.exchanges++;
      const forgotten = this.held.first();
      if (!forgotten) return false;
      this.held.trackerOf(forgotten)?.forget(forgotten, true);
      this.drop(forgotten);
    }
    this.held.add(exchange, tracker);
    return true;
  }

  close(exchange: Exchange, time: number, outcome?: 'recovered' | 'failed'): void {
    const tracker = this.held.trackerOf(exchange);
    if (!tracker || this.ending.has(exchange)) return;
    if (outcome) {
      exchange.outcome = outcome;
      exchange.endedAt = time;
    }
    if (this.wasCut(exchange, outcome) || tracker.isHealthy(exchange)) {
      tracker.forget(exchange, false);
      this.drop(exchange);
    } else if (outcome) {
      this.held.suspect(exchange);
      this.ending.set(exchange, this.now + LINGER);
    } else this.end(exchange);
  }

  /** An exchange that the end of a session cut in its first moments is neither slow nor failed. */
  private wasCut(exchange: Exchange, outcome?: 'recovered' | 'failed'): boolean {
    const { attempts, dropped, startedAt } = exchange;
    if (attempts.length > 1 || dropped || outcome === 'recovered') return false;
    const isShort = (end: number): boolean => end - startedAt < CUT_MS * 1e6;
    if (!outcome && isShort(this.now)) return true;
    for (const session of exchange.sessions) {
      const { over, lastTime } = this.sources[session]!;
      if (over && isShort(lastTime)) return true;
    }
    return false;
  }

  /** Ends those that have waited until `time`. */
  private settle(time: number): void {
    for (const [exchange, until] of this.ending) {
      if (until > time) break;
      this.end(exchange);
    }
  }

  private end(exchange: Exchange): void {
    this.ending.delete(exchange);
    this.held.trackerOf(exchange)?.forget(exchange, false);
    this.held.end(exchange);
    this.judge(exchange);
  }

  /** Nothing more is to be said of it. */
  private drop(exchange: Exchange): void {
    this.held.remove(exchange);
    this.ending.delete(exchange);
    this.due.leave(exchange);
    this.unsampled.delete(exchange);
  }

  private keep(entry: Unexplained): void {
    this.freshUnexplained.push(entry);
    this.ever.unexplained++;
    if (this.unexplained_.push(entry) > MAX_KEPT) this.unexplained_.shift();
  }

  unite(whole: Exchange, part: Exchange): void {
    this.seen[part.kind]--;
    // What was said of a part of it does not hold any more.
    for (const id of part.revisions?.keys() ?? [])
      if (this.published.delete(id)) {
        this.uncounted.delete(id);
        this.ever.findings--;
      }
    if (this.due.leave(part)) this.judge(whole);
    this.drop(part);
  }

  judge(exchange: Exchange): void {
    this.held.suspect(exchange);
    this.due.join(exchange);
  }

  /** Judges the one that waits longest; one that has ended goes when there is a verdict, or can be none. */
  private judgeNext(): void {
    const exchange = this.due.shift()!;
    const view = this.caseOf(exchange);
    const found = this.diagnose(exchange, view);
    if (found) this.held.keep(exchange);
    if (!this.held.trackerOf(exchange)) {
      if (found) this.drop(exchange);
      else if (this.endWasLost(exchange)) {
        this.lost.exchanges++;
        this.drop(exchange);
      } else if (!this.unsampled.has(exchange)) this.unsampled.add(exchange);
      else {
        const entry = unexplained(
          view,
          this.findingId('unexplained', exchange),
          this.iso(exchange),
        );
        if (entry) this.keep(entry);
        this.drop(exchange);
      }
    }
    exchange.rest();
  }

  /** Those without a verdict are judged once more when the counters have been sampled after their end. */
  private judgeSampled(time: number): void {
    for (const exchange of this.unsampled)
      if ((exchange.endedAt || exchange.lastTime) + SAMPLED_AFTER <= time) this.due.join(exchange);
  }

  /** Nothing was wrong with it when events were lost, and nothing is known of it since. */
  private endWasLost(exchange: Exchange): boolean {
    const { outcome, attempts, dropped, startedAt, lastTime, unseen } = exchange;
    return (
      outcome === 'pending' &&
      attempts.length <= 1 &&
      !dropped &&
      this.lostBetween(startedAt, lastTime) + unseen > 0
    );
  }

  /** Asks every diagnoser; publishes what is new. @returns whether there is a verdict */
  private diagnose(exchange: Exchange, view: Case): boolean {
    let found = false;
    for (const diagnoser of this.diagnosers) {
      if (!(diagnoser.kinds ?? MOST_KINDS).includes(view.kind)) continue;
      const diagnosis = diagnoser.diagnose(view);
      if (!diagnosis) continue;
      found = true;
      const id = this.findingId(diagnosis.verdict, exchange);
      const revisions = (exchange.revisions ??= new Map<string, number>());
      const body = {
        ...diagnosis,
        startedAt: this.iso(exchange),
        delayMs: toMicroseconds(exchange.delayMs),
        outcome: exchange.outcome,
        counters: [],
        lostEvents: 0,
      };
      const span = {
        from: exchange.startedAt,
        to: exchange.endedAt || exchange.lastTime,
        unseen: this.unseenOf(exchange),
        passed: passedBy(view.observations),
      };
      revisions.set(id, this.publish(id, span, body, revisions.get(id)));
      this.uncounted.set(id, span.to);
    }
    return found;
  }

  /**
   * Publishes a finding when it is new or has changed, no surer than the losses around it allow.
   * @param latest its revision, where it may be kept no longer
   * @returns its revision now
   */
  private publish(id: string, span: Span, body: FindingBody, latest = 0): number {
    const { from, to, passed, unseen } = span;
    const lostEvents = this.lostBetween(from, to) + unseen;
    const counted = { ...body, lostEvents, counters: countersRisen(passed, from, to) };
    const sure: FindingBody = assured(counted, lostEvents);
    const before = this.published.get(id)?.finding;
    const revision = before?.revision ?? latest;
    if (before && JSON.stringify(before) === JSON.stringify({ id, revision, ...sure }))
      return revision;
    if (revision === 0) this.ever.findings++;
    const finding: Finding = { id, revision: revision + 1, ...sure };
    this.published.set(id, { finding, body, span });
    this.fresh.push(finding);
    if (this.published.size > MAX_KEPT) this.published.delete(this.published.keys().next().value!);
    return finding.revision;
  }

  /** A loss is told up to a second after it happened: findings already published may lie in it. */
  private reconsider(time: number): void {
    for (const [id, { body, span }] of this.published)
      if (span.to + LOSS_DELAY >= time) this.publish(id, span, body);
  }

  /** Counters are sampled about once a second: those of a finding are complete when it has been a while. */
  private recount(time: number): void {
    for (const [id, to] of this.uncounted) {
      if (to + SAMPLED_AFTER > time) continue;
      this.uncounted.delete(id);
      const known = this.published.get(id);
      if (known) this.publish(id, known.span, known.body);
    }
  }

  private upstreamOf({ upstream }: Lookup): Upstream | null {
    const first = upstream?.observations(this.sources)[0];
    if (!upstream || !first) return null;
    const { netns, startedAt, answered, answeredAt } = upstream;
    return {
      netns,
      server: formatEndpoint(first.headers.flow.destination(first.record)),
      startedAt,
      answeredAt: answered ? answeredAt : 0,
      evidence: [first.evidence],
    };
  }

  private caseOf(exchange: Exchange): Case {
    const sources = this.sources;
    const all = exchange.observations(sources);
    const observations = all.filter(({ point, hook }) => !isAtFunction(Point[point], hook));
    const first = observations[0];
    const reasonsOf = ({ evidence }: Observation) =>
      sources.find((s) => s.id === evidence.session)!.header.reasons;
    // kernels before 5.17 tell none
    const inferred = (o: Observation) =>
      Object.keys(reasonsOf(o)).length === 0 ? inferReason(o, observations) : null;
    return {
      kind: exchange.kind,
      observations,
      atFunctions: all.filter(({ point, hook }) => isAtFunction(Point[point], hook)),
      startedAt: exchange.startedAt,
      attempts: exchange.attempts,
      queries: exchange instanceof Lookup ? exchange.queries : [],
      retry: exchange instanceof Lookup ? exchange.retry : null,
      upstream: exchange instanceof Lookup ? this.upstreamOf(exchange) : null,
      slowMs: this.slowMs,
      nameServers: this.dns.nameServers,
      translation: (service) => {
        const known = this.dns.translations.get(service);
        if (!known) return null;
        const { backend, time, session, seq } = known;
        return { backend, time, evidence: { session: sources[session]!.id, seq } };
      },
      ...this.entryAnswers,
      entryMakers: (netns) =>
        sources.find((s) => s.world === (first?.world ?? this.worlds[0]))!.entries.makers(netns),
      outcome: exchange.outcome,
      endedAt: exchange.endedAt,
      netns: exchange.netns,
      world: first?.world ?? this.worlds[0]!,
      lostEvents:
        this.lostBetween(exchange.startedAt, exchange.endedAt || exchange.lastTime) +
        this.unseenOf(exchange),
      attached: (point) =>
        sources.some((s) => s.header.plan.some((p) => p.point === point && p.mechanism !== null)),
      reasonName: (o) => inferred(o)?.name ?? reasonsOf(o)[o.reason] ?? `reason ${o.reason}`,
      reasonDoubts: (o) => {
        const { name, by } = inferred(o) ?? { by: null };
        return by === null
          ? []
          : [
              `this kernel gives no reasons for drops: ${name} is taken from the place, ${o.world.symbol(o.location)}, and from ${by}`,
            ];
      },
    };
  }

  /** Events of it that the kernel neither told of nor counted as lost. */
  private unseenOf(exchange: Exchange): number {
    const { unseen, netns } = exchange;
    return unseen + unseenDepartures(exchange.observations(this.sources), netns);
  }

  /** Losses are reported about once a second: one a second later may lie in the window too. */
  private lostBetween(from: number, to: number): number {
    let events = 0;
    for (const loss of this.lossTimes)
      if (loss.time >= from && loss.time <= to + LOSS_DELAY) events += loss.events;
    return events;
  }

  private findingId(verdict: string, exchange: Exchange): string {
    const began = exchange.begunAt - this.startNs;
    return `${verdict}-${began.toString(36)}-${exchange.isn.toString(36)}`;
  }

  private iso(exchange: Exchange): string {
    return new Date(exchange.startedAt / 1e6 + this.realtimeMs).toISOString();
  }
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((a, b) => a + b, 0);
}
