import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressNumber, AT, Cursor } from '../../src/event/cursor.js';

const RECORD_BYTES = 512;

test('addresses of neighbours in a slab are told apart: a double alone holds the first 53 bits', () => {
  const entry = 0xffff_8880_0b22_8e00n;
  const cursor = new Cursor();
  const seen = [0n, 1n, 0x100n, 0x1000n, 0x1_0000_0000n].map((apart) => {
    const record = Buffer.alloc(RECORD_BYTES);
    record.writeUInt32LE(RECORD_BYTES, 0);
    for (const at of [AT.ct, AT.skb, AT.sock]) record.writeBigUInt64LE(entry + apart, at);
    cursor.reset(record, 0).next();
    assert.equal(cursor.ct, addressNumber(entry + apart));
    assert.equal(cursor.skb, cursor.ct);
    assert.equal(cursor.sock, cursor.ct);
    return cursor.ct;
  });
  assert.equal(new Set(seen).size, seen.length);
});
