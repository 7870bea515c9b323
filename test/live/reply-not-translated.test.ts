import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { onlyFinding, runLab } from './skbwhy.js';

describe('an answer past the NAT', { concurrency: 3 }, () => {
  for (const [way, protocol, says] of [
    ['bridged', 'dns', /bridge-nf-call-iptables = 1 \(it is 0\)/],
    ['bridged', 'tcp', /bridge-nf-call-iptables = 1 \(it is 0\)/],
    ['another-way', 'dns', /never came through/],
    ['another-way', 'tcp', /never came through/],
    ['not-tracked', 'dns', /did not take it for an answer/],
    ['not-tracked', 'tcp', /did not take it for an answer/],
  ] as const)
    test(`${way}, ${protocol}`, async () => {
      const report = await runLab('reply-not-translated', { way, protocol });
      const finding = onlyFinding(report);
      assert.deepEqual(report.unexplained, []);
      assert.equal(finding.verdict, 'reply-not-translated');
      assert.equal(finding.confidence, 'proved');
      assert.match(finding.summary, says);
      assert.match(finding.cause, new RegExp(`/${way}/`));
      assert.equal(finding.subject.service, '10.96.0.10:53');
      assert.equal(finding.subject.backend, '10.88.0.12:53');
      assert.ok(finding.chain.some((c) => c.claim === 'refused'));
      for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
      assert.ok(report.clients.every((client) => !client.ok));
    });

  for (const protocol of ['dns', 'tcp'])
    test(`answers that come back through it are no finding, ${protocol}`, async () => {
      const report = await runLab('reply-not-translated', { way: 'none', protocol, clients: 5 });
      assert.deepEqual(report.findings, []);
      assert.deepEqual(report.unexplained, []);
      assert.ok(report.clients.every((client) => client.ok));
    });
});
