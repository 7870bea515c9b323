import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { onlyFinding, runLab } from './skbwhy.js';

describe('a tunnel that does not know where its peer is', { concurrency: 3 }, () => {
  for (const [missing, defect, reason] of [
    ['fdb', 'no-fdb-entry', 'NO_TX_TARGET'],
    ['neighbour', 'no-neighbour', 'NEIGH_FAILED'],
    ['route', 'no-route', 'IP_OUTNOROUTES'],
    ['peer', 'peer-unresolved', 'NEIGH_FAILED'],
  ])
    test(`says what is missing: ${missing}`, async () => {
      const report = await runLab('tunnel-no-remote', { missing: missing! });
      const finding = onlyFinding(report);
      assert.equal(finding.verdict, 'tunnel-no-remote');
      assert.equal(finding.defect, defect);
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.outcome, 'failed');
      assert.equal(finding.attempts[0]?.dropReason, reason);
      assert.equal(finding.attempts[0]?.atMs, 0);
      if (missing === 'neighbour') assert.ok(finding.delayMs > 2500, `${finding.delayMs} ms`);
      assert.deepEqual(report.unexplained, []);
      for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
    });

  test('stray multicast that a tunnel drops for want of an FDB entry gives no finding', async () => {
    const report = await runLab(
      'tunnel-no-remote',
      { missing: 'nothing' },
      ...['--', 'sh', '-c'],
      'ip address add fd00:77::1/64 dev flannel.1; sleep 1; curl -s -o /dev/null $SKBWHY_SERVER',
    );
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
  });
});
