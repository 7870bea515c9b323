import { fileURLToPath } from 'node:url';
import { Cursor } from '../../src/event/cursor.js';
import { POINTS } from '../../src/event/point.js';
import { Explainer } from '../../src/explain/explainer.js';
import type { Report } from '../../src/explain/finding.js';
import { loadFaults } from '../../src/faults/registry.js';
import type { SessionHeader } from '../../src/session/session.js';
import { recordsOf } from './copies.js';

/** A record of a session that is to be explained with some records altered or taken away. */
export interface Record {
  bytes: Buffer;
  time: number;
  /** null: a fact */
  point: string | null;
  /** null: an event */
  fact: string | null;
}

export interface Recorded {
  header: SessionHeader;
  records: Record[];
}

export const faults = await loadFaults();

/** The records of a session below the project's folder. */
export async function recordedAt(path: string): Promise<Recorded> {
  const { header, bytes } = await recordsOf(
    fileURLToPath(new URL(`../../../${path}`, import.meta.url)),
  );
  const records: Record[] = [];
  for (const cursor = new Cursor().reset(bytes, 0); cursor.next();)
    records.push({
      bytes: bytes.subarray(cursor.base, cursor.base + cursor.size),
      time: cursor.time,
      point: cursor.isEvent ? (POINTS[cursor.point] ?? null) : null,
      fact: cursor.isFact ? cursor.fact().fact : null,
    });
  return { header, records };
}

/** What is found in records. */
export function reportOf(header: SessionHeader, records: readonly Record[]): Report {
  const explainer = new Explainer(
    header,
    faults.map((fault) => fault.diagnoser),
  );
  records.forEach(({ bytes }, seq) => explainer.feed({ firstSeq: seq, count: 1, bytes }));
  explainer.finish();
  return explainer.report();
}
