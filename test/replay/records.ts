import { LAYOUT } from '../../src/event/layout.js';
import type { Batch, Session, SessionHeader } from '../../src/session/session.js';

const TIME = LAYOUT.time[0];

/** A session in memory, of the records that it is given. */
export class Records implements Session {
  private readonly records: Buffer[] = [];

  constructor(readonly header: SessionHeader) {}

  /** Takes a record, which happened so much earlier by this session's clock, ns; negative: later. */
  push(record: Buffer, earlier = 0n): void {
    const own = Buffer.from(record);
    own.writeBigUInt64LE(own.readBigUInt64LE(TIME) - earlier, TIME);
    this.records.push(own);
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- a Session is asynchronous
  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void> {
    for (const [firstSeq, bytes] of this.records.entries()) yield { firstSeq, count: 1, bytes };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
