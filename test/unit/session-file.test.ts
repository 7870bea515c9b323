import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { encodeFact } from '../../src/event/fact.js';
import { SkbwhyError, type ErrorCode } from '../../src/event/errors.js';
import { crc32 } from '../../src/session/crc32.js';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { encodeHead, encodePreamble, encodeTrailer } from '../../src/session/format.js';
import type { Batch, SessionHeader } from '../../src/session/session.js';
import { batch, event, header, random, readAll, records, type Content } from './session-records.js';

let folder: string;
before(() => (folder = mkdtempSync(join(tmpdir(), 'skbwhy-session-'))));
after(() => rmSync(folder, { recursive: true }));
const file = (name: string) => join(folder, name);

async function writeFile(path: string, batches: Iterable<Batch>): Promise<void> {
  const writer = await FileWriter.create(path, header());
  for (const each of batches) await writer.write(each);
  await writer.close();
}

async function readFile(path: string) {
  const session = await openFile(path);
  const content = await readAll(session);
  await session.close();
  return { ...content, session };
}

function failsWith(code: ErrorCode) {
  return (error: unknown) => {
    assert.ok(error instanceof SkbwhyError, String(error));
    assert.equal(error.code, code, error.message);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(error.message, /[\x00-\x1f]/, 'one line');
    return true;
  };
}

describe('a session file', () => {
  test('opens also where the kernel did not tell its HZ', async () => {
    const kernel = { ...header().kernel, hz: 0 };
    const path = join(folder, 'no-hz.skbw');
    await (await FileWriter.create(path, header({ kernel }))).close();
    const session = await openFile(path);
    assert.equal(session.header.kernel.hz, 0);
    await session.close();
  });

  test('gives back the header and the records, however they were cut into batches', async () => {
    const path = file('round-trip.skbw');
    const all = records(0, 12_000);
    const next = random(1);
    const batches: Batch[] = [];
    for (let seq = 0; seq < 12_000;) {
      const count = Math.min(12_000 - seq, 1 + Math.floor(next() * 400));
      batches.push(batch(seq, count));
      seq += count;
    }
    await writeFile(path, batches);
    const { session, bytes, count } = await readFile(path);
    assert.deepEqual(session.header, header());
    assert.equal(session.truncated, null);
    assert.equal(count, 12_000);
    assert.ok(bytes.equals(all));
    assert.ok(statSync(path).size < all.length / 2, 'compressed');
  });

  test('keeps header keys that this version does not know', async () => {
    const path = file('later.skbw');
    const later = { ...header(), later: { key: [1, 2] } };
    await (await FileWriter.create(path, later)).close();
    const session = await openFile(path);
    assert.equal(JSON.stringify(session.header), JSON.stringify(later));
    assert.deepEqual(await readAll(session), { bytes: Buffer.alloc(0), count: 0 });
    await session.close();
  });

  test('takes records larger than a block, and batches whose memory is used again', async () => {
    const path = file('large.skbw');
    const text = 'x'.repeat(700_000);
    const large = encodeFact({ fact: 'symbol', address: '0x1', name: text }, 1);
    const writer = await FileWriter.create(path, header());
    const bytes = Buffer.concat([event(1), large, event(2)]);
    const expected = Buffer.from(bytes);
    const written = writer.write({ firstSeq: 0, count: 3, bytes });
    bytes.fill(0xff);
    await written;
    await writer.close();
    assert.ok((await readFile(path)).bytes.equals(expected));
  });

  test('can be read more than once, and from a given record on', async () => {
    const path = file('from.skbw');
    await writeFile(path, [batch(0, 8_000)]);
    for (const cut of [0, 30]) {
      if (cut) truncateSync(path, statSync(path).size - cut);
      const session = await openFile(path);
      const all = await readAll(session);
      assert.equal(all.count, 8_000);
      assert.ok((await readAll(session)).bytes.equals(all.bytes));
      for (const seq of [0, 1, 1500, 4000, 7999]) {
        const first = (await session.from(seq).next()).value as Batch;
        assert.ok(first.firstSeq <= seq && seq < first.firstSeq + first.count);
      }
      assert.equal((await session.from(8_000).next()).done, true);
      await session.close();
    }
  });

  test('that has a gap in its numbers keeps it', async () => {
    const path = file('gap.skbw');
    await writeFile(path, [batch(0, 3), batch(10, 2)]);
    const session = await openFile(path);
    const seen: [number, number][] = [];
    for await (const { firstSeq, count } of session) seen.push([firstSeq, count]);
    await session.close();
    assert.deepEqual(seen, [
      [0, 3],
      [10, 2],
    ]);
  });

  test('is read while it is written, and loses no more than the last second', async () => {
    const path = file('growing.skbw');
    const writer = await FileWriter.create(path, header());
    assert.deepEqual(await readAll(await openFile(path)), { bytes: Buffer.alloc(0), count: 0 });
    let written = 0;
    for (let round = 0; round < 3; round++) {
      await writer.write(batch(written, 100));
      written += 100;
      await sleep(1000);
      const { session, count, bytes } = await readFile(path);
      assert.equal(count, written);
      assert.ok(bytes.equals(records(0, written)));
      assert.match(session.truncated?.message ?? '', /still being written/);
      assert.equal(session.truncated?.atByte, statSync(path).size);
    }
    const early = await openFile(path);
    await writer.write(batch(written, 100));
    await writer.close();
    assert.equal((await readAll(early)).count, written, 'ends where it ended when it was opened');
    assert.equal((await readFile(path)).session.truncated, null);
  });

  test('stops after close()', async () => {
    const path = file('closed.skbw');
    await writeFile(path, [batch(0, 8_000)]);
    const session = await openFile(path);
    let batches = 0;
    for await (const _ of session) {
      batches++;
      await session.close();
    }
    assert.equal(batches, 1);
    assert.equal((await readAll(session)).count, 0);
  });
});

describe('a damaged session file', () => {
  let whole: Buffer;
  let content: Content;
  let blocks: number[];
  /** Blocks of very different sizes, small ones above all, so that every place is met. */
  before(async () => {
    const path = file('whole.skbw');
    const writer = await FileWriter.create(path, header());
    let seq = 0;
    blocks = [];
    for (const count of [1, 2, 5, 30, 60, 4, 300]) {
      await writer.write(batch(seq, count));
      // numbers that do not follow seal the block; then the true ones go on
      await writer.write({ firstSeq: -1, count: 0, bytes: Buffer.alloc(0) });
      seq += count;
      blocks.push(seq);
    }
    await writer.close();
    whole = readFileSync(path);
    content = await readFile(path);
    assert.equal(content.count, seq);
  });

  /** Opens what `bytes` hold; null where they are refused as no session. */
  async function openBytes(bytes: Buffer): Promise<Awaited<ReturnType<typeof readFile>> | null> {
    const path = file('damaged.skbw');
    writeFileSync(path, bytes);
    try {
      return await readFile(path);
    } catch (error) {
      failsWith('bad-session')(error);
      return null;
    }
  }

  test('opens up to its last whole block when it was cut, at 1,000 random places', async () => {
    const next = random(2);
    const headerEnd = 20 + whole.readUInt32LE(12);
    const seen = new Set<number>();
    for (let i = 0; i < 1000; i++) {
      const cut = Math.floor(next() * whole.length);
      const result = await openBytes(whole.subarray(0, cut));
      assert.equal(result === null, cut < headerEnd, `cut at ${cut}`);
      if (!result) continue;
      assert.ok(blocks.includes(result.count) || result.count === 0, `cut at ${cut}`);
      assert.ok(result.bytes.equals(content.bytes.subarray(0, result.bytes.length)));
      assert.ok(result.session.truncated, `cut at ${cut}`);
      assert.ok(result.session.truncated.atByte <= cut);
      seen.add(result.count);
    }
    assert.ok(seen.size >= 5, 'places in most blocks were met');
  });

  test('never gives wrong records when a bit flips', async () => {
    const next = random(3);
    for (let i = 0; i < 1000; i++) {
      const bytes = Buffer.from(whole);
      const at = Math.floor(next() * bytes.length);
      bytes[at]! ^= 1 << Math.floor(next() * 8);
      const result = await openBytes(bytes);
      if (!result) continue;
      assert.ok(blocks.includes(result.count) || result.count === 0, `flip in byte ${at}`);
      assert.ok(result.bytes.equals(content.bytes.subarray(0, result.bytes.length)));
      if (result.count < content.count) assert.ok(result.session.truncated, `flip in byte ${at}`);
    }
  });

  test('is refused or read to where it makes sense, whatever garbage it holds', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 300 }),
        fc.constantFrom('alone', 'after the magic', 'after the header', 'after a block'),
        async (garbage, where) => {
          const headerEnd = 20 + whole.readUInt32LE(12);
          const firstBlock = headerEnd + 48 + whole.readUInt32LE(headerEnd + 4);
          const keep = { alone: 0, 'after the magic': 8, 'after the header': headerEnd }[
            where as string
          ];
          const start = whole.subarray(0, keep ?? firstBlock);
          const result = await openBytes(Buffer.concat([start, garbage]));
          if (keep === 0 || keep === 8) assert.equal(result, null);
          else assert.equal(result?.count, keep === undefined ? 1 : 0);
        },
      ),
      { numRuns: 300, seed: 4 },
    );
  });

  test('does not make the reader allocate what its lengths claim', async () => {
    const claims = { raw: 0xffffffff, stored: 0xffffffff, count: 1, firstSeq: 0 };
    const head = encodeHead({ kind: 'block', ...claims, firstTime: 0, lastTime: 0, crc: 0 });
    const start = encodePreamble(Buffer.from(JSON.stringify(header())));
    const before = process.memoryUsage().rss;
    const bytes = Buffer.concat([start, head]);
    const result = await openBytes(Buffer.concat([bytes, encodeTrailer(bytes.length)]));
    assert.equal(result?.count, 0);
    assert.ok(result.session.truncated);
    assert.ok(process.memoryUsage().rss - before < 64 << 20);
  });

  test('whose records do not add up is damaged, whatever its checksums say', async () => {
    const { deflateSync } = await import('node:zlib');
    const start = encodePreamble(Buffer.from(JSON.stringify(header())));
    const wrongSize = event(1);
    wrongSize.writeUInt32LE(wrongSize.length + 8, 0);
    const zeroSize = event(1);
    zeroSize.writeUInt32LE(0, 0);
    const packetTooLong = event(1);
    packetTooLong[93] = 255;
    const shortSocket = event(1, 8);
    shortSocket[5] = 3;
    const brokenFact = encodeFact({ fact: 'tick' }, 1);
    brokenFact.fill('[', 24);
    const longFact = encodeFact({ fact: 'tick' }, 1);
    longFact.writeUInt32LE(0xffffffff, 16);
    const bad = { wrongSize, zeroSize, packetTooLong, shortSocket, brokenFact, longFact };
    for (const [name, record] of Object.entries(bad)) {
      const stored = deflateSync(record);
      const head = encodeHead({
        kind: 'block',
        stored: stored.length,
        raw: record.length,
        count: 1,
        firstSeq: 0,
        firstTime: 1,
        lastTime: 1,
        crc: crc32(stored),
      });
      const result = await openBytes(Buffer.concat([start, head, stored]));
      assert.equal(result?.count, 0, name);
      assert.equal(result.session.truncated?.atByte, start.length, name);
    }
  });
});

describe('what is no session', () => {
  const cases: [name: string, make: () => string, code: ErrorCode][] = [
    ['a missing file', () => file('missing.skbw'), 'file-unreadable'],
    ['a directory', () => folder, 'file-unreadable'],
    ['a device', () => '/dev/null', 'file-unreadable'],
    ['a name that no file can have', () => 'a\0b', 'file-unreadable'],
    ['an empty file', () => put('empty', ''), 'bad-session'],
    ['text', () => put('text\n', 'hello, world\n'.repeat(100)), 'bad-session'],
    ['a later format', () => put('later', later()), 'bad-session'],
    [
      'a header that is no JSON',
      () => put('no-json', encodePreamble(Buffer.from('{'))),
      'bad-session',
    ],
    ['a header of something else', () => put('other', withHeader({})), 'bad-session'],
    [
      'control characters in a header',
      () => put('esc', withHeader({ node: '\x1b[2J' })),
      'bad-session',
    ],
    ['another record layout', () => put('layout', withHeader({ layout: {} })), 'bad-session'],
  ];
  function put(name: string, content: string | Buffer): string {
    writeFileSync(file(name), content);
    return file(name);
  }
  function later(): Buffer {
    const bytes = withHeader({});
    bytes.writeUInt32LE(2, 8);
    return bytes;
  }
  function withHeader(changes: Partial<SessionHeader>): Buffer {
    const all = Object.keys(changes).length ? { ...header(), ...changes } : {};
    return encodePreamble(Buffer.from(JSON.stringify(all)));
  }
  for (const [name, make, code] of cases)
    test(`${name} is refused in one line`, () => assert.rejects(openFile(make()), failsWith(code)));
});

describe('a session file that cannot be written', () => {
  test('is refused at once where its folder is missing', () =>
    assert.rejects(FileWriter.create(file('no/such'), header()), failsWith('file-unwritable')));

  test('is refused at once where it is a directory', () =>
    assert.rejects(FileWriter.create(folder, header()), failsWith('file-unwritable')));

  test('says so on a full disk', () =>
    assert.rejects(FileWriter.create('/dev/full', header()), failsWith('file-unwritable')));
});
