import { Cursor } from '../../src/event/cursor.js';
import { EVENT_SKIPPED } from '../../src/event/flags.js';
import type { Batch, Session } from '../../src/session/session.js';

/** Counts arrivals that the kernel skipped programs for (docs/kernels.md) on their way out of a session. */
export class Skipped {
  count = 0;
  readonly session: Session;

  constructor(session: Session) {
    this.session = Object.create(session, {
      [Symbol.asyncIterator]: { value: () => this.counted(session) },
    }) as Session;
  }

  private async *counted(session: Session): AsyncGenerator<Batch> {
    for await (const batch of session) {
      for (const cursor = new Cursor().reset(batch.bytes, batch.firstSeq); cursor.next();)
        if (cursor.isEvent && (cursor.flags & EVENT_SKIPPED) !== 0) this.count++;
      yield batch;
    }
  }
}
