import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertRace } from './collisions.js';
import { runLab } from './skbwhy.js';

describe('two clients whose queries are masqueraded to one tuple, on this kernel', () => {
  test('one query is dropped: both flows, the tuple and the delay are named', async () => {
    const report = await runLab('conntrack-reply-collision', { repeatAfter: 1.2 });
    assertRace(report, 'conntrack-reply-collision', 'race');
  });

  test('with random ports nothing collides, and nothing is found', async () => {
    const report = await runLab('conntrack-reply-collision', { randomFully: true, tries: 320 });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
  });
});
