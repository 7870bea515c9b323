import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { runLab } from './skbwhy.js';

describe('an entry that outlives its backend', { concurrency: 2 }, () => {
  test('the busy socket is led astray, fresh ones are not', async () => {
    const report = await runLab('stale-backend', { lookups: 3 });
    assert.deepEqual(report.unexplained, []);
    assert.equal(report.findings.length, 3);
    assert.equal(new Set(report.findings.map((f) => f.cause)).size, 1);
    for (const finding of report.findings) {
      assert.equal(finding.verdict, 'stale-backend');
      assert.equal(finding.subject.client, '10.88.1.2:40000');
      assert.equal(finding.subject.backend, '10.88.2.2:53');
      assert.equal(finding.prediction?.recoverAtMs, 'never');
      assert.match(finding.summary, /10\.88\.3\.2:53/);
      for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
    }
    for (const client of report.clients) assert.equal(client.ok, client.purpose === 'healthy');
  });

  test('the rules alone tell it, where nobody came new', async () => {
    const report = await runLab('stale-backend', { lookups: 3, fresh: 0 });
    assert.deepEqual(report.unexplained, []);
    assert.equal(report.findings.length, 3);
    for (const finding of report.findings) {
      assert.equal(finding.verdict, 'stale-backend');
      assert.match(finding.summary, /now leads elsewhere/);
    }
  });

  test('where the old entries are deleted, all is well', async () => {
    const report = await runLab('stale-backend', { flush: true });
    assert.deepEqual(report.findings, []);
    assert.ok(report.clients.every((client) => client.ok));
  });
});
