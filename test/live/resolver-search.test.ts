import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Finding } from '../../src/explain/finding.js';
import { assertNoticed, onlyFinding, runLab, type LabReport } from './skbwhy.js';

function assertSearch(finding: Finding | undefined, defect: string, report: LabReport): void {
  assert.equal(finding?.verdict, 'resolver-search');
  assert.equal(finding.defect, defect);
  assert.equal(finding.outcome, 'recovered');
  assert.deepEqual(report.unexplained, []);
}

describe('a slow lookup without a lost packet', { concurrency: 4 }, () => {
  test('the steps of a search list, by the real resolver', async () => {
    const report = await runLab('resolver-search');
    const finding = onlyFinding(report);
    assertSearch(finding, 'search-list', report);
    assert.equal(finding.confidence, 'proved');
    assertNoticed(report.clients[0]?.connectMs, finding);
    assert.equal(finding.chain.filter((c) => c.claim === 'no-such-name').length, 4);
    for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
  });

  for (const resolver of ['system', 'glibc'])
    test(`a dead first name server, waited for as ${resolver} does`, async () => {
      const report = await runLab('resolver-search', { case: 'dead-name-server', resolver });
      const finding = onlyFinding(report);
      assertSearch(finding, 'dead-name-server', report);
      assert.equal(finding.confidence, 'likely');
      assert.match(finding.summary, /waited 5(\.\d+)? s .*glibc’s schedule/s);
    });

  test('musl asks all name servers at once: a dead one costs nothing', async () => {
    const report = await runLab('resolver-search', { case: 'dead-name-server', resolver: 'musl' });
    assert.deepEqual(report.findings, []);
  });

  test('a truncated answer, and TCP that opens late, for a reason of its own', async () => {
    const report = await runLab('resolver-search', { case: 'truncation' });
    const [lookup, connect] = ['dns-lookup', 'tcp-connect'].map((kind) =>
      report.findings.find((finding) => finding.subject.kind === kind),
    );
    assert.equal(report.findings.length, 2);
    assertSearch(lookup, 'truncation', report);
    assert.equal(connect?.verdict, 'policy-drop');
  });

  test('a search list that is gone through fast enough is no finding', async () => {
    const report = await runLab('resolver-search', { delay: 10 });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
  });
});
