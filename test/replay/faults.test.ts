import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/cli/main-path.js';
import type { Report } from '../../src/explain/finding.js';
import { loadFaults } from '../../src/faults/registry.js';
import { openFile } from '../../src/session/file-reader.js';

/**
 * Each fault's recorded session gives what was expected of it, to the letter.
 * SKBWHY_EXPECT=write writes down what it gives now, to be read before it is committed.
 */
for (const { verdict } of await loadFaults()) {
  const folder = new URL(`../../../src/faults/${verdict}/`, import.meta.url);
  const file = fileURLToPath(new URL('session.skbw', folder));
  const expected = fileURLToPath(new URL('session.expected.json', folder));

  test(`${verdict}: its recorded session gives the expected findings`, async () => {
    assert.ok(existsSync(file), `${file}: a fault comes with a recorded session`);
    const session = await openFile(file);
    const { report } = await explain([session]);
    await session.close();
    assert.ok(report.findings.some((finding) => finding.verdict === verdict));
    if (process.env['SKBWHY_EXPECT'] === 'write')
      writeFileSync(expected, JSON.stringify(report, null, 2) + '\n');
    assert.deepEqual(
      JSON.parse(JSON.stringify(report)),
      JSON.parse(readFileSync(expected, 'utf8')) as Report,
    );
  });
}
