import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { Packr } from 'msgpackr';
import { random } from './session-records.js';
import { pack, packWithBytes, unpack } from '../../src/stream/msgpack.js';

describe('messages of the stream', () => {
  test('come back as they were', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 4 })), (value) => {
        // msgpackr renames __proto__, at any depth, so that no message can set a prototype
        const text = JSON.stringify(value).replaceAll('__proto__', 'proto');
        const expected = JSON.parse(text) as Record<string, unknown>;
        const got = unpack(pack(expected)) as object;
        assert.deepEqual(JSON.parse(JSON.stringify(got)), expected);
      }),
    );
  });

  test('carry bytes of several pieces as one binary field', () => {
    for (const sizes of [[], [0], [1, 2, 3], [300, 70_000]]) {
      const parts = sizes.map((size, i) => Buffer.alloc(size, i + 1));
      const { data, n } = unpack(packWithBytes({ n: 7 }, 'data', parts)) as {
        data: Buffer;
        n: number;
      };
      assert.equal(n, 7);
      assert.deepEqual(Buffer.from(data), Buffer.concat(parts));
    }
  });

  test('hold plain values only', () => {
    const extensions = new Packr({ useRecords: false, moreTypes: true, structuredClone: true });
    for (const value of [new Set([1]), /a/, new Error('x'), new Date(), 2n ** 80n])
      assert.throws(() => unpack(extensions.pack({ value })), /extension/);
    assert.throws(() => unpack(new Packr({ useRecords: true }).pack({ a: 1 })), /extension/);
  });

  test('are refused when they are cut, nested too deep, promise too much or go on', () => {
    const whole = pack({
      type: 'filter',
      filter: { ports: [80, 70_000, -1, 1.5], a: 'ä'.repeat(99) },
    });
    for (let end = 0; end < whole.length; end++)
      assert.throws(() => unpack(whole.subarray(0, end)), /cut|end/);
    assert.throws(() => unpack(Buffer.concat([whole, Buffer.from([0])])), /end/);
    assert.throws(() => unpack(Buffer.alloc(40, 0x91)), /deep/);
    assert.throws(() => unpack(Buffer.from('ddffffffff', 'hex')), /cut/);
    assert.throws(() => unpack(Buffer.from('c6ffffffff00', 'hex')), /end|cut/);
  });

  test('of random bytes, and with flipped ones, do no harm', () => {
    const seed = pack({ type: 'filter', filter: { ports: [80, 443], netns: ['a', 1] } });
    const next = random(42);
    let refused = 0;
    for (let i = 0; i < 100_000; i++) {
      const bytes = Buffer.from(seed);
      for (let flips = 1 + next() * 3; flips > 0; flips--)
        bytes[Math.floor(next() * bytes.length)] = next() * 256;
      try {
        unpack(bytes);
      } catch (error) {
        assert.ok(error instanceof Error);
        refused++;
      }
    }
    assert.ok(refused > 10_000);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          unpack(Buffer.from(bytes));
        } catch (error) {
          assert.ok(error instanceof Error);
        }
      }),
      { numRuns: 5000 },
    );
  });
});
