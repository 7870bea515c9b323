import type { FileSession } from './file-reader.js';
import { recordSize, recordTime } from './records.js';
import type { Batch, Session, SessionHeader } from './session.js';

/** Records due within this time are given out together, ms. */
const GATHER_MS = 10;
/** A due time further away is looked at again after this, ms (timers hold 24 days at most). */
const LONGEST_SLEEP_MS = 60_000;

/** Times as fast as it was recorded. */
export type Speed = number | 'max';

/**
 * A recorded session played as if it were live: records come when they came then, at a speed. Time
 * stands with the position in the recording. Records before a place that is sought are given out
 * at once, so that what follows is understood; seeking backwards begins again at the start.
 */
export class Replay implements Session {
  readonly header: SessionHeader;
  /** Told when the speed, a pause, a seek, an arrival or the end changes how it plays. */
  onChange: () => void = () => undefined;
  private readonly startNs: number;
  private speed_: Speed;
  private paused_ = false;
  private ended_ = false;
  private closed = false;
  /** the place sought, ms; null: it is reached */
  private target: number | null = null;
  /** position at `anchorAt` (performance.now()), ms from the session's start */
  private anchorMs = 0;
  private anchorAt = performance.now();
  /** latest time among the records given out, ms */
  private reachedMs = 0;
  /** counts the times that it began again */
  private generation = 0;
  private wake: () => void = () => undefined;

  /** @param durationMs from the session's start to its last record */
  constructor(
    private readonly file: FileSession,
    readonly durationMs: number,
    speed: Speed = 1,
  ) {
    this.header = file.header;
    this.startNs = file.header.clock.startNs;
    this.speed_ = speed;
  }

  /** Where it stands: ms from the session's start. */
  get positionMs(): number {
    if (this.ended_) return this.durationMs;
    if (this.target !== null) return this.target;
    return Math.min(this.playedMs, this.durationMs);
  }

  get speed(): Speed {
    return this.speed_;
  }

  get paused(): boolean {
    return this.paused_;
  }

  get ended(): boolean {
    return this.ended_;
  }

  /** What is given out now lies before the place sought. */
  get catchingUp(): boolean {
    return this.target !== null;
  }

  setSpeed(speed: Speed): void {
    this.anchor(this.positionMs);
    this.speed_ = speed;
    this.changed();
  }

  setPaused(paused: boolean): void {
    this.anchor(this.positionMs);
    this.paused_ = paused;
    this.changed();
  }

  /** Goes to a place, ms from the session's start. */
  seek(ms: number): void {
    const target = Math.min(Math.max(ms, 0), this.durationMs);
    if (target < this.reachedMs || this.ended_) {
      this.generation++;
      this.reachedMs = 0;
    }
    this.ended_ = false;
    this.target = target;
    this.changed();
  }

  /** Resolves when it is sought in after its end, or closed. */
  async again(): Promise<void> {
    while (this.ended_ && !this.closed) await this.change(LONGEST_SLEEP_MS);
  }

  /** From the start to the end, or until a seek backwards begins again. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void> {
    const { generation } = this;
    const stale = (): boolean => this.closed || this.generation !== generation;
    if (this.target === null) this.anchor(0);
    for await (const { bytes, firstSeq } of this.file) {
      let seq = firstSeq;
      for (let at = 0; at < bytes.length;) {
        if (stale()) return;
        const { end, count } = this.before(bytes, at, this.target ?? this.limitMs());
        if (count > 0) {
          yield { firstSeq: seq, count, bytes: bytes.subarray(at, end) };
          at = end;
          seq += count;
        } else if (this.target !== null) this.arrive();
        else await this.change(this.dueIn(bytes, at));
      }
    }
    if (stale()) return;
    this.ended_ = true;
    this.target = null;
    this.onChange();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.wake();
    await this.file.close();
  }

  private arrive(): void {
    this.anchor(this.target!);
    this.target = null;
    this.onChange();
  }

  /** The records from offset `at` on that are earlier than `limit`, ms. */
  private before(bytes: Buffer, at: number, limit: number): { end: number; count: number } {
    let count = 0;
    let end = at;
    while (end < bytes.length) {
      const ms = this.timeOf(bytes, end);
      if (ms >= limit) break;
      this.reachedMs = ms;
      end += recordSize(bytes, end);
      count++;
    }
    return { end, count };
  }

  /** Records of several CPUs may be a little out of order: none comes before its turn. */
  private timeOf(bytes: Buffer, at: number): number {
    return Math.max((recordTime(bytes, at) - this.startNs) / 1e6, this.reachedMs);
  }

  /** Records before this are due now, ms. */
  private limitMs(): number {
    if (this.paused_) return -Infinity;
    return this.speed_ === 'max' ? Infinity : this.playedMs;
  }

  private dueIn(bytes: Buffer, at: number): number {
    if (this.paused_ || this.speed_ === 'max') return LONGEST_SLEEP_MS;
    return Math.max((this.timeOf(bytes, at) - this.playedMs) / this.speed_, GATHER_MS);
  }

  /** As positionMs, also beyond the last record. */
  private get playedMs(): number {
    if (this.speed_ === 'max') return this.reachedMs;
    if (this.paused_) return this.anchorMs;
    return this.anchorMs + (performance.now() - this.anchorAt) * this.speed_;
  }

  private anchor(ms: number): void {
    this.anchorMs = ms;
    this.anchorAt = performance.now();
  }

  private changed(): void {
    this.wake();
    this.onChange();
  }

  private change(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, Math.min(ms, LONGEST_SLEEP_MS));
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
