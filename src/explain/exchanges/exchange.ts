import { EVENT_SKIPPED, EVENT_TUNNEL } from '../../event/flags.js';
import type { Cursor } from '../../event/cursor.js';
import { Point } from '../../event/point.js';
import type { Outcome, Subject } from '../finding.js';
import { Observation } from './observation.js';
import type { World } from '../world.js';

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
  /** events of it that must have happened, and that the kernel neither told of nor counted as lost */
  unseen = 0;
  /** findings published about it: their revisions by id */
  revisions: Map<string, number> | null = null;
  /** when it was first told of, which names it: `startedAt` may still go back */
  readonly begunAt: number;
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
    public netns: number,
    public startedAt: number,
  ) {
    this.begunAt = startedAt;
    this.lastTime = startedAt;
  }

  get delayMs(): number {
    return ((this.endedAt || this.lastTime) - this.startedAt) / 1e6;
  }

  /**
   * A request of it was seen: where it is the earliest by the clock, but was told late, the exchange
   * began there. Clocks of several sessions are not compared.
   * @returns whether its beginning moved
   */
  beganAt(cursor: Cursor, session: number, time: number): boolean {
    if (time >= this.startedAt || session !== this.entries[0]?.session) return false;
    this.startedAt = time;
    this.netns = cursor.netns;
    return true;
  }

  /**
   * The attempt that a packet seen at `place` belongs to: one with another IP identification is
   * the next attempt's (the socket counts it up: ip_select_ident_segs, include/net/ip.h, 6.x), one
   * with the same is the same packet, also where it passes a place twice (ifb gives it back, somebody
   * copies it). IPv6 has none: there a packet passes a place once.
   * @param message which of the exchange's messages it is
   * @returns true when a new attempt began
   */
  arrive(place: number, ipId: number, time: number, message = 0): boolean {
    // Attempts may be under way at once: after waiting for a neighbour they leave together.
    const current = this.attempts.findLast(
      (attempt) => attempt.message === message && (ipId === 0 || attempt.ipId === ipId),
    );
    const passed = current?.places.includes(place);
    if (current?.ipId === ipId && (ipId !== 0 || !passed)) {
      if (!passed) current.places.push(place);
      current.startedAt = Math.min(current.startedAt, time);
      return false;
    }
    // Somebody who asks without end is judged by his first attempts.
    if (this.attempts.length >= MAX_ATTEMPTS) return false;
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
    if ((cursor.flags & EVENT_SKIPPED) !== 0) this.unseen++;
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

  /**
   * Takes over another one that turned out to be a part of it: a packet that was seen behind NAT
   * before it was seen in front of it, in another session or out of order.
   * @param messageOf what the other one's message is here
   */
  absorb(part: Exchange, messageOf = (message: number): number => message): void {
    const mine = [...this.attempts];
    const theirs = part.attempts.map((attempt) => {
      const moved = { ...attempt, message: messageOf(attempt.message) };
      const same = mine.find((other) => isSame(other, moved));
      if (same) same.places.push(...moved.places);
      else this.attempts.push(moved);
      return same ?? moved;
    });
    this.attempts.sort((a, b) => a.startedAt - b.startedAt);
    const numberOf = (attempts: readonly Attempt[], n: number): number =>
      Math.max(this.attempts.indexOf(attempts[n - 1]!) + 1, 1);
    for (const entry of this.entries) entry.attempt = numberOf(mine, entry.attempt);
    for (const { session, seq, at, size, attempt } of part.entries)
      this.addRecord(part.arena.subarray(at, at + size), session, seq, numberOf(theirs, attempt));
    this.unseen += part.unseen;
    this.dropped ||= part.dropped;
    this.reset ||= part.reset;
    this.lastTime = Math.max(this.lastTime, part.lastTime);
  }

  /** The sessions that told of it, by index. */
  get sessions(): Set<number> {
    return new Set(this.entries.map(({ session }) => session));
  }

  /** Forgets what was decoded: it takes many times the records' own memory. */
  rest(): void {
    this.decoded = null;
  }

  /** Every event of it so far, in the order of time; those at functions too. */
  observations(
    sessions: readonly { id: string; world: World; offset: number }[],
  ): readonly Observation[] {
    this.decoded ??= this.entries
      .map(({ session, seq, at, size, attempt }) => {
        const { id, world, offset } = sessions[session]!;
        const record = this.arena.subarray(at, at + size);
        return new Observation(record, { session: id, seq }, world, attempt, offset);
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

/** Copies of one packet are seen within so long, ns; it is repeated later. */
const ON_ITS_WAY = 0.5e9;

/** Do two exchanges that are one mean the same attempt? NAT leaves the IP identification as it is. */
function isSame(a: Attempt, b: Attempt): boolean {
  return (
    a.message === b.message &&
    a.ipId === b.ipId &&
    (a.ipId !== 0 || Math.abs(a.startedAt - b.startedAt) < ON_ITS_WAY)
  );
}

const MAX_RECORDS = 4096;
/** A kernel sends a SYN 128 times at most (tcp_syn_retries, MAX_TCP_SYNCNT). */
export const MAX_ATTEMPTS = 128;
/** A third of what a healthy connect on one node takes: many that fail at once stay small. */
const ARENA_BYTES = 1024;

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
