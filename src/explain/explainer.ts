import { AT, Cursor } from '../event/cursor.js';
import {
  Headers,
  IPPROTO_TCP,
  reverseKey,
  TCP_ACK,
  TCP_RST,
  TCP_SYN,
  tupleKey,
} from '../event/headers.js';
import { Point } from '../event/point.js';
import type { Batch, SessionHeader } from '../session/session.js';
import type { Case, Diagnoser } from './diagnose.js';
import { Exchange, placeOf } from './exchange.js';
import type { Finding, Lost, Report, Unexplained } from './finding.js';
import { IPS_DST_NAT, IPS_SRC_NAT, type Observation } from './observation.js';
import { unexplained } from './unexplained.js';
import { World } from './world.js';
import { toMicroseconds } from './wording.js';

/** A connect that took longer than this, or needed a second SYN, is looked into. */
const SLOW_MS = 500;
/** Exchanges open at once; the oldest is forgotten first. */
const MAX_OPEN = 50_000;
/** Sockets between connect() and their first SYN. */
const MAX_PENDING_SOCKETS = 4096;

const EVENT_TUNNEL = 32;
const TCP_ESTABLISHED = 1;
const TCP_SYN_SENT = 2;

interface Source {
  id: string;
  header: SessionHeader;
  world: World;
  /** namespace → session that is believed about it; shared by the sessions of one boot */
  owners: Map<number, number>;
  cursor: Cursor;
  startNs: number;
  /** CLOCK_REALTIME − CLOCK_MONOTONIC, ms */
  realtimeMs: number;
  records: number;
  events: number;
  lastTime: number;
}

interface Published {
  finding: Finding;
  /** the finding without id and revision, to see whether it changed */
  fingerprint: string;
}

/**
 * Turns records into findings. Reads records and session headers, never the clock, the kernel or
 * the network: a replayed session gives byte for byte the findings of the live one, however it was
 * cut into batches.
 */
export class Explainer {
  private readonly sources: Source[];
  private readonly worlds: World[];
  private readonly headers = new Headers();
  private readonly open = new Set<Exchange>();
  private readonly byKey = new Map<string, Exchange>();
  private readonly bySocket = new Map<number, Exchange>();
  private readonly pendingSockets = new Map<
    number,
    { record: Buffer; session: number; seq: number; time: number }
  >();
  private readonly published = new Map<string, Published>();
  private readonly unexplained_: Unexplained[] = [];
  private readonly lossTimes: { time: number; events: number }[] = [];
  private readonly lost: Lost = { ring: 0, missed: 0, exchanges: 0 };
  private nextId = 1;
  private fresh: Finding[] = [];
  private connects = 0;

  /**
   * @param headers of the sessions to explain together
   * @param diagnosers the known causes
   */
  constructor(
    headers: SessionHeader | readonly SessionHeader[],
    private readonly diagnosers: readonly Diagnoser[],
  ) {
    const list: readonly SessionHeader[] = Array.isArray(headers) ? headers : [headers];
    const byBoot = new Map<string, { world: World; owners: Map<number, number> }>();
    this.sources = list.map((header) => {
      let machine = byBoot.get(header.boot);
      if (!machine)
        byBoot.set(
          header.boot,
          (machine = { world: new World(), owners: new Map<number, number>() }),
        );
      return {
        id: header.id,
        header,
        ...machine,
        cursor: new Cursor(),
        startNs: header.clock.startNs,
        realtimeMs: header.clock.realtimeOffsetUs / 1000,
        records: 0,
        events: 0,
        lastTime: header.clock.startNs,
      };
    });
    this.worlds = [...byBoot.values()].map((machine) => machine.world);
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
      const time = cursor.time;
      if (time > source.lastTime) source.lastTime = time;
      if (cursor.isFact) {
        this.fact(source, cursor, time);
        continue;
      }
      source.events++;
      if (this.sources.length > 1 && !this.owns(source, session, cursor.netns)) continue;
      const point = cursor.point;
      if (point === Point['socket.state']) this.socketState(cursor, session, time);
      else if (point === Point['tcp.retransmit']) this.retransmit(cursor, session, time);
      else this.packet(cursor, session, time, point);
    }
    return this.take();
  }

  /** The session ended: what is still open is judged as it stands. */
  finish(): Finding[] {
    for (const exchange of [...this.open].sort((a, b) => a.startedAt - b.startedAt || a.id - b.id))
      this.close(exchange, 0);
    return this.take();
  }

  /** Everything known so far, findings in the order in which their exchanges began. */
  report(): Report {
    const byStart = <T extends { startedAt: string; id: string }>(a: T, b: T): number =>
      a.startedAt < b.startedAt ? -1 : a.startedAt > b.startedAt ? 1 : a.id < b.id ? -1 : 1;
    return {
      sessions: this.sources.map((source) => ({
        id: source.id,
        node: source.header.node,
        kernel: source.header.kernel.release,
        startedAt: source.header.startedAt,
        durationMs: toMicroseconds((source.lastTime - source.startNs) / 1e6),
        records: source.records,
        events: source.events,
        truncated: null,
      })),
      findings: [...this.published.values()].map((p) => p.finding).sort(byStart),
      unexplained: [...this.unexplained_].sort(byStart),
      lost: { ...this.lost },
    };
  }

  /** TCP connects seen so far, healthy ones included. */
  get exchanges(): number {
    return this.connects;
  }

  /**
   * Two sessions that watched one namespace at the same time tell everything twice, and a packet
   * passes a place once: the session that speaks of it first is believed.
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
    } else if (fact.fact === 'tick') this.expire(time);
    else source.world.learn(fact, time, { session: source.id, seq: cursor.seq });
  }

  private packet(cursor: Cursor, session: number, time: number, point: number): void {
    const { bytes } = cursor;
    const packetAt = cursor.base + AT.packet;
    const tunnel = (cursor.flags & EVENT_TUNNEL) !== 0;
    if (!this.headers.parse(bytes, packetAt, cursor.packetLength, tunnel)) return;
    const flow = this.headers.flow;
    if (flow.protocol !== IPPROTO_TCP || flow.l4 < 0) return;
    const handshake = flow.flags & (TCP_SYN | TCP_ACK | TCP_RST);
    if (handshake === TCP_SYN) this.syn(cursor, session, time, point, flow.key(bytes), tunnel);
    else {
      const exchange =
        this.byKey.get(flow.reverseKey(bytes)) ??
        (handshake & TCP_RST ? this.byKey.get(flow.key(bytes)) : undefined);
      if (!exchange) return;
      const synAck = handshake === (TCP_SYN | TCP_ACK);
      if (synAck && flow.ack(bytes) !== (exchange.isn + 1) >>> 0) return;
      exchange.add(cursor, session, time);
      if (handshake & TCP_RST) exchange.reset = true;
      // A local socket tells by its state when the answer was taken; without one, the answer is
      // there when it is back where the SYN came from.
      if (
        synAck &&
        exchange.sock === 0 &&
        cursor.netns === exchange.netns &&
        point !== Point['packet.drop']
      )
        this.close(exchange, time, 'recovered');
    }
  }

  private syn(
    cursor: Cursor,
    session: number,
    time: number,
    point: number,
    key: string,
    tunnel: boolean,
  ): void {
    const isn = this.headers.flow.seq(cursor.bytes);
    const translated = !tunnel && (cursor.ctStatus & (IPS_SRC_NAT | IPS_DST_NAT)) !== 0;
    let exchange = this.find(key, isn);
    let original = '';
    let inverse = '';
    if (translated) {
      original = tupleKey(cursor.bytes, cursor.base + AT.original);
      inverse = reverseKey(tupleKey(cursor.bytes, cursor.base + AT.reply));
      exchange ??= this.find(original, isn) ?? this.find(inverse, isn);
    }
    if (!exchange) {
      exchange = this.begin(isn, cursor.netns, time);
    }
    this.alias(exchange, key);
    if (translated) {
      this.alias(exchange, original);
      this.alias(exchange, inverse);
    }
    const drop = point === Point['packet.drop'];
    const ipId = this.headers.flow.identification(cursor.bytes);
    const previous = exchange.attempts.length;
    if (!drop || previous === 0) {
      const again = exchange.arrive(placeOf(cursor), ipId, time);
      if (again && previous > 0) this.judge(exchange);
    }
    this.adopt(exchange, cursor.sock);
    exchange.add(cursor, session, time, drop ? exchange.attemptOf(ipId) : undefined);
    if (drop) {
      exchange.dropped = true;
      this.judge(exchange);
    }
  }

  private find(key: string, isn: number): Exchange | undefined {
    const exchange = this.byKey.get(key);
    if (!exchange || exchange.isn === isn) return exchange;
    // The same ports again with another sequence number: another connect.
    this.close(exchange, 0);
    return undefined;
  }

  private begin(isn: number, netns: number, time: number): Exchange {
    const exchange = new Exchange(this.nextId++, isn, netns, time);
    this.connects++;
    this.open.add(exchange);
    if (this.open.size > MAX_OPEN) {
      const oldest = this.open.values().next().value!;
      this.forget(oldest);
      this.lost.exchanges++;
    }
    return exchange;
  }

  private alias(exchange: Exchange, key: string): void {
    if (key === '' || this.byKey.get(key) === exchange) return;
    this.byKey.set(key, exchange);
    exchange.keys.push(key);
  }

  /** Ties the socket that connect() was called on to the exchange of its first SYN. */
  private adopt(exchange: Exchange, sock: number): void {
    if (sock === 0 || exchange.sock !== 0) return;
    const pending = this.pendingSockets.get(sock);
    if (!pending) return;
    this.pendingSockets.delete(sock);
    exchange.sock = sock;
    this.bySocket.set(sock, exchange);
    exchange.addRecord(pending.record, pending.session, pending.seq);
  }

  private socketState(cursor: Cursor, session: number, time: number): void {
    const sock = cursor.sock;
    const from = cursor.u8(AT.old_state);
    const to = cursor.u8(AT.new_state);
    if (to === TCP_SYN_SENT) {
      const record = Buffer.from(cursor.bytes.subarray(cursor.base, cursor.base + cursor.size));
      this.pendingSockets.delete(sock);
      this.pendingSockets.set(sock, { record, session, seq: cursor.seq, time });
      if (this.pendingSockets.size > MAX_PENDING_SOCKETS)
        this.pendingSockets.delete(this.pendingSockets.keys().next().value!);
      return;
    }
    if (from !== TCP_SYN_SENT) return;
    let exchange = this.bySocket.get(sock);
    const pending = this.pendingSockets.get(sock);
    if (!exchange && pending) {
      // No SYN of it was ever seen: it failed before the first point, or was not wanted.
      this.pendingSockets.delete(sock);
      if (to === TCP_ESTABLISHED) return;
      exchange = this.begin(0, cursor.netns, pending.time);
      exchange.addRecord(pending.record, pending.session, pending.seq);
    }
    exchange ??= this.byKey.get(tupleKey(cursor.bytes, cursor.base + AT['socket.flow']));
    if (!exchange) return;
    exchange.add(cursor, session, time);
    this.close(exchange, time, to === TCP_ESTABLISHED ? 'recovered' : 'failed');
  }

  private retransmit(cursor: Cursor, session: number, time: number): void {
    const exchange =
      this.bySocket.get(cursor.sock) ??
      this.byKey.get(tupleKey(cursor.bytes, cursor.base + AT['socket.flow']));
    if (exchange && cursor.u32(AT['socket.seq']) === exchange.isn)
      exchange.add(cursor, session, time);
  }

  /** Without a socket that says so, a client has given up when its next SYN is long overdue. */
  private expire(now: number): void {
    for (const exchange of this.open) {
      const { attempts } = exchange;
      const last = attempts.at(-1)?.startedAt ?? exchange.startedAt;
      const gap = attempts.length > 1 ? last - attempts.at(-2)!.startedAt : 1e9;
      const patience = exchange.sock ? 600e9 : 2 * gap + 5e9;
      if (now - last > patience) this.close(exchange, exchange.lastTime, 'failed');
    }
  }

  /** @param time when it ended, CLOCK_MONOTONIC ns; 0: it did not, the session did */
  private close(exchange: Exchange, time: number, outcome?: 'recovered' | 'failed'): void {
    if (outcome) {
      exchange.outcome = outcome;
      exchange.endedAt = time;
    }
    const healthy =
      outcome === 'recovered' &&
      exchange.attempts.length <= 1 &&
      !exchange.dropped &&
      exchange.delayMs < SLOW_MS;
    // An exchange that the end of the session cut in its first moments is neither slow nor failed.
    const cut =
      !outcome &&
      exchange.attempts.length <= 1 &&
      !exchange.dropped &&
      this.now() - exchange.startedAt < SLOW_MS * 1e6;
    if (!healthy && !cut && !this.judge(exchange)) {
      const entry = unexplained(
        this.caseOf(exchange),
        this.findingId('unexplained', exchange),
        this.iso(exchange),
      );
      if (entry) this.unexplained_.push(entry);
    }
    this.forget(exchange);
  }

  private now(): number {
    return Math.max(...this.sources.map((source) => source.lastTime));
  }

  private forget(exchange: Exchange): void {
    this.open.delete(exchange);
    for (const key of exchange.keys) if (this.byKey.get(key) === exchange) this.byKey.delete(key);
    if (exchange.sock && this.bySocket.get(exchange.sock) === exchange)
      this.bySocket.delete(exchange.sock);
  }

  /** Asks every diagnoser; publishes what is new. @returns whether there is a verdict */
  private judge(exchange: Exchange): boolean {
    const view = this.caseOf(exchange);
    let found = false;
    for (const diagnoser of this.diagnosers) {
      const diagnosis = diagnoser.diagnose(view);
      if (!diagnosis) continue;
      found = true;
      const id = this.findingId(diagnosis.verdict, exchange);
      const body = {
        ...diagnosis,
        startedAt: this.iso(exchange),
        delayMs: toMicroseconds(exchange.delayMs),
        outcome: exchange.outcome,
        lostEvents: view.lostEvents,
      };
      const fingerprint = JSON.stringify(body);
      const before = this.published.get(id);
      if (before?.fingerprint === fingerprint) continue;
      const finding: Finding = { id, revision: (before?.finding.revision ?? 0) + 1, ...body };
      this.published.set(id, { finding, fingerprint });
      this.fresh.push(finding);
    }
    return found;
  }

  private caseOf(exchange: Exchange): Case {
    const sources = this.sources;
    const observations = exchange.observations(sources);
    const first = observations[0];
    return {
      observations,
      startedAt: exchange.startedAt,
      attempts: exchange.attempts,
      outcome: exchange.outcome,
      endedAt: exchange.endedAt,
      netns: exchange.netns,
      world: first?.world ?? this.worlds[0]!,
      lostEvents: this.lostBetween(exchange.startedAt, exchange.endedAt || exchange.lastTime),
      attached: (point) =>
        sources.some((s) => s.header.plan.some((p) => p.point === point && p.mechanism !== null)),
      reasonName: (observation: Observation) =>
        sources.find((s) => s.id === observation.evidence.session)!.header.reasons[
          observation.reason
        ] ?? `reason ${observation.reason}`,
    };
  }

  /** Losses are reported about once a second: one a second later may lie in the window too. */
  private lostBetween(from: number, to: number): number {
    let events = 0;
    for (const loss of this.lossTimes)
      if (loss.time >= from && loss.time <= to + 1.5e9) events += loss.events;
    return events;
  }

  private findingId(verdict: string, exchange: Exchange): string {
    return `${verdict}-${(exchange.startedAt - this.sources[0]!.startNs).toString(36)}-${exchange.isn.toString(36)}`;
  }

  private iso(exchange: Exchange): string {
    return new Date(exchange.startedAt / 1e6 + this.sources[0]!.realtimeMs).toISOString();
  }
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((a, b) => a + b, 0);
}
