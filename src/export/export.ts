import { Cursor } from '../event/cursor.js';
import type { Session } from '../session/session.js';
import type { Format } from './format.js';
import type { Output } from './output.js';

/** Writes a session out, record by record; memory stays that of one batch. */
export async function exportSession(
  session: Session,
  format: Format,
  output: Output,
  onBatch: () => void = () => undefined,
): Promise<void> {
  const cursor = new Cursor();
  await output.write(format.head());
  for await (const batch of session) {
    cursor.reset(batch.bytes, batch.firstSeq);
    while (cursor.next()) {
      const bytes = format.record(cursor);
      const full = bytes && output.write(bytes);
      if (full) await full;
    }
    onBatch();
  }
  await output.flush();
}
