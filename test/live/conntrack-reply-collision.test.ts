import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ClientResult } from '../../src/lab/lab.js';
import { runLab, type LabReport } from './skbwhy.js';

/** One client's lookup, explained to both flows and the tuple. */
function assertCollision(report: LabReport, { source, connectMs }: ClientResult): void {
  const finding = report.findings.find(({ subject }) => subject.client === source);
  assert.equal(finding?.verdict, 'conntrack-reply-collision');
  assert.equal(finding.defect, 'race');
  assert.equal(finding.confidence, 'proved');
  assert.equal(finding.outcome, 'recovered');
  assert.ok(Math.abs((connectMs ?? 0) - finding.delayMs) < 50);
  const port = source?.split(':')[1];
  for (const end of [`10.244.1.2:${port}`, `10.244.2.2:${port}`, `10.250.0.1:${port}`])
    assert.ok(finding.summary.includes(end), `${end}: ${finding.summary}`);
  assert.deepEqual(
    finding.chain.map(({ claim }) => claim),
    ['translated', 'same-tuple', 'winner-inserted', 'insert-failed', 'repeated'],
  );
  assert.ok(finding.chain.every(({ evidence }) => evidence.length > 0));
  const [lost, again] = finding.attempts;
  assert.equal(lost?.fate, 'dropped');
  assert.equal(lost.dropReason, 'NETFILTER_DROP');
  assert.equal(again?.fate, 'delivered');
}

describe('two clients whose queries are masqueraded to one tuple, on this kernel', () => {
  test('one query is dropped: both flows, the tuple and the delay are named', async () => {
    const report = await runLab('conntrack-reply-collision', { repeatAfter: 1.2 });
    assert.deepEqual(report.unexplained, []);
    const slow = report.clients.filter(({ purpose }) => purpose === 'lookup');
    assert.ok(slow.length >= 1);
    assert.equal(report.findings.length, slow.length);
    for (const client of slow) assertCollision(report, client);
  });

  test('with random ports nothing collides, and nothing is found', async () => {
    const report = await runLab('conntrack-reply-collision', { randomFully: true, tries: 320 });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
  });
});
