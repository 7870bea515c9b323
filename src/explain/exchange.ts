import type { Cursor } from '../event/cursor.js';
import { Point } from '../event/point.js';
import type { Outcome, Subject } from './finding.js';
import { Observation } from './observation.js';
import type { World } from './world.js';

/** Where one record of an exchange stands in its arena. */
interface Entry {
  session: number;
  seq: number;
  at: number;
  size: number;
  attempt: number;
}

/**
 * One intention of an application: its attempts and what happened to each. Holds copies of its
 * records until it is forgotten, and decodes them only when somebody asks.
 */
export class Exchange {
  /** keys of the flow in every shape it was seen (before and after NAT), client to server */
  readonly keys: string[] = [];
  sock = 0;
  readonly attempts: Attempt[] = [];
  outcome: Outcome = 'pending';
  /** CLOCK_MONOTONIC ns; 0 while it lasts */
  endedAt = 0;
  /** a SYN of it was dropped somewhere */
  dropped = false;
  /** a RST answered it */
  reset = false;
  lastTime: number;
  /** findings published about it: their revisions by id */
  revisions: Map<string, number> | null = null;
  /** cached for the diagnosis, invalid when records were added */
  private decoded: Observation[] | null = null;
  private readonly entries: Entry[] = [];
  private arena = Buffer.allocUnsafe(ARENA_BYTES);
  private used = 0;

  /** running number, given by the explainer */
  id = 0;

  constructor(
    readonly kind: Subject['kind'],
    /** TCP: initial sequence number */
    readonly isn: number,
    /** namespace in which its first packet was seen */
    readonly netns: number,
    readonly startedAt: number,
  ) {
    this.lastTime = startedAt;
  }

  get delayMs(): number {
    return ((this.endedAt || this.lastTime) - this.startedAt) / 1e6;
  }

  /**
   * The attempt that a packet seen at `place` belongs to: a packet passes a place once, so a second
   * SYN there is the next attempt; so is one with another IP identification (the socket counts it
   * up: ip_select_ident_segs, include/net/ip.h, 6.x; IPv6 has none).
   * @param message which of the exchange's messages it is
   * @returns true when a new attempt began
   */
  arrive(place: number, ipId: number, time: number, message = 0): boolean {
    // Attempts may be under way at once: after waiting for a neighbour they leave together.
    const current = this.attempts.findLast(
      (attempt) => attempt.message === message && (ipId === 0 || attempt.ipId === ipId),
    );
    if (current?.ipId === ipId && !current.places.includes(place)) {
      current.places.push(place);
      return false;
    }
    this.attempts.push({ startedAt: time, message, ipId, places: [place] });
    return true;
  }

  /**
   * The attempt whose packet bears this IP identification, from 1: a packet that waited (for a
   * neighbour, in a queue) may die after later ones were sent. The current one where none does.
   */
  attemptOf(ipId: number, message = 0): number {
    const { attempts } = this;
    const index = ipId === 0 ? -1 : attempts.findLastIndex((a) => a.ipId === ipId);
    if (index >= 0) return index + 1;
    return Math.max(attempts.findLastIndex((a) => a.message === message) + 1, 1);
  }

  /** Copies the cursor's record in, as part of an attempt, the current one if not told. */
  add(cursor: Cursor, session: number, time: number, attempt?: number): void {
    this.addRecord(
      cursor.bytes.subarray(cursor.base, cursor.base + cursor.size),
      session,
      cursor.seq,
      attempt,
    );
    if (time > this.lastTime) this.lastTime = time;
  }

  addRecord(
    record: Buffer,
    session: number,
    seq: number,
    attempt = Math.max(this.attempts.length, 1),
  ): void {
    // A flood of one exchange's events must not grow it without bound; what matters is at its start and end.
    if (this.entries.length >= MAX_RECORDS) return;
    const size = record.length;
    if (this.used + size > this.arena.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.arena.length * 2, this.used + size));
      this.arena.copy(larger, 0, 0, this.used);
      this.arena = larger;
    }
    record.copy(this.arena, this.used);
    this.entries.push({
      session,
      seq,
      at: this.used,
      size,
      attempt,
    });
    this.used += size;
    this.decoded = null;
  }

  /** Forgets what was decoded: it takes many times the records' own memory. */
  rest(): void {
    this.decoded = null;
  }

  /** Every event of it so far, in the order of time. */
  observations(sessions: readonly { id: string; world: World }[]): readonly Observation[] {
    this.decoded ??= this.entries
      .map(({ session, seq, at, size, attempt }) => {
        const { id, world } = sessions[session]!;
        const record = this.arena.subarray(at, at + size);
        return new Observation(record, { session: id, seq }, world, attempt);
      })
      .sort((a, b) => a.time - b.time);
    return this.decoded;
  }
}

export interface Attempt {
  /** CLOCK_MONOTONIC ns */
  startedAt: number;
  /** which of the exchange's messages it sends: TCP has one, the SYN; a lookup one per query */
  message: number;
  /** IPv4 identification; 0 for IPv6 */
  ipId: number;
  /** where its packet was seen, see `placeOf` */
  places: number[];
}

const MAX_RECORDS = 4096;
/** A third of what a healthy connect on one node takes: many that fail at once stay small. */
const ARENA_BYTES = 1024;
const EVENT_TUNNEL = 32;

/** The namespace of a place. */
export function netnsOfPlace(place: number): number {
  return Math.floor(place / 0x200000);
}

/** Namespace, device, point, hook and layer of an event as one number below 2^53. */
export function placeOf(cursor: Cursor): number {
  // What NAT does at a hook is one place, whether it sets an entry up or applies one.
  const point = cursor.point === Point['nat.rewrite'] ? Point['nat.setup'] : cursor.point;
  return (
    cursor.netns * 0x200000 +
    ((cursor.ifindex & 0xfff) << 9) +
    ((cursor.hook & 7) << 6) +
    (point << 1) +
    (cursor.flags & EVENT_TUNNEL ? 1 : 0)
  );
}
