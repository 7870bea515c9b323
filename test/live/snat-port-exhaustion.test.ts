import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertRace } from './collisions.js';
import type { Finding } from '../../src/explain/finding.js';
import { assertNoticed, onlyFinding, runLab, type LabReport } from './skbwhy.js';

/** The one client's finding that no port is free, or was for a while; as long as the client measured. */
function assertExhausted(report: LabReport, ports: string, rule: RegExp): Finding {
  const finding = onlyFinding(report);
  assert.deepEqual(report.unexplained, []);
  assert.equal(finding.verdict, 'snat-port-exhaustion');
  assert.equal(finding.defect, 'no-free-port');
  assert.equal(finding.confidence, 'proved');
  assert.match(finding.summary, rule);
  assert.match(finding.summary, /and all of them were seen being taken: \d+ by 10\.244\.2\.2\./);
  assert.ok(finding.summary.includes(ports), finding.summary);
  assert.ok(finding.subject.client.startsWith('10.244.1.2:'));
  for (const { dropReason } of finding.attempts.filter(({ fate }) => fate === 'dropped'))
    assert.equal(dropReason, 'NETFILTER_DROP');
  assert.equal(finding.attempts[0]?.fate, 'dropped');
  assert.ok(finding.chain.every(({ evidence }) => evidence.length > 0));
  const excluded = finding.ruledOut.map(({ verdict }) => verdict);
  for (const neighbour of ['conntrack-reply-collision', 'conntrack-insert-race', 'policy-drop'])
    assert.ok(excluded.includes(neighbour), neighbour);
  return finding;
}

function assertDelay(finding: Finding, report: LabReport): void {
  const slow = report.clients.find(({ client, ok, purpose }) =>
    finding.outcome === 'failed' ? !ok : client === 'client' && !purpose.startsWith('others'),
  );
  assertNoticed(slow?.connectMs, finding);
}

describe('source NAT without a free port, on this kernel', { concurrency: 4 }, () => {
  test('a connect fails: the destination, the range and who holds it are named', async () => {
    const report = await runLab('snat-port-exhaustion', { timeout: 3.5 });
    const finding = assertExhausted(report, '(40000–40007)', /MASQUERADE --to-ports 40000-40007/);
    assert.equal(finding.outcome, 'failed');
    assert.equal(finding.attempts.length, 4);
    assert.deepEqual(
      finding.chain.map(({ claim }) => claim),
      ['translated', 'port-taken', 'ports-held', 'insert-failed', 'every-repeat-too'],
    );
  });

  test('a connect through a Service and an nft rule waits until a port is free', async () => {
    const settings = { service: true, rules: 'nft', ports: 3, release: 1.5 };
    const report = await runLab('snat-port-exhaustion', settings);
    const finding = assertExhausted(report, '(40000–40002)', /masquerade to :40000-40002/);
    assert.equal(finding.outcome, 'recovered');
    assert.equal(finding.subject.service, '10.96.0.10:8080');
    assert.equal(finding.chain.at(-1)?.claim, 'repeated');
    assertDelay(finding, report);
  });

  test('a lookup waits for its resolver’s repeat', async () => {
    const report = await runLab('snat-port-exhaustion', { protocol: 'udp', release: 2 });
    const finding = assertExhausted(report, '(40000–40007)', /-p udp -j MASQUERADE --to-ports/);
    assert.equal(finding.outcome, 'recovered');
    assertDelay(finding, report);
  });

  test('with one port left nothing is found', async () => {
    const report = await runLab('snat-port-exhaustion', { held: 7 });
    assert.deepEqual([report.findings, report.unexplained], [[], []]);
    assert.ok(report.clients.every(({ ok }) => ok));
  });
});

describe('two clients that are given one source port at the same moment, on this kernel', () => {
  for (const service of [false, true])
    test(`one connect takes a second${service ? ', through a Service too' : ''}`, async () => {
      const report = await runLab('snat-port-exhaustion', { form: 'port-race', service });
      assertRace(report, 'snat-port-exhaustion', 'port-race');
    });

  test('of lookups that only source NAT translates, one waits', async () => {
    const settings = { form: 'port-race', protocol: 'udp', repeatAfter: 1.2 };
    const report = await runLab('snat-port-exhaustion', settings);
    assertRace(report, 'snat-port-exhaustion', 'port-race');
  });

  test('of lookups at a Service it is a collision of reply tuples', async () => {
    const settings = { form: 'port-race', protocol: 'udp', service: true, repeatAfter: 1.2 };
    const report = await runLab('snat-port-exhaustion', settings);
    assertRace(report, 'conntrack-reply-collision', 'race');
  });

  test('with random ports nothing collides, and nothing is found', async () => {
    const settings = { form: 'port-race', randomFully: true, tries: 320 };
    const report = await runLab('snat-port-exhaustion', settings);
    assert.deepEqual([report.findings, report.unexplained], [[], []]);
  });
});
