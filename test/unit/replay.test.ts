import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { Replay, type Speed } from '../../src/session/replay.js';
import { event, header, readAll } from './session-records.js';

/** Twenty records, 50 ms apart: 0 to 950 ms. */
const COUNT = 20;
const STEP_MS = 50;
const START = 1_000_000_000;

const folder = mkdtempSync(join(tmpdir(), 'skbwhy-replay-'));
const path = join(folder, 'session.skbw');

before(async () => {
  const writer = await FileWriter.create(path, header());
  for (let seq = 0; seq < COUNT; seq++) {
    const bytes = event(START + seq * STEP_MS * 1e6, 64, seq);
    await writer.write({ firstSeq: seq, count: 1, bytes });
  }
  await writer.close();
});
after(() => rmSync(folder, { recursive: true }));

async function open(speed: Speed): Promise<Replay> {
  const file = await openFile(path);
  return new Replay(file, ((await file.lastTime()) - file.header.clock.startNs) / 1e6, speed);
}

/** Plays until the iteration ends; notes when each record came, ms. */
async function play(replay: Replay, seen: { seq: number; at: number; caughtUp: boolean }[] = []) {
  const start = performance.now();
  for await (const { firstSeq, count } of replay)
    for (let seq = firstSeq; seq < firstSeq + count; seq++)
      seen.push({ seq, at: performance.now() - start, caughtUp: !replay.catchingUp });
  return seen;
}

describe('a replay', () => {
  test('gives out what the file holds, at full speed', async () => {
    const replay = await open('max');
    assert.equal(replay.durationMs, (COUNT - 1) * STEP_MS);
    const start = performance.now();
    const { count, bytes } = await readAll(replay);
    assert.ok(performance.now() - start < 200);
    assert.equal(count, COUNT);
    const file = await openFile(path);
    assert.deepEqual(bytes, (await readAll(file)).bytes);
    assert.equal(replay.ended, true);
    await file.close();
    await replay.close();
  });

  for (const speed of [1, 4])
    test(`gives each record out when it came, ${speed} times as fast`, async () => {
      const replay = await open(speed);
      const seen = await play(replay);
      assert.equal(seen.length, COUNT);
      for (const { seq, at } of seen) {
        const due = (seq * STEP_MS) / speed;
        assert.ok(at >= due - 2, `${seq} came after ${at} ms, ${due} ms is right`);
        assert.ok(at < due + 150, `${seq} came after ${at} ms, ${due} ms is right`);
      }
      await replay.close();
    });

  test('stands still while it is paused', async () => {
    const replay = await open(1);
    const seen: Awaited<ReturnType<typeof play>> = [];
    const playing = play(replay, seen);
    await sleep(220);
    replay.setPaused(true);
    const { length } = seen;
    const position = replay.positionMs;
    assert.ok(length >= 3 && length <= 6, `${length}`);
    await sleep(300);
    assert.equal(seen.length, length);
    assert.equal(replay.positionMs, position);
    replay.setSpeed('max');
    assert.equal(seen.length, length);
    replay.setPaused(false);
    await playing;
    assert.equal(seen.length, COUNT);
    await replay.close();
  });

  test('sought forward gives out at once what lies between', async () => {
    const replay = await open(1);
    const seen: Awaited<ReturnType<typeof play>> = [];
    const playing = play(replay, seen);
    await sleep(70);
    replay.seek(800);
    assert.equal(replay.positionMs, 800);
    await playing;
    assert.deepEqual(
      seen.map(({ seq }) => seq),
      Array.from({ length: COUNT }, (_, i) => i),
    );
    assert.deepEqual(
      seen.filter(({ caughtUp }) => !caughtUp).map(({ seq }) => seq),
      [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    );
    const total = seen.at(-1)!.at;
    assert.ok(total > 200 && total < 500, `${total} ms`);
    await replay.close();
  });

  test('sought backward begins again, also after its end', async () => {
    const replay = await open('max');
    const first = await play(replay);
    assert.equal(first.length, COUNT);
    const again = replay.again();
    replay.setSpeed(1);
    replay.seek(860);
    await again;
    const seen: Awaited<ReturnType<typeof play>> = [];
    const playing = play(replay, seen);
    await sleep(20);
    assert.equal(seen.length, 18);
    replay.seek(100);
    await playing;
    assert.equal(seen.length, 18);
    assert.equal(replay.ended, false);
    replay.setSpeed('max');
    const third = await play(replay);
    assert.equal(third.length, COUNT);
    assert.deepEqual(
      third.filter(({ caughtUp }) => !caughtUp).map(({ seq }) => seq),
      [0, 1],
    );
    await replay.close();
  });

  test('tells when how it plays changes', async () => {
    const replay = await open('max');
    const states: string[] = [];
    replay.onChange = () =>
      states.push(`${replay.positionMs} ${replay.speed} ${replay.catchingUp} ${replay.ended}`);
    replay.setPaused(true);
    const playing = play(replay);
    await sleep(20);
    replay.seek(500);
    await sleep(20);
    replay.setPaused(false);
    await playing;
    assert.deepEqual(states, [
      '0 max false false',
      '500 max true false',
      '450 max false false',
      '450 max false false',
      '950 max false true',
    ]);
    await replay.close();
  });
});
