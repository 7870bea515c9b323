import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { clockOffsets, mergeSessions } from '../../src/session/merge.js';
import { recordSize, recordTime } from '../../src/session/records.js';
import type { Batch, Session, SessionHeader } from '../../src/session/session.js';
import { event, header } from './session-records.js';

/** A session of records at these times, in batches of `size`. */
function session(times: number[], size = 3, changes: Partial<SessionHeader> = {}) {
  const state = { closed: false };
  async function* batches(): AsyncGenerator<Batch> {
    try {
      for (let i = 0; i < times.length; i += size) {
        await Promise.resolve();
        const part = times.slice(i, i + size);
        const bytes = Buffer.concat(part.map((time, n) => event(time, 8, i + n)));
        yield { firstSeq: i, count: part.length, bytes };
      }
    } finally {
      state.closed = true;
    }
  }
  return Object.assign(state, {
    header: header(changes),
    close: () => Promise.resolve(),
    [Symbol.asyncIterator]: batches,
  }) satisfies Session;
}

interface Seen {
  session: number;
  seq: number;
  time: number;
}

async function merged(sessions: Session[]): Promise<Seen[]> {
  const seen: Seen[] = [];
  const ended = new Set<number>();
  for await (const { session, batch } of mergeSessions(sessions)) {
    assert.ok(!ended.has(session), 'nothing comes of a session that has ended');
    if (batch === null) {
      ended.add(session);
      continue;
    }
    const { bytes, firstSeq, count } = batch;
    let seq = firstSeq;
    for (let at = 0; at < bytes.length; at += recordSize(bytes, at))
      seen.push({ session, seq: seq++, time: recordTime(bytes, at) });
    assert.equal(seq - firstSeq, count);
    assert.ok(count > 0);
  }
  if (sessions.length > 1)
    for (const { session } of seen) assert.ok(ended.has(session), `the end of ${session} was told`);
  return seen;
}

const times = fc.array(fc.nat(40), { maxLength: 20 });

describe('merging sessions', () => {
  test('gives every record once, by time, the earlier session first at the same time', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(times, { maxLength: 4 }),
        fc.integer({ min: 1, max: 5 }),
        async (all, size) => {
          const sorted = all.map((each) => each.toSorted((a, b) => a - b));
          const seen = await merged(sorted.map((each) => session(each, size)));
          const expected = sorted
            .flatMap((each, i) => each.map((time, seq) => ({ session: i, seq, time })))
            .sort((a, b) => a.time - b.time || a.session - b.session || a.seq - b.seq);
          assert.deepEqual(seen, expected);
        },
      ),
    ));

  test('keeps the order within a session where its times are not in order', () =>
    fc.assert(
      fc.asyncProperty(fc.array(times, { minLength: 1, maxLength: 3 }), async (all) => {
        const seen = await merged(all.map((each) => session(each)));
        all.forEach((each, i) =>
          assert.deepEqual(
            seen.filter((record) => record.session === i).map(({ seq, time }) => ({ seq, time })),
            each.map((time, seq) => ({ seq, time })),
          ),
        );
      }),
    ));

  test('passes a single session through untouched', async () => {
    const one = session([5, 1, 2, 9, 7]);
    const given: Batch[] = [];
    for await (const batch of one) given.push(batch);
    const got: Batch[] = [];
    for await (const { batch } of mergeSessions([one])) if (batch) got.push(batch);
    assert.deepEqual(got, given);
  });

  test('cuts batches only where the order goes over to another session', async () => {
    const runs: [session: number, records: number | undefined][] = [];
    const sessions = [session([1, 2, 3, 10, 11], 5), session([4, 5, 12], 5)];
    for await (const { session, batch } of mergeSessions(sessions))
      runs.push([session, batch?.count]);
    assert.deepEqual(runs, [
      [0, 3],
      [1, 2],
      [0, 2],
      [0, undefined],
      [1, 1],
      [1, undefined],
    ]);
  });

  test('aligns sessions of other boots by the wall clock, those of one boot not', async () => {
    const clock = (realtimeOffsetUs: number) => ({ startNs: 0, realtimeOffsetUs });
    const sessions = [
      session([1_000_000, 3_000_000], 3, { boot: 'a', clock: clock(5_000_000) }),
      session([0, 2_000_000], 3, { boot: 'b', clock: clock(5_002_000) }),
      session([1_500_000], 3, { boot: 'a', clock: clock(5_000_007) }),
    ];
    assert.deepEqual(clockOffsets(sessions), [0, 2_000_000, 0]);
    // the machine that booted first sets the clock: no time is before 0
    assert.deepEqual(clockOffsets([sessions[1]!, sessions[0]!]), [2_000_000, 0]);
    const seen = await merged(sessions);
    assert.deepEqual(
      seen.map((record) => record.session),
      [0, 2, 1, 0, 1],
    );
  });

  test('stops all sources when the consumer does', async () => {
    const sessions = [session([1, 3, 5, 7]), session([2, 4, 6, 8])];
    for await (const _ of mergeSessions(sessions)) break;
    assert.deepEqual(
      sessions.map((each) => each.closed),
      [true, true],
    );
  });
});
