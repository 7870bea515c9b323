import { recordSize, recordTime } from './records.js';
import type { Batch, Session } from './session.js';

/** A run of records of one of several sessions. */
export interface MergedBatch {
  /** index into the sessions given */
  session: number;
  /** null: nothing of this session comes any more */
  batch: Batch | null;
}

/**
 * What to add to each session's times to have them on one clock, ns: that of the machine that booted
 * first, so that no time is before 0. Sessions of one boot share their monotonic clock; the others are
 * aligned by what their wall clocks said.
 */
export function clockOffsets(sessions: readonly Pick<Session, 'header'>[]): number[] {
  const bootedAt = new Map<string, number>();
  for (const { boot, clock } of sessions.map(({ header }) => header))
    if (!bootedAt.has(boot)) bootedAt.set(boot, clock.realtimeOffsetUs);
  const first = Math.min(...bootedAt.values());
  return sessions.map(({ header }) => (bootedAt.get(header.boot)! - first) * 1000);
}

/**
 * Several sessions in one order, that of their records' times: batches are cut where the order
 * goes over to another session. The order within a session stays as it is; of records at the same
 * time the first session's comes first. A single session passes through as it is.
 */
export async function* mergeSessions(
  sessions: readonly Session[],
): AsyncIterableIterator<MergedBatch> {
  if (sessions.length === 1) {
    for await (const batch of sessions[0]!) yield { session: 0, batch };
    return;
  }
  const offsets = clockOffsets(sessions);
  const sources = sessions.map((session, i) => new Head(session, i, offsets[i]!));
  try {
    await Promise.all(sources.map((source) => source.load()));
    for (;;) {
      const [next, rival] = earliestTwo(sources);
      if (!next) return;
      yield { session: next.session, batch: next.takeBefore(rival) };
      if (!next.empty) continue;
      await next.load();
      if (next.empty) yield { session: next.session, batch: null };
    }
  } finally {
    await Promise.all(sources.map((source) => source.stop()));
  }
}

/** The two sources whose next records are the earliest. */
function earliestTwo(sources: readonly Head[]): [Head | null, Head | null] {
  let first: Head | null = null;
  let second: Head | null = null;
  for (const source of sources) {
    if (source.empty) continue;
    if (!first || source.time < first.time) [first, second] = [source, first];
    else if (!second || source.time < second.time) second = source;
  }
  return [first, second];
}

/** A session with the batch that is being given out. */
class Head {
  /** time of the next record, on the common clock */
  time = Infinity;
  private batch: Batch | null = null;
  private at = 0;
  private seq = 0;
  private readonly batches: AsyncIterator<Batch>;

  constructor(
    source: Session,
    readonly session: number,
    private readonly offset: number,
  ) {
    this.batches = source[Symbol.asyncIterator]();
  }

  /** Nothing left of the batch; after load(): nor of the session. */
  get empty(): boolean {
    return this.batch === null;
  }

  async load(): Promise<void> {
    do {
      const next = await this.batches.next();
      if (next.done) return;
      if (next.value.bytes.length > 0) this.begin(next.value);
    } while (this.empty);
  }

  private begin(batch: Batch): void {
    this.batch = batch;
    this.at = 0;
    this.seq = batch.firstSeq;
    this.time = recordTime(batch.bytes, 0) + this.offset;
  }

  /** The records up to the first that is later than the rival's next; at least one. */
  takeBefore(rival: Head | null): Batch {
    const { bytes } = this.batch!;
    const limit = rival?.time ?? Infinity;
    // at the same time the earlier session goes first
    const goesFirst = rival === null || this.session < rival.session;
    const start = this.at;
    const firstSeq = this.seq;
    do {
      this.at += recordSize(bytes, this.at);
      this.seq++;
      if (this.at >= bytes.length) {
        this.batch = null;
        break;
      }
      this.time = recordTime(bytes, this.at) + this.offset;
    } while (this.time < limit || (goesFirst && this.time === limit));
    return { firstSeq, count: this.seq - firstSeq, bytes: bytes.subarray(start, this.at) };
  }

  async stop(): Promise<void> {
    await this.batches.return?.();
  }
}
