import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertNoticed, runLab } from './skbwhy.js';

describe('segments that do not fit', { concurrency: 3 }, () => {
  const cases: [Record<string, string | number>, string, RegExp, string][] = [
    [{}, 'PKT_TOO_BIG', /1450\) *, and 10\.244\.1\.10 is not told/, 'icmp-dropped'],
    [{ inner: 'ipv6' }, 'PKT_TOO_BIG', /and fd00:10:244:1::a is not told/, 'icmp-dropped'],
    [{ direction: 'answer' }, 'PKT_TOO_BIG', /and 10\.244\.2\.10 is not told/, 'icmp-dropped'],
    [
      { tooSmall: 'underlay' },
      'NOT_SPECIFIED',
      /path to 192\.168\.100\.2 \(1400\)/,
      'icmp-misdirected',
    ],
  ];
  for (const [settings, reason, title, notice] of cases)
    test(`stall: ${JSON.stringify(settings)}`, async () => {
      const report = await runLab('tunnel-mtu', { timeout: 2.5, ...settings });
      assert.deepEqual(report.unexplained, []);
      assert.equal(report.findings.length, 1);
      const finding = report.findings[0]!;
      assert.equal(finding.verdict, 'tunnel-mtu');
      assert.equal(finding.defect, 'sender-not-told');
      assert.equal(finding.confidence, 'proved', finding.loweredFor.join('; '));
      assert.equal(finding.subject.kind, 'tcp-transfer');
      assert.equal(finding.outcome, 'failed');
      assert.match(finding.title, title);
      assert.ok(finding.chain.some(({ claim }) => claim === notice));
      assert.ok(finding.attempts.some(({ dropReason }) => dropReason === reason));
      const [client] = report.clients;
      assert.equal(client!.ok, false);
      assert.equal(finding.subject.client, client!.source);
      assert.equal(finding.subject.service, client!.target);
    });

  test('a sender that finds out by itself: the stall is what the client waited for', async () => {
    const report = await runLab('tunnel-mtu', { probing: 1, timeout: 15 });
    const [finding] = report.findings;
    const [client] = report.clients;
    assert.equal(report.findings.length, 1);
    assert.equal(finding!.outcome, 'recovered');
    const waited = client!.answeredMs! - client!.connectMs!;
    assertNoticed(waited, finding!);
    assert.ok(finding!.chain.some(({ claim }) => claim === 'got-through'));
  });

  for (const settings of [{ icmp: 'passes' }, { bytes: 500 }])
    test(`is none: ${JSON.stringify(settings)}`, async () => {
      const report = await runLab('tunnel-mtu', settings);
      assert.deepEqual(report.findings, []);
      assert.deepEqual(report.unexplained, []);
      assert.equal(report.clients[0]!.ok, true);
    });
});
