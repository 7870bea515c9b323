import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { runLab } from './skbwhy.js';

describe('a port that nobody listens on', { concurrency: 2 }, () => {
  for (const settings of [{}, { family: 'ipv6' }, { translated: true }, { clients: 5, healthy: 5 }])
    test(`is refused by the server’s own stack: ${JSON.stringify(settings)}`, async () => {
      const report = await runLab('no-listener', settings);
      const clients = report.clients.filter((client) => client.purpose === 'faulty');
      assert.equal(report.findings.length, clients.length);
      assert.deepEqual(report.unexplained, []);
      for (const finding of report.findings) {
        assert.equal(finding.verdict, 'no-listener');
        assert.equal(finding.confidence, 'proved');
        assert.equal(finding.outcome, 'failed');
        assert.match(finding.title, /nobody listens on TCP \S+:8081/);
        assert.deepEqual(
          finding.chain.map((claim) => claim.claim),
          ['arrived', 'no-socket', 'reset-by-the-stack'],
        );
        for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
      }
      for (const client of clients) assert.equal(client.error, 'ECONNREFUSED');
    });

  for (const translated of [0, 1])
    test(`is found for lookups too, where no name server runs: translated=${translated}`, async () => {
      const report = await runLab('no-listener', {
        ...{ clients: 0, lookups: 2, timeout: 0.8, translated },
      });
      assert.deepEqual(
        report.findings.map(({ verdict, confidence }) => ({ verdict, confidence })),
        Array(2).fill({ verdict: 'no-listener', confidence: 'proved' }),
      );
      for (const { title, chain } of report.findings) {
        assert.match(title, /nobody listens on UDP 10\.81\.2\.2:53/);
        const error = chain.find(({ claim }) => claim === 'port-unreachable');
        assert.equal(error?.evidence.length, 2);
      }
      assert.deepEqual(report.unexplained, []);
    });
});
