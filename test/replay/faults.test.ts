import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/cli/main-path.js';
import type { Report } from '../../src/explain/finding.js';
import { loadFaults } from '../../src/faults/registry.js';
import { openFile } from '../../src/session/file-reader.js';

/**
 * Sessions of other kernels: `KERNEL-what.skbw`, most recorded in the guests of test/vm; `…-healthy.skbw`
 * where a cure was in place.
 */
const KERNELS = new URL('../../../sessions/', import.meta.url);

/**
 * A recorded session gives what was expected of it, to the letter.
 * SKBWHY_EXPECT=write writes down what it gives now, to be read before it is committed.
 */
async function gives(session: URL, expected: URL): Promise<Report> {
  const file = fileURLToPath(session);
  assert.ok(existsSync(file), `${file} is missing`);
  const opened = await openFile(file);
  const { report } = await explain([opened]);
  await opened.close();
  if (process.env['SKBWHY_EXPECT'] === 'write')
    writeFileSync(expected, JSON.stringify(report, null, 2) + '\n');
  assert.deepEqual(
    JSON.parse(JSON.stringify(report)),
    JSON.parse(readFileSync(expected, 'utf8')) as Report,
  );
  return report;
}

for (const { verdict } of await loadFaults())
  test(`${verdict}: its recorded session gives the expected findings`, async () => {
    const folder = new URL(`../../../src/faults/${verdict}/`, import.meta.url);
    const report = await gives(
      new URL('session.skbw', folder),
      new URL('session.expected.json', folder),
    );
    assert.ok(report.findings.some((finding) => finding.verdict === verdict));
  });

for (const name of readdirSync(KERNELS).filter((file) => file.endsWith('.skbw')))
  test(`${name}: gives the expected findings`, async () => {
    const report = await gives(
      new URL(name, KERNELS),
      new URL(name.replace('.skbw', '.expected.json'), KERNELS),
    );
    const causes = new Set(report.findings.map(({ cause }) => cause));
    assert.equal(causes.size, name.endsWith('-healthy.skbw') ? 0 : 1);
    assert.deepEqual(report.unexplained, []);
  });
