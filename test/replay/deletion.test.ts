import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AT } from '../../src/event/cursor.js';
import { recordedAt, reportOf } from './altered.js';

test('an outer entry that somebody deleted did not expire, however late the next packet came', async () => {
  const { header, records } = await recordedAt('sessions/defect-flannel-63s.skbw');
  const deletions = records.filter(({ point }) => point === 'conntrack.delete');
  assert.equal(deletions.length, 1);
  for (const { bytes, time } of deletions) {
    // 20 s earlier, when a process asked for it
    bytes.writeBigUInt64LE(BigInt(time) - 20_000_000_000n, AT.time);
    bytes.writeUInt32LE(4711, AT.pid);
  }
  const [finding] = reportOf(header, records).findings;
  assert.equal(finding?.bypass?.why, 'conntrack-deleted');
  const claim = finding.chain.find((each) => each.claim === 'bypass')!;
  assert.match(
    claim.text,
    /deleted 15\.\d+ s before its time\. .* after SYN 6, by netlink port 4711\./,
  );
});
