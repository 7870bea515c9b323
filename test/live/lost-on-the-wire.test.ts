import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertNoticed, onlyFinding, runLab } from './skbwhy.js';

describe('a wire that loses packets out of sight', { concurrency: 4 }, () => {
  for (const [name, settings, claim] of [
    ['a SYN', {}, 'packet-lost'],
    ['a SYN-ACK', { direction: 'answer' }, 'answer-lost'],
    ['a query', { protocol: 'dns' }, 'packet-lost'],
    ['an answer', { protocol: 'dns', direction: 'answer' }, 'answer-lost'],
  ] as const)
    test(`${name}, both sides traced`, async () => {
      const report = await runLab('lost-on-the-wire', settings);
      const finding = onlyFinding(report);
      assert.equal(finding.verdict, 'lost-on-the-wire');
      assert.equal(finding.confidence, 'possible');
      assert.equal(finding.outcome, 'recovered');
      assert.deepEqual(report.unexplained, []);
      assert.ok(finding.chain.some((c) => c.claim === claim));
      assert.match(finding.title, /between eth0 of/);
      for (const c of finding.chain) assert.ok(c.evidence.length > 0);
      assertNoticed(report.clients[0]?.connectMs, finding);
    });

  test('the server’s side not traced: the way ends at the last device', async () => {
    const report = await runLab('lost-on-the-wire', { traceServer: false });
    const finding = onlyFinding(report);
    assert.equal(finding.verdict, 'lost-on-the-wire');
    assert.match(finding.title, /beyond eth0 of/);
  });

  test('at random, among many: only who lost something has a finding', async () => {
    const report = await runLab('lost-on-the-wire', { clients: 60, percent: 10 });
    const slow = report.clients.filter((client) => (client.connectMs ?? 0) > 900);
    assert.equal(report.findings.length + report.unexplained.length, slow.length);
    for (const finding of report.findings) assert.equal(finding.verdict, 'lost-on-the-wire');
    assert.deepEqual(report.unexplained, []);
  });

  test('a wire that loses nothing gives no finding', async () => {
    const report = await runLab('lost-on-the-wire', { lost: 0, clients: 20 });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
  });
});
