import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertNoticed, onlyFinding, runLab } from './skbwhy.js';

describe('a network card that spoils checksums', { concurrency: 4 }, () => {
  for (const [name, settings, defect, last] of [
    ['forgets those of SYNs', {}, 'not-finished', 'TCP_CSUM'],
    ['forgets those of SYN-ACKs', { direction: 'answer' }, 'not-finished', 'TCP_CSUM'],
    [
      'finishes them wrongly',
      { card: 'miscalculate', family: 'ipv6' },
      'miscalculated',
      'TCP_CSUM',
    ],
    ['flips a bit of finished ones', { card: 'flip', txOffload: false }, 'rewritten', 'TCP_CSUM'],
    ['alters the packet', { card: 'alter', txOffload: false }, 'altered', 'TCP_CSUM'],
    ['of packets in a tunnel', { tunnel: 'noudpcsum' }, 'not-finished', 'TCP_CSUM'],
    ['of a tunnel with checksums', { tunnel: 'udpcsum' }, 'not-finished', 'UDP_CSUM'],
    ['before a rule that drops INVALID', { firewall: true }, 'not-finished', 'NETFILTER_DROP'],
  ] as const)
    test(`${name}: no connection stands`, async () => {
      const report = await runLab('checksum-offload', { timeout: 1.3, ...settings });
      const finding = onlyFinding(report);
      assert.equal(finding.verdict, 'checksum-offload');
      assert.equal(finding.defect, defect);
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.outcome, 'failed');
      assert.equal(finding.bypass, null);
      assert.deepEqual(report.unexplained, []);
      assert.ok(finding.attempts.some((attempt) => attempt.dropReason === last));
      assert.match(finding.title, /between \w+ \(veth\) of skbwhy-\S+ and \w+ \(veth\) of skbwhy-/);
      const spoiled = finding.attempts.find((attempt) => attempt.checksum)?.checksum;
      assert.ok(spoiled && spoiled.before !== null && spoiled.expected !== null);
      assert.ok(spoiled.after !== spoiled.expected);
      assert.equal(spoiled.after === spoiled.before, /not-finished|altered/.test(defect));
      for (const claim of finding.chain) assert.ok(claim.evidence.length > 0, claim.claim);
      assert.equal(report.clients[0]?.error, 'timeout');
    });

  for (const [settings, fate, how] of [
    [{}, 'refused', /TCP_CSUM at tcp_v4_rcv/],
    [{ direction: 'answer' }, 'refused', /TCP_CSUM at tcp_v4_rcv/],
    [{ service: true }, 'not-translated', /INVALID .* not translated, as SYN 2 is/],
    [{ firewall: true }, 'dropped-as-invalid', /`ct state invalid drop`/],
  ] as const)
    test(`once, ${JSON.stringify(settings)}: as late as the repeat`, async () => {
      const report = await runLab('checksum-offload', { packets: 1, ...settings });
      const finding = onlyFinding(report);
      assert.equal(finding.verdict, 'checksum-offload');
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.outcome, 'recovered');
      assert.deepEqual(report.unexplained, []);
      assert.match(finding.chain.find(({ claim }) => claim === fate)?.text ?? '', how);
      assert.ok(finding.chain.some(({ claim }) => claim === 'a-later-one-is-right'));
      const measured = report.clients[0]?.connectMs ?? 0;
      assert.ok(measured > 950);
      assertNoticed(measured, finding);
    });

  for (const [settings, defect] of [
    [{}, 'not-finished'],
    [{ direction: 'answer' }, 'not-finished'],
    [{ card: 'alter', family: 'ipv6' }, 'altered'],
  ] as const)
    test(`of lookups: ${JSON.stringify(settings)}`, async () => {
      const report = await runLab('checksum-offload', { protocol: 'dns', packets: 2, ...settings });
      const finding = onlyFinding(report);
      assert.equal(finding.verdict, 'checksum-offload');
      assert.equal(finding.defect, defect);
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.outcome, 'recovered');
      assert.deepEqual(report.unexplained, []);
      const measured = report.clients[0]?.connectMs ?? 0;
      assert.ok(measured > 2400);
      assertNoticed(measured, finding);
    });

  test('of queries that are verified when the server takes them: the counter tells', async () => {
    const report = await runLab('checksum-offload', {
      ...{ protocol: 'dns', packets: 2 },
      name: 'a-name-that-makes-the-query-longer.than-what-is-verified-at-once.checksum-offload.example',
    });
    const finding = onlyFinding(report);
    assert.equal(finding.verdict, 'checksum-offload');
    assert.equal(finding.confidence, 'proved');
    assert.equal(finding.outcome, 'recovered');
    assert.match(
      finding.chain.map(({ text }) => text).join('\n'),
      /InCsumErrors of UDP in .* rose/,
    );
    assert.deepEqual(report.unexplained, []);
  });

  for (const [settings, confidence, why] of [
    [{ traced: 'receiver' }, 'likely', /which device it was does not/],
    [{ traced: 'receiver', card: 'flip' }, 'possible', /a NAT out of sight/],
    [{ traced: 'node' }, 'proved', /^$/],
  ] as const)
    test(`${JSON.stringify(settings)}: ${confidence}`, async () => {
      const finding = onlyFinding(await runLab('checksum-offload', { timeout: 1.3, ...settings }));
      assert.equal(finding.verdict, 'checksum-offload');
      assert.equal(finding.confidence, confidence);
      assert.match(finding.loweredFor.join('\n'), why);
      const expected = finding.chain.some(({ claim }) => claim === 'peer-drop-expected');
      assert.equal(expected, settings.traced === 'node');
    });

  test('what leaves unfinished is no fault: the sending side alone gives no verdict', async () => {
    const report = await runLab('checksum-offload', { timeout: 1.3, traced: 'sender' });
    assert.deepEqual(report.findings, []);
    assert.equal(report.unexplained.length, 1);
  });

  for (const settings of [
    { card: 'finish' },
    { card: 'defer' },
    { txOffload: false },
    { txOffload: false, card: 'miscalculate' },
    { card: 'defer', protocol: 'dns', service: true, firewall: true },
    { card: 'defer', tunnel: 'udpcsum' },
    { txOffload: false, tunnel: 'udpcsum' },
  ])
    test(`${JSON.stringify(settings)}: nothing is wrong, and no finding`, async () => {
      const report = await runLab('checksum-offload', { clients: 5, ...settings });
      assert.deepEqual(report.findings, []);
      assert.deepEqual(report.unexplained, []);
      assert.ok(report.clients.every((client) => client.ok));
    });
});
