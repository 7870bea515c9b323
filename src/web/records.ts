import { conversionFrom, type Conversion } from '../event/conversion.js';
import { AT, Cursor } from '../event/cursor.js';
import type { DnsMessage } from '../event/dns.js';
import { decodeFact, RECORD_EVENT, RECORD_FACT, type Fact } from '../event/fact.js';
import { EVENT_SKIPPED, EVENT_TUNNEL } from '../event/flags.js';
import { Headers, IPPROTO_TCP, TCP_ACK, TCP_SYN } from '../event/headers.js';
import { Point, POINTS } from '../event/point.js';
import type { Evidence } from '../explain/finding.js';
import { Observation } from '../explain/exchanges/observation.js';
import { World } from '../explain/world.js';
import { eventRow, type EventRow } from '../export/event-row.js';
import { damageOf } from '../session/records.js';
import type { SessionHeader } from '../session/session.js';
import { Window } from '../stream/window.js';

/** Latest records kept, bytes. */
const RECENT_BYTES = 16 << 20;
/** Latest drops whose numbers are remembered. */
const RECENT_DROPS = 4096;
/** Records kept because a finding points to them, bytes; the oldest go first. */
const EVIDENCE_BYTES = 16 << 20;

const DROP = Point['packet.drop'];

/** A record with its numbers named. */
export type Decoded =
  | { type: 'event'; row: EventRow; dns: DnsMessage | null; bytes: Uint8Array }
  | { type: 'fact'; seq: number; timeMs: number; fact: Fact };

/**
 * The records of one session that this page holds: the latest ones, those that findings point to,
 * and what the facts among them tell of the node.
 */
export class SessionRecords {
  readonly world = new World();
  private readonly recent = new Window(RECENT_BYTES);
  private readonly evidence = new Map<number, Buffer>();
  private evidenceBytes = 0;
  private drops: number[] = [];
  private readonly conversion: Conversion | null;
  private readonly cursor = new Cursor();
  /** events that came while this page was open */
  events = 0;
  /** events lost in the kernel meanwhile */
  lost = 0;
  /** counts the times that older records came, by which findings are shown better */
  additions = 0;

  constructor(readonly header: SessionHeader) {
    this.conversion = conversionFrom(header.layout);
  }

  /** Takes in what was known of the node before this page was opened. */
  learn(seqs: readonly number[], bytes: Uint8Array): void {
    const records = this.read(bytes, seqs.length);
    if (!records) return;
    const cursor = this.cursor.reset(records, 0);
    for (let i = 0; cursor.next(); i++) this.fact(cursor, seqs[i]!);
  }

  /** Takes in records that follow each other. */
  take(firstSeq: number, count: number, bytes: Uint8Array): void {
    const records = this.read(bytes, count);
    if (!records) return;
    const cursor = this.cursor.reset(records, firstSeq);
    while (cursor.next()) {
      if (cursor.isFact) this.fact(cursor, cursor.seq);
      else {
        this.events++;
        if ((cursor.flags & EVENT_SKIPPED) !== 0) this.lost++;
        if (cursor.point === DROP) this.drops.push(cursor.seq);
      }
    }
    if (this.drops.length > 2 * RECENT_DROPS) this.drops = this.drops.slice(-RECENT_DROPS);
    this.recent.push({ firstSeq, count, message: records, records });
  }

  /** Takes in records that the server kept as evidence. */
  takeEvidence(seqs: readonly number[], bytes: Uint8Array): void {
    const records = this.read(bytes, seqs.length);
    if (!records) return;
    const cursor = this.cursor.reset(records, 0);
    for (let i = 0; cursor.next(); i++)
      this.keep(seqs[i]!, records.subarray(cursor.base, cursor.base + cursor.size));
    this.additions++;
  }

  /** Holds on to these records; false where one of them is not here. */
  hold(evidence: readonly Evidence[]): boolean {
    let whole = true;
    for (const { session, seq } of evidence) {
      if (session !== this.header.id || this.evidence.has(seq)) continue;
      const record = this.recent.record(seq);
      if (record) this.keep(seq, record);
      else whole = false;
    }
    return whole;
  }

  has(seq: number): boolean {
    return this.evidence.has(seq) || this.recent.record(seq) !== null;
  }

  /** A record by its number; null where it is not held. */
  decode(seq: number): Decoded | null {
    const record = this.record(seq);
    if (!record) return null;
    const cursor = this.cursor.reset(record, seq);
    cursor.next();
    if (cursor.isFact)
      return { type: 'fact', seq, timeMs: this.sinceStart(cursor.time), fact: cursor.fact() };
    const row = eventRow(cursor, this.header, { world: this.world, proofs: new Map() });
    const bytes = record.subarray(AT.packet, AT.packet + (row.captured ?? 0));
    const { dns } = new Observation(record, { session: this.header.id, seq }, this.world, 0);
    return { type: 'event', row, dns, bytes };
  }

  /** What a record is, in a word: the name of the observation point, or of the fact. */
  label(seq: number): string | null {
    const record = this.record(seq);
    if (!record) return null;
    if (record[AT.kind] === RECORD_FACT) return decodeFact(record, 0).fact;
    return POINTS[record[AT.point]!] || 'event';
  }

  /** Time of a held record, ms from the session's start. */
  timeOf(seq: number): number | null {
    const record = this.record(seq);
    if (!record) return null;
    const cursor = this.cursor.reset(record, seq);
    cursor.next();
    return this.sinceStart(cursor.time);
  }

  /** Where a moment (ISO 8601) lies in the session, ms from its start. */
  placeOf(iso: string): number {
    const { startNs, realtimeOffsetUs } = this.header.clock;
    return Date.parse(iso) - startNs / 1e6 - realtimeOffsetUs / 1000;
  }

  /**
   * The drops of a TCP connect's SYNs, recognised by the sequence number that each of them bears.
   * @param evidence records of the same connect
   */
  dropsOfConnect(evidence: readonly number[]): { seq: number; timeMs: number }[] {
    const headers = new Headers();
    const synOf = (seq: number): { point: number; isn: number } | null => {
      const record = this.record(seq);
      if (!record || record[AT.kind] !== RECORD_EVENT || isSocket(record)) return null;
      const tunnel = (record[AT.flags]! & EVENT_TUNNEL) !== 0;
      if (!headers.parse(record, AT.packet, record[AT.packet_length]!, tunnel)) return null;
      const { flow } = headers;
      if (flow.protocol !== IPPROTO_TCP || (flow.flags & (TCP_SYN | TCP_ACK)) !== TCP_SYN)
        return null;
      return { point: record[AT.point]!, isn: flow.seq(record) };
    };
    const isn = evidence.map(synOf).find((syn) => syn !== null)?.isn;
    if (isn === undefined) return [];
    const drops = new Set([...evidence, ...this.drops]);
    return [...drops].flatMap((seq) => {
      const syn = synOf(seq);
      if (syn?.point !== DROP || syn.isn !== isn) return [];
      this.hold([{ session: this.header.id, seq }]);
      return [{ seq, timeMs: this.timeOf(seq)! }];
    });
  }

  private record(seq: number): Buffer | null {
    return this.evidence.get(seq) ?? this.recent.record(seq);
  }

  private sinceStart(timeNs: number): number {
    return (timeNs - this.header.clock.startNs) / 1e6;
  }

  private fact(cursor: Cursor, seq: number): void {
    const fact = cursor.fact();
    if (fact.fact === 'lost')
      for (const lost of [...Object.values(fact.ring), ...Object.values(fact.missed)])
        this.lost += lost;
    this.world.learn(fact, cursor.time, { session: this.header.id, seq });
  }

  private keep(seq: number, record: Uint8Array): void {
    if (this.evidence.has(seq)) return;
    // a copy: the whole message must not stay for one record of it
    const copy = Buffer.from(record);
    this.evidence.set(seq, copy);
    this.evidenceBytes += copy.length;
    for (const [oldest, { length }] of this.evidence) {
      if (this.evidenceBytes <= EVIDENCE_BYTES) return;
      this.evidence.delete(oldest);
      this.evidenceBytes -= length;
    }
  }

  /** The records in this version's layout; null where they are damaged. */
  private read(bytes: Uint8Array, count: number): Buffer | null {
    let records: Buffer | null = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    if (this.conversion) records = this.conversion(records);
    if (!records || damageOf(records, count) !== null) return null;
    return records;
  }
}

function isSocket(record: Buffer): boolean {
  const point = record[AT.point];
  return point === Point['socket.state'] || point === Point['tcp.retransmit'];
}
