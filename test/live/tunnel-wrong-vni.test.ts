import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { onlyFinding, runLab } from './skbwhy.js';

describe('a tunnel whose ends disagree', { concurrency: 2 }, () => {
  for (const [settings, defect, reason, says] of [
    [{}, 'vni-unknown', 'VXLAN_VNI_NOT_FOUND', /have VNI 2 \(flannel\.1\)/],
    [{ inner: 'ipv6' }, 'vni-unknown', 'VXLAN_VNI_NOT_FOUND', /have VNI 2 \(flannel\.1\)/],
    [
      { receiverVni: 1, receiverPort: 4789 },
      'port-unknown',
      'NO_SOCKET',
      /use UDP port 4789 \(flannel\.1, VNI 1\)/,
    ],
  ] as const)
    test(`about ${JSON.stringify(settings)}: both sides are named`, async () => {
      const report = await runLab('tunnel-wrong-vni', { timeout: 1.4, ...settings });
      const finding = onlyFinding(report);
      assert.equal(finding.verdict, 'tunnel-wrong-vni');
      assert.equal(finding.defect, defect);
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.attempts[0]?.dropReason, reason);
      assert.match(finding.summary, says);
      assert.match(finding.summary, /VNI 1, UDP port 8472/);
      assert.deepEqual(report.unexplained, []);
      for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
    });

  test('about nothing: no finding', async () => {
    const report = await runLab('tunnel-wrong-vni', { receiverVni: 1 });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
    assert.ok(report.clients[0]?.ok);
  });
});
