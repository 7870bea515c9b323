import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { crc32, crc32Table } from '../../src/session/crc32.js';

describe('crc32', () => {
  test('gives the check value of the CRC-32 catalogue', () => {
    for (const each of [crc32, crc32Table])
      assert.equal(each(Buffer.from('123456789')), 0xcbf43926);
  });

  test('is the same from the table and from zlib, in one piece and in two', () =>
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), (bytes, cut) => {
        const whole = crc32(bytes);
        assert.equal(crc32Table(bytes), whole);
        assert.equal(crc32(bytes.subarray(cut), crc32(bytes.subarray(0, cut))), whole);
        assert.equal(crc32Table(bytes.subarray(cut), crc32Table(bytes.subarray(0, cut))), whole);
      }),
    ));
});
