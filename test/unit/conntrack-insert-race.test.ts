import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/cli/main-path.js';
import type { Report } from '../../src/explain/finding.js';
import { AT } from '../../src/event/cursor.js';
import { decodeFact, RECORD_FACT } from '../../src/event/fact.js';
import { openFile } from '../../src/session/file-reader.js';
import { recordSize } from '../../src/session/records.js';
import { recordsOf } from '../replay/copies.js';

const recorded = (path: string) => fileURLToPath(new URL(`../../../${path}`, import.meta.url));
const fault = (verdict: string) => recorded(`src/faults/${verdict}/session.skbw`);

async function explained(path: string): Promise<Report> {
  const file = await openFile(path);
  const { report } = await explain([file]);
  await file.close();
  return report;
}

describe('two queries of one socket that make an entry each', () => {
  // both recorded on a kernel that resolves no clash (test/vm/defect-kernel)
  for (const [clash, path] of [
    ['same-tuple', fault('conntrack-insert-race')],
    ['different-backends', recorded('test/unit/conntrack-insert-race-different-backends.skbw')],
  ] as const)
    test(`a kernel that drops the second is found out: ${clash}`, async () => {
      const { findings, lost } = await explained(path);
      assert.deepEqual(lost, { ring: 0, missed: 0, exchanges: 0 });
      assert.equal(findings.length, 1);
      const [finding] = findings;
      assert.ok(finding);
      assert.equal(finding.verdict, 'conntrack-insert-race');
      assert.equal(finding.defect, clash);
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.outcome, 'recovered');
      assert.deepEqual(
        finding.chain.map(({ claim }) => claim),
        ['two-entries', 'winner-inserted', 'insert-failed', 'repeated'],
      );
      // either query can lose, and is what is sent again
      const [first, second, again] = finding.attempts;
      const [winner, loser] = first?.fate === 'dropped' ? [second, first] : [first, second];
      assert.equal(loser?.fate, 'dropped');
      assert.equal(winner?.fate, 'delivered');
      assert.equal(again?.fate, 'delivered');
      assert.equal(again.what, loser.what);
      assert.equal(finding.attempts.length, 3);
      assert.deepEqual(loser?.dropBetween, { from: 'pod1', to: 'eth0' });
    });

  test('on the DNS server’s node, between tunnel and bridge', async () => {
    const { findings, unexplained } = await explained(recorded('sessions/defect-k3s-dns.skbw'));
    assert.deepEqual(unexplained, []);
    assert.equal(findings.length, 1);
    const { verdict, defect, confidence, attempts, delayMs, chain, cause } = findings[0]!;
    assert.deepEqual(
      [verdict, defect, confidence],
      ['conntrack-insert-race', 'same-tuple', 'proved'],
    );
    assert.match(cause, /-server-node$/);
    assert.deepEqual(
      attempts.map(({ what, fate }) => [what.split(' ')[0], fate]),
      [
        ['A', 'delivered'],
        ['AAAA', 'dropped'],
        ['AAAA', 'delivered'],
      ],
    );
    assert.deepEqual(attempts[1]?.dropBetween, { from: 'flannel.1', to: 'cni0' });
    assert.ok(delayMs >= 2500 && delayMs < 3500, `${delayMs} ms`);
    const failed = chain.find(({ claim }) => claim === 'insert-failed');
    assert.match(failed?.text ?? '', /between flannel\.1 and cni0: .* in skbwhy-\S+-server-node/);
  });

  test('where conntrack counted one insertion that failed, and one drop', async () => {
    const { bytes } = await recordsOf(recorded('sessions/defect-k3s-dns.skbw'));
    let node = 0;
    const values: Record<string, number> = {};
    for (let at = 0; at < bytes.length; at += recordSize(bytes, at)) {
      if (bytes[at + AT.kind] !== RECORD_FACT) continue;
      const fact = decodeFact(bytes, at);
      if (fact.fact === 'netns' && fact.name.endsWith('-server-node')) node = fact.netns;
      if (fact.fact === 'counters' && fact.netns === node) Object.assign(values, fact.values);
    }
    assert.equal(values['conntrack.insert_failed'], 1);
    assert.equal(values['conntrack.drop'], 1);
  });

  test('a kernel that keeps both dropped nothing: another verdict', async () => {
    const { findings } = await explained(fault('conntrack-late-answer'));
    assert.deepEqual(
      [...new Set(findings.map(({ verdict }) => verdict))],
      ['conntrack-late-answer'],
    );
  });
});
