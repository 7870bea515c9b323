import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AT } from '../../src/event/cursor.js';
import { encodeFact } from '../../src/event/fact.js';
import { reportOf, type Record } from './altered.js';
import { unseenStall } from './unseen-stall.js';

test('a connection that stalls and gives up, its loss not seen, is told as unexplained', async () => {
  const { header, records } = await unseenStall();
  const { findings, unexplained } = reportOf(header, records);
  assert.deepEqual(findings, []);
  assert.equal(unexplained.length, 1);
  const [entry] = unexplained;
  assert.equal(entry?.subject.kind, 'tcp-transfer');
  assert.equal(entry.outcome, 'failed');
  assert.match(
    entry.title,
    /stalled for 2\.\d+ s, data was sent again 4 times and not acknowledged$/,
  );
  for (const { lastSeen, evidence } of entry.attempts) {
    assert.match(lastSeen, /^tcp\.retransmit in \S+-client$/);
    assert.ok(evidence.length > 0);
  }
  assert.match(entry.next.join(), /record where it goes at the same time/);
});

test('one that goes on is told with its names, from retransmissions alone', async () => {
  const { header, records } = await unseenStall();
  const rest = records.filter(({ point, fact }) => point === 'tcp.retransmit' || fact !== null);
  const { unexplained } = reportOf(header, [...rest, tick(rest.at(-1)!.time + 10e9)]);
  assert.equal(unexplained.length, 1);
  const [entry] = unexplained;
  assert.equal(entry?.outcome, 'recovered');
  assert.match(entry.title, /^10\.244\.1\.10:\d+ → 10\.244\.2\.10:8080: stalled for 1\.\d+ s/);
  assert.doesNotMatch(entry.title, /not acknowledged/);
});

test('losses here and there in a long transfer are no stall, nor is a FIN that nobody takes', async () => {
  const { header, records } = await unseenStall();
  const sent = records.find(({ point }) => point === 'tcp.retransmit')!;
  const again = (after: number, seq: number, length: number): Record => {
    const bytes = Buffer.from(sent.bytes);
    const time = sent.time + after * 1e9;
    bytes.writeBigUInt64LE(BigInt(time), AT.time);
    bytes.writeUInt32LE(seq >>> 0, AT['socket.seq']);
    bytes.writeUInt32LE(0, AT.reason);
    bytes.writeUInt32LE(length, AT.length);
    return { ...sent, bytes, time };
  };
  const facts = records.filter(({ fact }) => fact !== null && fact !== 'tick');
  const second = Array.from({ length: 120 }, (_, i) => i + 1);
  // 125 MB/s: the numbers wrap
  const bulk = second.map((s) => again(s, s * 125e6, 1400));
  assert.deepEqual(reportOf(header, [...facts, ...bulk]).unexplained, []);
  const fin = [0.2, 0.6, 1.4, 3, 6.2, 12.6].map((s) => again(s, 7, 0));
  assert.deepEqual(reportOf(header, [...facts, ...fin]).unexplained, []);
  // what would be a stall
  const data = [0.2, 0.6, 1.4, 3, 6.2, 12.6].map((s) => again(s, 7, 1400));
  assert.equal(reportOf(header, [...facts, ...data]).unexplained.length, 1);
});

function tick(time: number): Record {
  return { bytes: encodeFact({ fact: 'tick' }, time), time, point: null, fact: 'tick' };
}
