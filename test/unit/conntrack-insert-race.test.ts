import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/cli/main-path.js';
import type { Report } from '../../src/explain/finding.js';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { onOlderKernel } from './older-kernel.js';

const folder = (verdict: string) => new URL(`../../../src/faults/${verdict}/`, import.meta.url);
const recorded = fileURLToPath(new URL('session.skbw', folder('conntrack-late-answer')));

async function explained(sameTuple: boolean): Promise<Report> {
  const file = await openFile(recorded);
  const session = await onOlderKernel(file, sameTuple);
  const { report } = await explain([session]);
  // how the fault's own recorded session is made
  if (!sameTuple && process.env['SKBWHY_EXPECT'] === 'write') {
    const path = fileURLToPath(new URL('session.skbw', folder('conntrack-insert-race')));
    const writer = await FileWriter.create(path, session.header);
    for await (const batch of session) await writer.write(batch);
    await writer.close();
  }
  await file.close();
  return report;
}

describe('two queries of one socket that make an entry each', () => {
  for (const [clash, sameTuple] of [
    ['different-backends', false],
    ['same-tuple', true],
  ] as const)
    test(`a kernel that drops the second is found out: ${clash}`, async () => {
      const { findings, unexplained } = await explained(sameTuple);
      assert.deepEqual(unexplained, []);
      assert.ok(findings.length >= 1);
      for (const finding of findings) {
        assert.equal(finding.verdict, 'conntrack-insert-race');
        assert.equal(finding.defect, clash);
        assert.equal(finding.confidence, 'proved');
        assert.equal(finding.outcome, 'recovered');
        assert.deepEqual(
          finding.chain.map(({ claim }) => claim),
          ['two-entries', 'winner-inserted', 'insert-failed', 'repeated'],
        );
        assert.deepEqual(
          finding.attempts.map(({ fate }) => fate),
          ['delivered', 'dropped', 'delivered'],
        );
      }
    });

  test('a kernel that keeps both dropped nothing: another verdict', async () => {
    const file = await openFile(recorded);
    const { report } = await explain([file]);
    await file.close();
    assert.deepEqual(
      [...new Set(report.findings.map(({ verdict }) => verdict))],
      ['conntrack-late-answer'],
    );
  });
});
