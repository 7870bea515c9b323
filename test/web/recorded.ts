import { fileURLToPath } from 'node:url';
import { AT, Cursor } from '../../src/event/cursor.js';
import { encodeFact, type Fact } from '../../src/event/fact.js';
import { Point, type PointName } from '../../src/event/point.js';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';

/** The recorded session of a fault. */
export function fileOf(verdict: string): string {
  return fileURLToPath(new URL(`../../../src/faults/${verdict}/session.skbw`, import.meta.url));
}

export const RECORDED = fileOf('double-snat');

export interface Changes {
  fact?: (fact: Fact) => Fact;
  /** events of these points only */
  points?: readonly PointName[];
}

/** Writes the recorded double-SNAT session to `path` once more, with changes. */
export async function rewrite(path: string, changes: Changes): Promise<void> {
  const session = await openFile(RECORDED);
  const writer = await FileWriter.create(path, session.header);
  const points = changes.points?.map((name) => Point[name]);
  const cursor = new Cursor();
  let firstSeq = 0;
  for await (const batch of session) {
    cursor.reset(batch.bytes, batch.firstSeq);
    while (cursor.next()) {
      let bytes = cursor.bytes.subarray(cursor.base, cursor.base + cursor.size);
      if (cursor.isFact) {
        if (changes.fact) bytes = encodeFact(changes.fact(cursor.fact()), cursor.u64(AT.time));
      } else if (points && !points.includes(cursor.point)) continue;
      await writer.write({ firstSeq: firstSeq++, count: 1, bytes });
    }
  }
  await session.close();
  await writer.close();
}
