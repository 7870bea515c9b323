import { fileURLToPath } from 'node:url';
import { AT, Cursor } from '../../src/event/cursor.js';
import { encodeFact, RECORD_FACT, type Fact } from '../../src/event/fact.js';
import { LAYOUT } from '../../src/event/layout.js';
import { Point, type PointName } from '../../src/event/point.js';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { recordSize } from '../../src/session/records.js';
import { recordsOf } from '../replay/copies.js';

const [KIND] = LAYOUT.kind;
const [POINT] = LAYOUT.point;
const [TIME] = LAYOUT.time;
const [PACKET_LENGTH] = LAYOUT.packet_length;
const IP_ID = LAYOUT.packet[0] + 4;

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

/**
 * Writes the recorded session of a policy's drops to `path` once more, in which the client does not
 * give up: so many more SYNs follow its last one, a second apart.
 * @param without points whose events are left out
 */
export async function insist(
  path: string,
  times: number,
  without: readonly PointName[] = [],
): Promise<void> {
  const { header, bytes } = await recordsOf(fileOf('policy-drop'));
  const records: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += recordSize(bytes, at))
    records.push(bytes.subarray(at, at + recordSize(bytes, at)));
  const isFact = (record: Buffer): boolean => record[KIND] === RECORD_FACT;
  const isDrop = (record: Buffer): boolean =>
    !isFact(record) && record[POINT] === Point['packet.drop'];
  // the last SYN: from a fact to its drop
  const end = records.findLastIndex(isDrop) + 1;
  const begin = records.slice(0, end).findLastIndex(isFact) + 1;
  const again = Array.from({ length: times }, (_, i) =>
    records.slice(begin, end).map((record) => later(record, i + 1)),
  ).flat();
  const after = records.slice(end).map((record) => later(record, times));
  const writer = await FileWriter.create(path, header);
  const unseen = new Set<number | undefined>(without.map((name) => Point[name]));
  const told = [...records.slice(0, end), ...again, ...after].filter(
    (record) => isFact(record) || !unseen.has(record[POINT]),
  );
  for (const [seq, record] of told.entries())
    await writer.write({ firstSeq: seq, count: 1, bytes: record });
  await writer.close();
}

/** The record of an event so many seconds later; its packet is the one that was sent then. */
function later(record: Buffer, seconds: number): Buffer {
  const moved = Buffer.from(record);
  moved.writeBigUInt64LE(moved.readBigUInt64LE(TIME) + BigInt(seconds * 1e9), TIME);
  if (moved[KIND] !== RECORD_FACT && moved[PACKET_LENGTH]! > 0)
    moved.writeUInt16BE(moved.readUInt16BE(IP_ID) + seconds, IP_ID);
  return moved;
}
