import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { conversionFrom } from '../../src/event/conversion.js';
import { encodeFact } from '../../src/event/fact.js';
import { LAYOUT, type Layout } from '../../src/event/layout.js';
import { Point } from '../../src/event/point.js';
import { damageOf } from '../../src/session/records.js';
import { event } from './session-records.js';

/** A later version's layout: a new field in the middle, a wider mark, one field gone. */
function laterLayout(): Layout {
  const later: Record<string, [number, number]> = {};
  for (const [name, [at, size]] of Object.entries(LAYOUT))
    later[name] = [at >= 16 ? at + 16 : at, size];
  later['news'] = [16, 8];
  later['mark'] = [24, 8];
  delete later['txrehash'];
  return later;
}

/** The same event as that version would write it. */
function asLater(record: Buffer, later: Layout): Buffer {
  const bytes = Buffer.alloc(record.length + 16, 0xee);
  for (const [name, [at, size]] of Object.entries(LAYOUT)) {
    const to = later[name];
    if (!to || name === 'packet' || (name.startsWith('socket.') && at + size > record.length))
      continue;
    bytes.fill(0, to[0], to[0] + to[1]);
    record.copy(bytes, to[0], at, at + size);
  }
  record.copy(bytes, later['packet']![0], LAYOUT.packet[0]);
  bytes.writeUInt32LE(bytes.length, 0);
  return bytes;
}

const later = laterLayout();
const convert = conversionFrom(later)!;
const txrehash = LAYOUT.txrehash[0];

describe('records of another version', () => {
  test('of the same layout are taken as they are', () => {
    assert.equal(conversionFrom(LAYOUT), null);
    assert.equal(conversionFrom({ ...LAYOUT, news: [400, 8] }), null);
  });

  test('give the fields that both know; the others say that they are not known', () => {
    for (const length of [0, 1, 60, 192]) {
      const ours = event(5_000_000_000_000, length, 77);
      ours[txrehash] = 255;
      // what is not a field
      for (const [at, size] of [
        [94, 2],
        [126, 2],
      ])
        ours.fill(0, at, at! + size!);
      ours.fill(0, LAYOUT.packet[0] + length);
      const converted = convert(asLater(ours, later))!;
      assert.equal(damageOf(converted, 1), null);
      assert.deepEqual(converted, ours, `packet of ${length} bytes`);
    }
  });

  test('of sockets keep the socket', () => {
    const ours = event(1, 72, 9);
    ours[LAYOUT.point[0]] = Point['socket.state'];
    ours[LAYOUT.packet_length[0]] = 0;
    const converted = convert(asLater(ours, later))!;
    assert.equal(damageOf(converted, 1), null);
    const [at, size] = LAYOUT['socket.rto'];
    assert.deepEqual(
      converted.subarray(LAYOUT.packet[0], at + size),
      ours.subarray(LAYOUT.packet[0], at + size),
    );
  });

  test('that are facts pass as they are, in their places', () => {
    const fact = encodeFact({ fact: 'tick' }, 7);
    const events = [event(1, 20, 1), event(2, 30, 2)].map((record) => asLater(record, later));
    const converted = convert(Buffer.concat([events[0]!, fact, events[1]!]))!;
    assert.equal(damageOf(converted, 3), null);
    assert.ok(converted.includes(fact));
  });

  test('that are cut or lie about their size are damaged', () => {
    const record = asLater(event(1, 60, 3), later);
    for (let end = 1; end < record.length; end++)
      assert.equal(convert(record.subarray(0, end)), null);
    const short = Buffer.from(record.subarray(0, 200));
    short.writeUInt32LE(200, 0);
    assert.equal(convert(short), null);
  });

  test('cannot be read without the fields that everything hangs on', () => {
    for (const name of ['size', 'kind', 'time', 'point', 'packet', 'packet_length']) {
      const { [name]: _, ...without } = later;
      assert.throws(() => conversionFrom(without), new RegExp(name));
    }
    assert.throws(() => conversionFrom({ ...later, time: [16, 8] }), /time/);
  });
});
