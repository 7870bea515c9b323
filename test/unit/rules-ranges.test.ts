import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import fc from 'fast-check';
import { intersect, prefix, subtract, union, type RangeSet } from '../../src/host/rules/ranges.js';

const range = fc
  .tuple(fc.integer({ min: 0, max: 30 }), fc.integer({ min: 0, max: 8 }))
  .map(([low, length]): RangeSet => [[BigInt(low), BigInt(low + length)]]);
const set = fc.array(range, { maxLength: 5 }).map((ranges) => union(...ranges));
const has = (values: RangeSet, n: number) =>
  values.some(([low, high]) => BigInt(n) >= low && BigInt(n) <= high);
const NUMBERS = Array.from({ length: 40 }, (_, n) => n);

suite('sets of numbers as ranges', () => {
  test('union, intersection and difference hold what they should', () => {
    fc.assert(
      fc.property(set, set, (a, b) => {
        for (const n of NUMBERS) {
          assert.equal(has(union(a, b), n), has(a, n) || has(b, n));
          assert.equal(has(intersect(a, b), n), has(a, n) && has(b, n));
          assert.equal(has(subtract(a, b), n), has(a, n) && !has(b, n));
        }
      }),
    );
  });

  test('ranges of a union are disjoint, apart and in order', () => {
    fc.assert(
      fc.property(set, (a) => {
        for (const [at, [low, high]] of a.entries()) {
          assert.ok(low <= high);
          const next = a[at + 1];
          assert.ok(!next || next[0] > high + 1n);
        }
      }),
    );
  });

  test('prefixes of both families, with length or mask', () => {
    assert.deepEqual(prefix('10.1.2.3/8'), { family: 'ip', set: [[0x0a000000n, 0x0affffffn]] });
    assert.deepEqual(prefix('10.0.0.0/255.0.0.0'), prefix('10.0.0.0/8'));
    assert.deepEqual(prefix('fd00::/126'), {
      family: 'ip6',
      set: [[0xfdn << 120n, (0xfdn << 120n) + 3n]],
    });
    for (const text of ['', 'eth0', '10.0.0.0/33', '10.0.0.0/x']) assert.equal(prefix(text), null);
  });
});
