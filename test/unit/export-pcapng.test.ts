import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { isoMicroseconds, realTime } from '../../src/export/clock.js';
import {
  enhancedPacketBlock,
  interfaceDescriptionBlock,
  sectionHeaderBlock,
} from '../../src/export/pcapng.js';
import { parsePcapng } from './pcapng-parser.js';

const text = fc.string({ unit: 'grapheme', maxLength: 40 });
const packet = fc.record({
  time: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  bytes: fc.uint8Array({ maxLength: 192 }).map((bytes) => Buffer.from(bytes)),
  originalLength: fc.nat(65535),
  direction: fc.constantFrom('unknown', 'in', 'out'),
  comments: fc.array(text, { maxLength: 4 }),
});

describe('pcapng', () => {
  test('blocks are read back as they were meant', () =>
    fc.assert(
      fc.property(text, text, fc.array(text), fc.array(packet), (name, os, comments, packets) => {
        const description = { name, description: os, snapLength: 192 };
        const section = { hardware: name, os, application: 'a', comments };
        const file = Buffer.concat([
          sectionHeaderBlock(section),
          interfaceDescriptionBlock(description),
          ...packets.map((each) => enhancedPacketBlock({ interfaceId: 0, ...each })),
        ]);
        const capture = parsePcapng(file);
        assert.deepEqual(capture.section, section);
        assert.deepEqual(capture.interfaces, [{ ...description, linkType: 101 }]);
        capture.frames.forEach((frame, i) => {
          const { direction, originalLength, ...same } = packets[i]!;
          const { time, bytes, comments: read } = frame;
          assert.deepEqual({ time, bytes, comments: read }, same);
          assert.equal(frame.originalLength, Math.max(originalLength, bytes.length));
          assert.equal(frame.direction, ['unknown', 'in', 'out'].indexOf(direction));
        });
        assert.equal(capture.frames.length, packets.length);
      }),
    ));

  test('a text too long for an option is cut between characters', () => {
    const comment = `x${'→'.repeat(30_000)}`;
    const section = { hardware: '', os: '', application: '', comments: [comment] };
    const [read] = parsePcapng(sectionHeaderBlock(section)).section.comments;
    assert.ok(read && read.length > 5000 && comment.startsWith(read));
  });
});

describe('real time', () => {
  test('is exact to the nanosecond, with a fraction of a microsecond in the offset too', () => {
    const at = (realtimeOffsetUs: number) =>
      realTime(123_456_789_123_456_789n, { clock: { startNs: 0, realtimeOffsetUs } });
    assert.equal(at(1_795_297_384_195_547), 1_918_754_173_319_003_789n);
    assert.equal(at(1000.5), 123_456_789_124_457_289n);
  });

  test('as text has microseconds', () => {
    assert.equal(isoMicroseconds(1_795_300_572_000_001_999n), '2026-11-21T22:36:12.000001Z');
  });
});
