import assert from 'node:assert/strict';
import { assertNoticed, type LabReport } from './skbwhy.js';

/** Every connect or lookup that was slow lost a race, and says to whom. */
export function assertRace(report: LabReport, verdict: string, defect: string): void {
  assert.deepEqual(report.unexplained, []);
  const slow = report.clients.filter(({ purpose }) => !purpose.startsWith('others'));
  assert.ok(slow.length >= 1);
  assert.equal(report.findings.length, slow.length);
  for (const { source, connectMs } of slow) {
    const finding = report.findings.find(({ subject }) => subject.client === source);
    assert.equal(finding?.verdict, verdict);
    assert.equal(finding.defect, defect);
    assert.equal(finding.confidence, 'proved');
    assert.equal(finding.outcome, 'recovered');
    assertNoticed(connectMs, finding);
    const port = source?.split(':')[1];
    for (const end of [`10.244.1.2:${port}`, `10.244.2.2:${port}`, `10.250.0.1:${port}`])
      assert.ok(finding.summary.includes(end), `${end}: ${finding.summary}`);
    assert.deepEqual(
      finding.chain.map(({ claim }) => claim),
      ['translated', 'same-tuple', 'winner-inserted', 'insert-failed', 'repeated'],
    );
    assert.ok(finding.chain.every(({ evidence }) => evidence.length > 0));
    assert.match(finding.remedies[0]?.what ?? '', /--random-fully.*`-A POSTROUTING.*MASQUERADE`/);
    assert.equal(finding.attempts.at(-1)?.fate, 'delivered');
    const others = ['snat-port-exhaustion', 'conntrack-reply-collision'].filter(
      (each) => each !== verdict,
    );
    for (const other of others)
      assert.ok(
        finding.ruledOut.some((each) => each.verdict === other),
        other,
      );
    if (finding.subject.kind === 'tcp-connect') assert.equal(finding.prediction?.recoverAtMs, 1000);
  }
}
