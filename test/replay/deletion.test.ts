import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { AT, Cursor } from '../../src/event/cursor.js';
import { Point } from '../../src/event/point.js';
import { Explainer } from '../../src/explain/explainer.js';
import { loadFaults } from '../../src/faults/registry.js';
import { recordsOf } from './copies.js';

test('an outer entry that somebody deleted did not expire, however late the next packet came', async () => {
  const { header, bytes } = await recordsOf(
    fileURLToPath(new URL('../../../sessions/defect-flannel-63s.skbw', import.meta.url)),
  );
  let count = 0;
  let deletions = 0;
  for (const cursor = new Cursor().reset(bytes, 0); cursor.next(); count++) {
    if (!cursor.isEvent || cursor.point !== Point['conntrack.delete']) continue;
    // 20 s earlier, when a process asked for it
    bytes.writeBigUInt64LE(BigInt(cursor.time) - 20_000_000_000n, cursor.base + AT.time);
    bytes.writeUInt32LE(4711, cursor.base + AT.pid);
    deletions++;
  }
  assert.equal(deletions, 1);
  const faults = await loadFaults();
  const explainer = new Explainer(
    header,
    faults.map((fault) => fault.diagnoser),
  );
  explainer.feed({ firstSeq: 0, count, bytes });
  explainer.finish();
  const [finding] = explainer.report().findings;
  assert.equal(finding?.bypass?.why, 'conntrack-deleted');
  const claim = finding.chain.find((each) => each.claim === 'bypass')!;
  assert.match(
    claim.text,
    /deleted 15\.\d+ s before its time\. .* after SYN 6, by netlink port 4711\./,
  );
});
