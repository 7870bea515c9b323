import assert from 'node:assert/strict';
import { test } from 'node:test';
import { predictRecovery, synGaps } from '../../src/explain/reading/schedule.js';

test('SYN gaps double, after the linear ones where the kernel has them', () => {
  assert.deepEqual(synGaps(6, 0), [1000, 2000, 4000, 8000, 16000, 32000]);
  assert.deepEqual(synGaps(6, 4), [1000, 1000, 1000, 1000, 1000, 2000, 4000, 8000, 16000, 32000]);
});

test('recovery comes with the first rehash, or the first gap that outlives the entry', () => {
  const classic = synGaps(6, 0);
  assert.equal(predictRecovery(classic, 1, 30_000), 1000);
  assert.equal(predictRecovery(classic, Infinity, 30_000), 63_000);
  assert.equal(predictRecovery(classic, 2, 30_000), 3000);
  assert.equal(predictRecovery(classic, 3, 2000), 3000);
  assert.equal(predictRecovery(synGaps(6, 4), Infinity, 30_000), 67_000);
  assert.equal(predictRecovery(classic, Infinity, 2000), 3000);
  assert.equal(predictRecovery(classic, Infinity, 3000), 7000);
  assert.equal(predictRecovery(classic, Infinity, 10_000), 31_000);
  assert.equal(predictRecovery(classic, Infinity, 60_000), 'never');
});
