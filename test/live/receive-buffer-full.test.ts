import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Finding } from '../../src/explain/finding.js';
import { assertNoticed, runLab, type LabReport } from './skbwhy.js';

/** Each faulty client has its finding, of this form, and its delay is what the client measured. */
function assertFull(report: LabReport, defect: string, confidence: string): Finding[] {
  assert.deepEqual(report.unexplained, []);
  const clients = report.clients.filter((client) => client.purpose === 'faulty');
  assert.equal(report.findings.length, clients.length);
  const delays = report.findings.map((finding) => finding.delayMs).sort((a, b) => a - b);
  const measured = clients.map((client) => client.connectMs ?? 0).sort((a, b) => a - b);
  for (const finding of report.findings) {
    assert.equal(finding.verdict, 'receive-buffer-full');
    assert.equal(finding.defect, defect);
    assert.equal(finding.confidence, confidence);
    assert.equal(finding.outcome, 'recovered');
    assert.ok(finding.remedies.length > 0 && finding.ruledOut.length > 0);
    for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
    for (const verdict of ['no-listener', 'policy-drop', 'lost-on-the-wire'])
      assert.ok(finding.ruledOut.some((other) => other.verdict === verdict));
  }
  delays.forEach((delayMs, i) => assertNoticed(measured[i], { delayMs }));
  return report.findings;
}

describe('a socket without room', { concurrency: 2 }, () => {
  for (const [resolver, wait] of [
    ['musl', 2500],
    ['glibc', 5000],
  ] as const)
    test(`a DNS server’s buffer is full, and a resolver like ${resolver}’s asks again`, async () => {
      const report = await runLab('receive-buffer-full', { resolver, clients: 2 });
      for (const finding of assertFull(report, 'socket-buffer', 'proved')) {
        assert.match(finding.title, /receive buffer of UDP 10\.81\.2\.2:53 in \S+-server was full/);
        assert.match(finding.summary, new RegExp(`${resolver}’s schedule`));
        assert.ok(Math.abs(finding.delayMs - wait) < 250, `${finding.delayMs} ms`);
        assert.equal(finding.attempts[0]?.dropReason, 'SOCKET_RCVBUFF');
        assert.ok(finding.counters.some(({ name }) => name === 'Udp.RcvbufErrors'));
      }
    });

  test('a resolver’s own buffer is full of answers', async () => {
    const report = await runLab('receive-buffer-full', { full: 'resolver-buffer', clients: 2 });
    for (const finding of assertFull(report, 'socket-buffer', 'proved')) {
      assert.match(finding.title, /UDP 10\.81\.1\.2:5353 in \S+-client was full/);
      assert.match(finding.summary, /The answer to query 1 .* the resolver’s socket/);
    }
  });

  for (const settings of [{}, { family: 'ipv6', clients: 3 }, { seconds: 0.5 }])
    test(`nobody comes to accept(), the accept queue is full: ${JSON.stringify(settings)}`, async () => {
      const report = await runLab('receive-buffer-full', { full: 'accept-queue', ...settings });
      for (const finding of assertFull(report, 'accept-queue', 'likely')) {
        // the socket itself is looked at now and then: it may have room again by then
        assert.deepEqual(
          finding.chain.flatMap(({ claim }) => (claim === 'socket' ? [] : claim)),
          ['arrived', 'ignored', 'accept-queue-full', 'room-again'],
        );
        assert.match(finding.summary, /TcpExtListenOverflows|accept queue/);
        assert.ok(finding.counters.some(({ name }) => name === 'TcpExt.ListenOverflows'));
      }
    });

  test('the accept queue is full when handshakes end, with SYN cookies and without', async () => {
    const report = await runLab('receive-buffer-full', { full: 'handshake', clients: 6 });
    assert.deepEqual(report.unexplained, []);
    const clients = report.clients.filter((client) => client.purpose === 'faulty');
    assert.equal(report.findings.length, clients.length);
    for (const finding of report.findings) {
      assert.equal(finding.verdict, 'receive-buffer-full');
      assert.equal(finding.subject.kind, 'tcp-transfer');
      assert.equal(finding.defect, 'accept-queue');
      const client = clients.find(({ source }) => source === finding.subject.client);
      const stalled = (client?.answeredMs ?? 0) - (client?.connectMs ?? 0);
      assertNoticed(stalled, finding);
      const reason = finding.attempts[0]?.dropReason;
      assert.ok(reason === 'TCP_LISTEN_OVERFLOW' || reason === 'NO_SOCKET', `${reason}`);
      assert.equal(finding.confidence, reason === 'NO_SOCKET' ? 'likely' : 'proved');
      for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
    }
    assert.ok(report.findings.some(({ confidence }) => confidence === 'proved'));
  });

  for (const full of ['syn-queue', 'syn-backlog'])
    test(`half-open connections fill it (${full}), unless there are SYN cookies`, async () => {
      const [report, harmless] = await Promise.all([
        runLab('receive-buffer-full', { full }),
        runLab('receive-buffer-full', { full, syncookies: true }),
      ]);
      for (const finding of assertFull(report, 'syn-queue', 'likely')) {
        assert.match(finding.title, /the SYN queue of TCP 10\.81\.2\.2:8080/);
        assert.match(finding.summary, /tcp_syncookies = 0/);
        const limit = full === 'syn-backlog' ? 'three quarters of tcp_max_syn_backlog' : 'backlog';
        assert.ok(finding.summary.includes(limit));
      }
      assert.deepEqual(harmless.findings, []);
      assert.deepEqual(harmless.unexplained, []);
      assert.ok(harmless.clients.every((client) => client.ok));
    });

  test('a connect that is given up has its finding too', async () => {
    const report = await runLab('receive-buffer-full', {
      full: 'accept-queue',
      seconds: 20,
      timeout: 2.5,
    });
    assert.deepEqual(
      report.findings.map(({ verdict, defect, outcome }) => ({ verdict, defect, outcome })),
      [{ verdict: 'receive-buffer-full', defect: 'accept-queue', outcome: 'failed' }],
    );
    assert.deepEqual(report.unexplained, []);
  });

  test('where the server’s namespace was not traced, it is not blamed', async () => {
    const report = await runLab(
      'receive-buffer-full',
      { full: 'accept-queue' },
      ...['--netns', 'client', 'node'],
    );
    for (const finding of report.findings) {
      assert.equal(finding.verdict, 'lost-on-the-wire');
      assert.equal(finding.confidence, 'possible');
    }
  });
});
