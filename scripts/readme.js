#!/usr/bin/env node
/**
 * Fills the README's tables from the faults themselves: `<!-- NAME -->` … `<!-- /NAME -->`.
 * With --check it changes nothing and exits 1 when the README is stale.
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
      `### \`skbwhy lab ${lab.name}\`\n\n${lab.title}\n\n` +
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

const before = fs.readFileSync('README.md', 'utf8');
let after = before;
for (const [name, text] of Object.entries(parts)) {
  const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [from, to] = [after.indexOf(open), after.indexOf(close)];
  if (from < 0 || to < from) throw new Error(`README.md has no place for ${name}`);
  after = `${after.slice(0, from + open.length)}\n\n${text}\n\n${after.slice(to)}`;
}
const settings = JSON.parse(fs.readFileSync('.prettierrc.json', 'utf8'));
after = await format(after, { ...settings, parser: 'markdown' });
if (after !== before && process.argv.includes('--check')) {
  console.error('README.md is stale: npm run readme');
  process.exit(1);
}
fs.writeFileSync('README.md', after);
