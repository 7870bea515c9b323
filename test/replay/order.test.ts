import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Explainer } from '../../src/explain/explainer.js';
import type { Report } from '../../src/explain/finding.js';
import { Cursor } from '../../src/event/cursor.js';
import { loadFaults } from '../../src/faults/registry.js';
import { openFile } from '../../src/session/file-reader.js';
import type { SessionHeader } from '../../src/session/session.js';
import { random } from '../unit/session-records.js';

interface Record {
  bytes: Buffer;
  time: number;
  netns: number;
  event: boolean;
}

/** How much later one namespace is told of than the others, ns. */
const LAG = 0.3e6;
/** How far apart records of several CPUs may stand out of order, ns. */
const JITTER = 5e3;

const faults = await loadFaults();

async function recorded(verdict: string): Promise<{ header: SessionHeader; records: Record[] }> {
  const path = new URL(`../../../src/faults/${verdict}/session.skbw`, import.meta.url);
  const session = await openFile(fileURLToPath(path));
  const cursor = new Cursor();
  const records: Record[] = [];
  for await (const { bytes, firstSeq } of session)
    for (cursor.reset(bytes, firstSeq); cursor.next();)
      records.push({
        bytes: Buffer.from(bytes.subarray(cursor.base, cursor.base + cursor.size)),
        time: cursor.time,
        netns: cursor.isFact ? 0 : cursor.netns,
        event: cursor.isEvent,
      });
  await session.close();
  return { header: session.header, records };
}

function explained(
  header: SessionHeader,
  records: readonly Record[],
): { report: Report; seen: object } {
  const explainer = new Explainer(
    header,
    faults.map((fault) => fault.diagnoser),
  );
  records.forEach(({ bytes }, seq) => explainer.feed({ firstSeq: seq, count: 1, bytes }));
  explainer.finish();
  return { report: explainer.report(), seen: explainer.seen };
}

/** What has to be the same, whatever the order in which the records came. */
function gist({ report, seen }: { report: Report; seen: object }) {
  return {
    seen,
    findings: report.findings.map(
      ({ verdict, defect, subject, outcome, confidence, attempts }) => ({
        ...{ verdict, defect, outcome, confidence },
        client: subject.client,
        attempts: attempts.length,
      }),
    ),
    unexplained: report.unexplained.map(({ title }) => title),
  };
}

/** Records in the order of their time plus what `lag` says of each; facts stay where they are. */
function reordered(records: readonly Record[], lag: (record: Record) => number): Record[] {
  return records
    .map((record) => ({ record, at: record.time + (record.event ? lag(record) : 0) }))
    .sort((a, b) => a.at - b.at)
    .map(({ record }) => record);
}

for (const { verdict } of faults) {
  test(`${verdict}: an exchange is one, whichever of its namespaces is told of first`, async () => {
    const { header, records } = await recorded(verdict);
    const expected = gist(explained(header, records));
    const places = [...new Set(records.map(({ netns }) => netns))];
    for (const late of places) {
      const order = reordered(records, ({ netns }) => (netns === late ? LAG : 0));
      assert.deepEqual(gist(explained(header, order)), expected, `${late} is told of late`);
    }
  });

  test(`${verdict}: records that change places with their neighbours change nothing`, async () => {
    const { header, records } = await recorded(verdict);
    const expected = gist(explained(header, records));
    for (const seed of [1, 2, 3]) {
      const next = random(seed);
      const order = reordered(records, () => next() * JITTER);
      assert.deepEqual(gist(explained(header, order)), expected, `seed ${seed}`);
    }
  });
}
