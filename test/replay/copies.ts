import { LAYOUT } from '../../src/event/layout.js';
import { openFile } from '../../src/session/file-reader.js';
import { recordSize } from '../../src/session/records.js';
import type { Batch, Session, SessionHeader } from '../../src/session/session.js';

const TIME = LAYOUT.time[0];

/** All records of a recorded session, in memory. */
export async function recordsOf(path: string): Promise<{ header: SessionHeader; bytes: Buffer }> {
  const session = await openFile(path);
  const parts: Buffer[] = [];
  for await (const { bytes } of session) parts.push(Buffer.from(bytes));
  await session.close();
  return { header: session.header, bytes: Buffer.concat(parts) };
}

/**
 * A recorded session that lived through the same again and again: its records, each time so much later
 * that what went before is over.
 */
export class Copies implements Session {
  readonly header: SessionHeader;
  private readonly bytes: Buffer;
  private readonly counted: number;

  /**
   * @param count how many times
   * @param apartNs how much later each time
   * @param onCopy told before each
   */
  constructor(
    recorded: { header: SessionHeader; bytes: Buffer },
    private readonly count: number,
    private readonly apartNs: number,
    private readonly onCopy: (copy: number) => void = () => undefined,
  ) {
    this.header = recorded.header;
    this.bytes = Buffer.from(recorded.bytes);
    this.counted = 0;
    for (let at = 0; at < this.bytes.length; at += recordSize(this.bytes, at)) this.counted++;
  }

  /** of all copies */
  get records(): number {
    return this.counted * this.count;
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- a Session is asynchronous
  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void> {
    const { bytes } = this;
    const later = BigInt(Math.round(this.apartNs));
    for (let copy = 0; copy < this.count; copy++) {
      this.onCopy(copy);
      if (copy > 0)
        for (let at = 0; at < bytes.length; at += recordSize(bytes, at))
          bytes.writeBigUInt64LE(bytes.readBigUInt64LE(at + TIME) + later, at + TIME);
      yield { firstSeq: copy * this.counted, count: this.counted, bytes };
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
