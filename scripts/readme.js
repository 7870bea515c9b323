#!/usr/bin/env node
/**
 * Fills the tables of README.md and docs/labs.md from the faults themselves: `<!-- NAME -->` …
 * `<!-- /NAME -->`. With --check it changes nothing and exits 1 when one of them is stale.
 */
import * as fs from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
const { format } = await import('prettier');
const { loadFaults } = await import('../dist/src/faults/registry.js');

const faults = await loadFaults();
const cell = (text) => String(text).replaceAll('|', '\\|');
const table = (head, rows) =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');

const parts = {
  verdicts: table(
    ['verdict', 'is'],
    faults.map(({ verdict, title }) => [`\`${verdict}\``, cell(title)]),
  ),
};
parts.labs = faults
  .map(
    ({ lab }) =>
      `## \`skbwhy lab ${lab.name}\`\n\n${lab.title}\n\n` +
      table(
        ['key', 'default', 'is'],
        lab.settings.map(({ key, unit, default: value, values, help }) => [
          `\`${key}\``,
          value === null ? '–' : `${value}${unit ? ` ${unit}` : ''}`,
          cell(`${help}${values ? ` (${values.join(', ')})` : ''}`),
        ]),
      ),
  )
  .join('\n\n');

const settings = JSON.parse(fs.readFileSync('.prettierrc.json', 'utf8'));
const stale = [];
for (const [page, names] of Object.entries({
  'README.md': ['verdicts'],
  'docs/labs.md': ['labs'],
})) {
  const before = fs.readFileSync(page, 'utf8');
  let after = before;
  for (const name of names) {
    const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
    const [from, to] = [after.indexOf(open), after.indexOf(close)];
    if (from < 0 || to < from) throw new Error(`${page} has no place for ${name}`);
    after = `${after.slice(0, from + open.length)}\n\n${parts[name]}\n\n${after.slice(to)}`;
  }
  after = await format(after, { ...settings, parser: 'markdown' });
  if (after === before) continue;
  stale.push(page);
  if (!process.argv.includes('--check')) fs.writeFileSync(page, after);
}
if (stale.length > 0 && process.argv.includes('--check')) {
  console.error(`stale: ${stale.join(', ')}; npm run readme`);
  process.exit(1);
}
