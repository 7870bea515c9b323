import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertNoticed, onlyFinding, runLab, type LabReport } from './skbwhy.js';

/** The time at the server is what the client measured. */
function assertSlow(report: LabReport, noLess: number): void {
  const finding = onlyFinding(report);
  assert.equal(finding.verdict, 'slow-backend');
  assert.equal(finding.confidence, 'proved');
  assert.deepEqual(report.unexplained, []);
  const server = Number(/, server ([\d.]+) ms/.exec(finding.summary)?.[1]);
  const measured = report.clients[0]?.connectMs ?? 0;
  assert.ok(server >= noLess - 5, `${server} ms`);
  assert.ok(measured >= server - 5, `${measured}, ${server} ms`);
  assertNoticed(measured, { delayMs: server });
  assert.deepEqual(
    finding.chain.map((claim) => claim.claim),
    ['delivered-to-the-server', 'answered-late', 'back'],
  );
  for (const claim of finding.chain) assert.ok(claim.evidence.length > 0);
}

describe('a slow server', { concurrency: 2 }, () => {
  test('a lookup that the server took its time for', async () => {
    assertSlow(await runLab('slow-backend', { resolver: 'glibc' }), 1200);
  });

  test('repeats of a resolver that waits 2.5 s are named, and change nothing', async () => {
    const report = await runLab('slow-backend', { resolver: 'musl', delay: 3000 });
    assertSlow(report, 3000);
    assert.match(report.findings[0]?.summary ?? '', /waited 2\.5\d* s .*musl/);
  });

  test('a connect whose SYN-ACK left late', async () => {
    assertSlow(await runLab('slow-backend', { protocol: 'tcp', delay: 700 }), 700);
  });

  test('a server that is fast enough is no finding', async () => {
    const report = await runLab('slow-backend', { delay: 150, clients: 5 });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
  });

  test('a cache that waits for its own lookup: that one is named, and has its finding', async () => {
    const report = await runLab('slow-backend', { upstream: true });
    assert.deepEqual(report.unexplained, []);
    const cache = report.findings.find((f) => f.subject.client.startsWith('10.88.1.2:'));
    assert.equal(cache?.verdict, 'slow-backend');
    assert.match(cache.summary, /had asked 10\.88\.3\.2:53 the same/);
    assert.ok(cache.chain.some((claim) => claim.claim === 'waited-for-upstream'));
    const others = report.findings.filter((f) => f !== cache);
    assert.ok(others.length > 0);
    for (const finding of others) {
      assert.equal(finding.verdict, 'slow-backend');
      assert.equal(finding.subject.service, '10.88.3.2:53');
    }
  });

  test('what is slow can be set', async () => {
    assertSlow(await runLab('slow-backend', { delay: 150 }, '--slow', '100'), 150);
  });

  test('where the server’s namespace was not traced, nobody is blamed', async () => {
    const report = await runLab('slow-backend', {}, '--netns', 'client', 'node');
    assert.deepEqual(report.findings, []);
    assert.equal(report.unexplained.length, 1);
  });
});
