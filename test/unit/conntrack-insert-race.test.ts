import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/cli/main-path.js';
import type { Report } from '../../src/explain/finding.js';
import { openFile } from '../../src/session/file-reader.js';

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

  test('a kernel that keeps both dropped nothing: another verdict', async () => {
    const { findings } = await explained(fault('conntrack-late-answer'));
    assert.deepEqual(
      [...new Set(findings.map(({ verdict }) => verdict))],
      ['conntrack-late-answer'],
    );
  });
});
