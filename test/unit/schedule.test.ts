import assert from 'node:assert/strict';
import { test } from 'node:test';
import { flowSourcePort, predictRecovery, synGaps } from '../../src/explain/schedule.js';

test('SYN gaps double, after the linear ones where the kernel has them', () => {
  assert.deepEqual(synGaps(6, 0), [1000, 2000, 4000, 8000, 16000, 32000]);
  assert.deepEqual(synGaps(6, 4), [1000, 1000, 1000, 1000, 1000, 2000, 4000, 8000, 16000, 32000]);
});

test('recovery comes with the first rehash, or the first gap that outlives the entry', () => {
  const classic = synGaps(6, 0);
  assert.equal(predictRecovery(classic, true, 30_000), 1000);
  assert.equal(predictRecovery(classic, false, 30_000), 63_000);
  assert.equal(predictRecovery(synGaps(6, 4), false, 30_000), 67_000);
  assert.equal(predictRecovery(classic, false, 2000), 3000);
  assert.equal(predictRecovery(classic, false, 3000), 7000);
  assert.equal(predictRecovery(classic, false, 10_000), 31_000);
  assert.equal(predictRecovery(classic, false, 60_000), 'never');
});

// Hashes and ports as the kernel paired them, 6.18, net.ipv4.ip_local_port_range = 32768 60999.
test('the outer source port follows from the packet hash', () => {
  assert.equal(flowSourcePort(0x56cfe6b9, 32768, 60999), 52228);
  assert.equal(flowSourcePort(0x548d2f5b, 32768, 60999), 46424);
  assert.equal(flowSourcePort(0xa0e2e4c1, 32768, 60999), 40282);
});
