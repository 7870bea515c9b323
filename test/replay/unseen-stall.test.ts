import assert from 'node:assert/strict';
import { test } from 'node:test';
import { reportOf } from './altered.js';
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
