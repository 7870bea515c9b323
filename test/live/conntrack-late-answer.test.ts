import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ClientResult } from '../../src/lab/lab.js';
import { assertNoticed, runLab, type LabReport } from './skbwhy.js';

/** Every lookup that was slow is explained to the query, the backends and the delay. */
function assertLate(report: LabReport, defect: string, end: string): void {
  assert.deepEqual(report.unexplained, []);
  const slow = report.clients.filter(({ purpose }) => purpose === 'lookup');
  assert.ok(slow.length >= 1);
  assert.equal(report.findings.length, slow.length, JSON.stringify([report.findings, slow]));
  for (const { source, connectMs } of slow satisfies ClientResult[]) {
    const finding = report.findings.find(({ subject }) => subject.client === source);
    assert.equal(finding?.verdict, 'conntrack-late-answer');
    assert.equal(finding.defect, defect);
    assert.equal(finding.confidence, 'proved');
    assert.equal(finding.outcome, 'recovered');
    assertNoticed(connectMs, finding);
    assert.deepEqual(
      finding.chain.map(({ claim }) => claim),
      ['clash', 'loser-lives-a-second', 'answer-after-its-end', end, 'repeated'],
    );
    assert.ok(finding.chain.every(({ evidence }) => evidence.length > 0));
    const [clash] = finding.chain;
    for (const backend of ['10.250.0.2:53', '10.250.0.3:53'])
      assert.ok(clash?.text.includes(backend), clash?.text);
    assert.equal(finding.attempts.length, 3);
    assert.equal(finding.attempts[2]?.fate, 'delivered');
  }
}

describe('A and AAAA that clash in conntrack, on this kernel', () => {
  test('an answer after more than a second ends on the node that masqueraded', async () => {
    const report = await runLab('conntrack-late-answer');
    assertLate(report, 'dropped-at-the-node', 'answer-dropped');
  });

  test('without masquerading it reaches the client from the backend’s own address', async () => {
    const report = await runLab('conntrack-late-answer', { masquerade: false });
    assertLate(report, 'foreign-source', 'answer-from-the-backend');
  });

  test('an answer within the second is translated, and nothing is found', async () => {
    const report = await runLab('conntrack-late-answer', { delay: 0.3 });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
  });
});
