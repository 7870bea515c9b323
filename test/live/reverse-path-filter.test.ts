import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { onlyFinding, runLab } from './skbwhy.js';

describe('rp_filter', { concurrency: 2 }, () => {
  for (const [settings, route] of [
    [
      { rpFilter: 1 },
      /the route back to 10\.83\.0\.1 is `10\.83\.0\.1 via 10\.82\.0\.2 dev other`/,
    ],
    [{ rpFilter: 2, route: 'none' }, /no route leads back to 10\.83\.0\.1/],
  ] as const)
    test(`drops what ${JSON.stringify(settings)} forbids: device and route are named`, async () => {
      const report = await runLab('reverse-path-filter', { timeout: 1.3, ...settings });
      const finding = onlyFinding(report);
      assert.equal(finding.verdict, 'reverse-path-filter');
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.attempts[0]?.dropReason, 'IP_RPFILTER');
      assert.match(finding.title, /came by client/);
      assert.match(finding.summary, route);
      assert.deepEqual(report.unexplained, []);
      for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
    });

  for (const settings of [{ rpFilter: 2 }, { rpFilter: 0 }, { rpFilter: 1, route: 'same' }])
    test(`lets ${JSON.stringify(settings)} pass: no finding`, async () => {
      const report = await runLab('reverse-path-filter', settings);
      assert.deepEqual(report.findings, []);
      assert.deepEqual(report.unexplained, []);
      assert.ok(report.clients[0]?.ok);
    });
});
