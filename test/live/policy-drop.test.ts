import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { onlyFinding, runLab, type LabReport } from './skbwhy.js';

function assertRule(report: LabReport, place: RegExp, did: 'dropped' | 'rejected'): void {
  const finding = onlyFinding(report);
  assert.equal(finding.verdict, 'policy-drop');
  assert.equal(finding.confidence, 'proved');
  assert.equal(finding.outcome, 'failed');
  assert.match(finding.title, place);
  assert.match(finding.title, new RegExp(did));
  assert.equal(finding.attempts[0]?.dropReason, 'NETFILTER_DROP');
  assert.deepEqual(report.unexplained, []);
  for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
  const healthy = report.clients.filter((client) => client.purpose === 'healthy');
  assert.ok(healthy.every((client) => client.ok));
}

describe('a rule that drops or rejects', { concurrency: 4 }, () => {
  for (const [settings, place] of [
    [{ rules: 'iptables-legacy', chain: 'PREROUTING' }, /iptables-legacy raw\/LAB, rule 1/],
    [{ rules: 'iptables-legacy', chain: 'INPUT' }, /iptables-legacy filter\/LAB, rule 1/],
    [{ rules: 'iptables-legacy', chain: 'POSTROUTING' }, /iptables-legacy mangle\/LAB, rule 1/],
    [{ rules: 'iptables-nft', action: 'policy' }, /policy of iptables-nft filter\/FORWARD/],
    [{ rules: 'nft', chain: 'OUTPUT' }, /nft inet lab output/],
    [{ rules: 'nft', direction: 'answer' }, /the SYN-ACK dropped by .*nft inet lab forward/],
    [{ rules: 'iptables-legacy', family: 'ipv6' }, /ip6tables-legacy filter\/LAB, rule 1/],
  ] as const)
    test(`is named: ${Object.values(settings).join(' ')}`, async () => {
      const report = await runLab('policy-drop', { timeout: 1.3, ...settings });
      assertRule(report, place, 'dropped');
    });

  for (const [chain, outcome] of [
    ['FORWARD', 'failed'],
    // nothing tells when a socket ends whose segments never left its node
    ['OUTPUT', 'pending'],
  ])
    test(`meets data only, in ${chain}: the connection stalls`, async () => {
      const report = await runLab('policy-drop', { rules: 'nft', data: 1, chain: chain! });
      const finding = onlyFinding(report);
      assert.equal(finding.verdict, 'policy-drop');
      assert.equal(finding.subject.kind, 'tcp-transfer');
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.outcome, outcome);
      assert.match(finding.title, /the segment dropped by .*length > 300 drop/);
      assert.ok(finding.attempts.length > 2);
      assert.ok(finding.attempts.every(({ fate }) => fate === 'dropped'));
      assert.deepEqual(report.unexplained, []);
    });

  for (const rules of ['iptables-legacy', 'nft'])
    for (const action of ['reject', 'reset'])
      test(`${rules} ${action} is no missing listener`, async () => {
        const report = await runLab('policy-drop', { rules, action });
        assertRule(report, /8080/, 'rejected');
        assert.equal(report.clients[0]?.error, 'ECONNREFUSED');
      });

  for (const rules of ['iptables-legacy', 'nft'])
    test(`${rules} meets lookups too`, async () => {
      const report = await runLab('policy-drop', { rules, clients: 0, lookups: 2, timeout: 0.8 });
      assert.deepEqual(
        report.findings.map(({ verdict, confidence }) => ({ verdict, confidence })),
        Array(2).fill({ verdict: 'policy-drop', confidence: 'proved' }),
      );
      assert.match(report.findings[0]!.title, /the query dropped by .*dport 53/);
      assert.deepEqual(report.unexplained, []);
    });
});
