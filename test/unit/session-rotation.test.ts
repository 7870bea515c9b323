import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { decodeFact, encodeFact, RECORD_FACT, type Fact } from '../../src/event/fact.js';
import { openFile } from '../../src/session/file-reader.js';
import { FlightRecorder } from '../../src/session/flight-recorder.js';
import { recordSize } from '../../src/session/records.js';
import { RotatingRecorder, type RotationOptions } from '../../src/session/rotation.js';
import type { Batch } from '../../src/session/session.js';
import { StandingFacts } from '../../src/session/standing-facts.js';
import { batch, event, header } from './session-records.js';

let folder: string;
let told: string[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'skbwhy-rotation-'));
  told = [];
});
afterEach(() => rmSync(folder, { recursive: true }));

const log = (_level: string, message: string) => void told.push(message);
const options = (changes: Partial<RotationOptions> = {}): RotationOptions => ({
  rotateBytes: Infinity,
  rotateMs: Infinity,
  keepTotalBytes: Infinity,
  log,
  ...changes,
});

const factBatch = (seq: number, fact: Fact, time = 1e9): Batch => ({
  firstSeq: seq,
  count: 1,
  bytes: encodeFact(fact, time),
});
const netns = (inode: number, name: string): Fact => ({ fact: 'netns', netns: inode, name });

/** Numbers of the events in a file, and its facts that are no ticks with their numbers. */
async function contents(path: string) {
  const session = await openFile(path);
  const events: number[] = [];
  const facts: [number, Fact][] = [];
  for await (const { bytes, firstSeq } of session) {
    let seq = firstSeq;
    for (let at = 0; at < bytes.length; at += recordSize(bytes, at)) {
      if (bytes[at + 4] !== RECORD_FACT) events.push(seq);
      else if (decodeFact(bytes, at).fact !== 'tick') facts.push([seq, decodeFact(bytes, at)]);
      seq++;
    }
  }
  const { truncated } = session;
  await session.close();
  return { events, facts, truncated };
}

const files = () => readdirSync(folder).sort();
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
const noTicks = (seqs: number[]) => seqs.filter((seq) => seq % 50 !== 0);

describe('facts that stand', () => {
  test('are the latest of each thing, changes put together', () => {
    const facts = new StandingFacts();
    const tell = (seq: number, fact: Fact) => facts.learnFact(seq, 1e9 + seq, fact);
    tell(0, netns(1, 'a'));
    tell(1, netns(2, 'b'));
    tell(2, { fact: 'settings', netns: 1, values: { x: '1', y: '1' } });
    tell(3, { fact: 'settings', netns: 2, values: { x: '1' } });
    tell(4, { fact: 'settings', netns: 1, values: { y: '2' } });
    tell(5, { fact: 'tick' });
    tell(6, netns(1, 'c'));
    tell(7, { fact: 'netns', netns: 2, name: 'b', gone: true });
    const { seqs, records } = facts.records();
    assert.deepEqual(seqs, [4, 6]);
    assert.deepEqual(
      records.map((record) => decodeFact(record, 0)),
      [{ fact: 'settings', netns: 1, values: { x: '1', y: '2' } }, netns(1, 'c')],
    );
    assert.equal(facts.netnsName(1), 'c');
    assert.equal(facts.netnsName(2), '');
  });

  test('do not grow without bound', () => {
    const facts = new StandingFacts();
    for (let pid = 0; pid < 10_000; pid++)
      facts.learnFact(pid, 1e9, {
        fact: 'process',
        pid,
        command: 'x',
        container: null,
        pod: null,
      });
    const { seqs } = facts.records();
    assert.equal(seqs.length, 4096);
    assert.equal(seqs.at(-1), 9999);
  });
});

describe('a recording that rotates', () => {
  test('is a whole session in each file: the facts that stand, then what follows', async () => {
    const path = join(folder, 'live.skbw');
    const recorder = await RotatingRecorder.create(path, header(), options({ rotateMs: 1 }));
    await recorder.write(factBatch(0, netns(7, 'web')));
    await recorder.write(batch(1, 100));
    await sleep(1050);
    await recorder.write(batch(101, 100));
    await recorder.close();
    const [current, aside] = files() as [string, string];
    assert.match(current, /^live\.\d{8}T\d{6}Z\.skbw$/);
    assert.equal(aside, 'live.skbw');
    const first = await contents(join(folder, current));
    const second = await contents(path);
    assert.equal(first.truncated, null);
    assert.deepEqual(first.events, noTicks(range(1, 101)));
    assert.deepEqual(second.events, noTicks(range(101, 201)));
    assert.deepEqual(second.facts, [[0, netns(7, 'web')]]);
  });

  test('never writes over an earlier one', async () => {
    const path = join(folder, 'live.skbw');
    for (let i = 0; i < 3; i++) {
      const recorder = await RotatingRecorder.create(path, header(), options());
      await recorder.write(batch(i * 10, 10));
      await recorder.close();
    }
    assert.equal(files().length, 3);
    const all = await Promise.all(files().map((name) => contents(join(folder, name))));
    const seqs = all.flatMap(({ events }) => events).sort((a, b) => a - b);
    assert.deepEqual(seqs, noTicks(range(0, 30)));
  });

  test('keeps to its total: the oldest go', async () => {
    const path = join(folder, 'live.skbw');
    const limits = { rotateBytes: 20_000, keepTotalBytes: 80_000 };
    const recorder = await RotatingRecorder.create(path, header(), options(limits));
    let seq = 0;
    for (let i = 0; i < 6; i++) {
      await recorder.write({ firstSeq: seq, count: 300, bytes: noise(300) });
      seq += 300;
      await sleep(1050);
    }
    await recorder.close();
    assert.ok(told.some((line) => line.includes('deleted')));
    const total = files().reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
    assert.ok(total < 140_000, `${total}`);
    assert.equal((await contents(path)).truncated, null);
  });

  test('goes on in a new file when it was moved away or deleted', async () => {
    const path = join(folder, 'live.skbw');
    const recorder = await RotatingRecorder.create(path, header(), options());
    await recorder.write(batch(1, 40));
    renameSync(path, join(folder, 'mine'));
    await sleep(1050);
    await recorder.write(batch(41, 40));
    await sleep(1050);
    rmSync(path);
    await recorder.write(batch(81, 10));
    await sleep(1050);
    await recorder.write(batch(91, 10));
    await recorder.close();
    const mine = await contents(join(folder, 'mine'));
    assert.equal(mine.truncated, null);
    assert.deepEqual(mine.events, noTicks(range(1, 41)));
    assert.deepEqual((await contents(path)).events, noTicks(range(81, 101)));
    assert.equal(told.filter((line) => line.includes('moved away')).length, 2);
  });

  test('does not begin where it cannot', async () => {
    const path = join(folder, 'none', 'live.skbw');
    await assert.rejects(RotatingRecorder.create(path, header(), options()), {
      code: 'file-unwritable',
    });
  });
});

/** Events that do not compress. */
function noise(count: number): Buffer {
  return Buffer.concat(
    Array.from({ length: count }, (_, i) => {
      const bytes = event(1e9 + i, 192);
      for (let at = 220; at < bytes.length; at++) bytes[at] = Math.random() * 256;
      return bytes;
    }),
  );
}

describe('a flight recorder', () => {
  const second = (n: number, count = 10): Batch => ({
    firstSeq: n * count + 1,
    count,
    bytes: Buffer.concat(Array.from({ length: count }, () => event(n * 1e9, 64))),
  });
  const flightOptions = { seconds: 5, maxBytes: 1 << 20, keepTotalBytes: Infinity };

  test('writes the last seconds, with the facts that stood before them', async () => {
    const flight = await FlightRecorder.create(header(), { ...flightOptions, folder, log });
    flight.keep(factBatch(0, netns(7, 'web')));
    for (let n = 0; n < 20; n++) flight.keep(second(n));
    await flight.dump('signal');
    const [name] = files() as [string];
    assert.match(name, /^flight-.*-signal\.skbw$/);
    const { events, facts } = await contents(join(folder, name));
    assert.deepEqual(events, range(141, 201));
    assert.deepEqual(facts, [[0, netns(7, 'web')]]);
    await flight.close();
    assert.equal(files().length, 1);
  });

  test('keeps no more than its bound in memory', async () => {
    const limits = { ...flightOptions, maxBytes: 10_000 };
    const flight = await FlightRecorder.create(header(), { ...limits, folder, log });
    for (let n = 0; n < 20; n++) flight.keep(second(0, 10));
    await flight.dump('signal');
    const { events } = await contents(join(folder, files()[0]!));
    assert.ok(events.length > 10 && events.length * second(0, 1).bytes.length <= 10_000);
  });

  test('writes once for many findings, and what is owed when it ends', async () => {
    const flight = await FlightRecorder.create(header(), { ...flightOptions, folder, log });
    flight.keep(second(0));
    for (let i = 0; i < 100; i++) flight.finding('double-snat');
    await sleep(2200);
    assert.equal(files().length, 1);
    flight.finding('double-snat');
    await sleep(100);
    assert.equal(files().length, 1);
    await flight.close();
    assert.equal(files().length, 2);
    assert.equal(told.filter((line) => line.includes('written')).length, 2);
  });

  test('says when it cannot write, and goes on', async () => {
    const flight = await FlightRecorder.create(header(), { ...flightOptions, folder, log });
    flight.keep(second(0));
    rmSync(folder, { recursive: true });
    await flight.dump('signal');
    assert.match(told[0]!, /cannot be written/);
    await FlightRecorder.create(header(), { ...flightOptions, folder, log });
    await flight.dump('signal');
    assert.equal(files().length, 1);
  });
});
