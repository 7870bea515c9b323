import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/cli/main-path.js';
import { Cursor } from '../../src/event/cursor.js';
import type { Report } from '../../src/explain/finding.js';
import { recordsOf } from './copies.js';
import { Records } from './records.js';

/** A recorded session as two machines would have recorded it that were started at different times. */
async function split(verdict: string, second: string): Promise<[Records, Records]> {
  const path = new URL(`../../../src/faults/${verdict}/session.skbw`, import.meta.url);
  const { header, bytes } = await recordsOf(fileURLToPath(path));
  const apart = 3600;
  const here = new Records(header);
  const there = new Records({
    ...header,
    id: 'other-node',
    node: 'other',
    boot: '11111111-2222-3333-4444-555555555555',
    clock: {
      startNs: header.clock.startNs - apart * 1e9,
      realtimeOffsetUs: header.clock.realtimeOffsetUs + apart * 1e6,
    },
  });
  const earlier = BigInt(apart) * 1_000_000_000n;
  const names = new Map<number, string>();
  const cursor = new Cursor().reset(bytes, 0);
  while (cursor.next()) {
    const record = bytes.subarray(cursor.base, cursor.base + cursor.size);
    let netns: number | null = null;
    if (cursor.isFact) {
      const fact = cursor.fact();
      if (fact.fact === 'netns') names.set(fact.netns, fact.name);
      netns = 'netns' in fact ? fact.netns : null;
    } else netns = cursor.netns;
    const other = netns !== null && (names.get(netns)?.endsWith(`-${second}`) ?? false);
    // what is no namespace's (time, processes, symbols) both know
    if (netns === null || !other) here.push(record);
    if (netns === null || other) there.push(record, earlier);
  }
  return [here, there];
}

function gist({ findings, unexplained }: Report) {
  return {
    unexplained,
    findings: findings.map(({ verdict, outcome, confidence, delayMs, startedAt, attempts }) => ({
      ...{ verdict, outcome, confidence, delayMs, startedAt },
      fates: attempts.map(({ fate }) => fate),
    })),
  };
}

for (const [verdict, second] of [
  ['double-snat', 'receiver'],
  ['lost-on-the-wire', 'server'],
] as const)
  test(`${verdict}: the files of two machines, whose clocks differ, give what one gives`, async () => {
    const path = new URL(`../../../src/faults/${verdict}/session.skbw`, import.meta.url);
    const { header, bytes } = await recordsOf(fileURLToPath(path));
    const whole = new Records(header);
    for (const cursor = new Cursor().reset(bytes, 0); cursor.next();)
      whole.push(bytes.subarray(cursor.base, cursor.base + cursor.size));
    const { report } = await explain(await split(verdict, second));
    assert.deepEqual(gist(report), gist((await explain([whole])).report));
    const cited = report.findings.flatMap(({ chain }) =>
      chain.flatMap(({ evidence }) => evidence.map(({ session }) => session)),
    );
    assert.deepEqual([...new Set(cited)].sort(), [header.id, 'other-node'].sort());
  });
