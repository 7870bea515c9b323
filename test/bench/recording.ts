import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Cursor } from '../../src/event/cursor.js';
import { openFile } from '../../src/session/file-reader.js';

const BIN = fileURLToPath(new URL('../../../bin/skbwhy.js', import.meta.url));

/** A recorded session. */
export interface Recording {
  path: string;
  /** connects that the lab made faulty */
  faulty: number;
}

/**
 * Records the double-SNAT lab: a few faulty connects among healthy ones through the tunnel and many
 * beside it.
 * @param unrelated how many of the latter; each makes nine events
 */
export async function record(folder: string, unrelated: number): Promise<Recording> {
  const path = join(folder, `${unrelated}.skbw`);
  const faulty = 5;
  const settings = [`clients=${faulty}`, 'healthy=40', `unrelated=${unrelated}`];
  const lab = ['lab', 'double-snat', '--json', '--record', path, '--set', ...settings];
  await promisify(execFile)(process.execPath, [BIN, ...lab], { maxBuffer: 1 << 28 });
  return { path, faulty };
}

/** Its first events, each in memory of its own. */
export async function firstEvents({ path }: Recording, most: number): Promise<Buffer[]> {
  const events: Buffer[] = [];
  const cursor = new Cursor();
  const session = await openFile(path);
  for await (const { bytes, firstSeq } of session) {
    cursor.reset(bytes, firstSeq);
    while (events.length < most && cursor.next())
      if (!cursor.isFact)
        events.push(Buffer.from(bytes.subarray(cursor.base, cursor.base + cursor.size)));
    if (events.length === most) break;
  }
  await session.close();
  return events;
}
