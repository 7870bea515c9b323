#!/usr/bin/env node
/**
 * `node scripts/test.js [unit] [replay] [live] [web] [vm]`: sets up, checks style, runs these tests. All
 * is run, also after a failure; exit 1 when anything failed, or, with CI in the environment, when a
 * test other than a unit test was skipped.
 */
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
const kinds = process.argv.slice(2);
const whole = kinds.length > 1;
const results = [];

const needs = new Set(kinds.map((kind) => (kind === 'vm' ? '--kernels' : '--test')));
if ((await node('scripts/setup.js', ...needs)) !== 0) process.exit(1);
if (whole) {
  await step('lint', node('node_modules/.bin/eslint', '.'));
  await step('format', node('node_modules/.bin/prettier', '--check', '--log-level=warn', '.'));
}
for (const kind of kinds) await runTests(kind);

console.log(`\n${results.map(({ text }) => text).join('\n')}`);
process.exitCode = results.every(({ good }) => good) ? 0 : 1;

async function step(name, status) {
  const good = (await status) === 0;
  results.push({ good, text: `${name}: ${good ? 'good' : 'FAILED'}` });
}

async function runTests(kind) {
  if (kind === 'live' && process.getuid() !== 0) {
    results.push({ good: !process.env.CI, text: 'live: SKIPPED, all of them: they need root' });
    return;
  }
  const files = fs
    .readdirSync(`test/${kind}`, { recursive: true })
    .filter((file) => file.endsWith('.test.ts'))
    .map((file) => path.join('dist/test', kind, file.replace(/\.ts$/, '.js')));
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'skbwhy-test-'));
  const tap = path.join(folder, 'results.tap');
  const status = await node(
    '--test',
    // live tests share one kernel, guests the processors
    ...(['live', 'web', 'vm'].includes(kind) ? ['--test-concurrency=1'] : []),
    // nothing hangs for ever: a quarter of an hour for a file, three hours for all kernels
    `--test-timeout=${kind === 'vm' ? 3 * 3600e3 : 900e3}`,
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
    '--test-reporter=tap',
    `--test-reporter-destination=${tap}`,
    ...files,
  );
  const lines = fs.readFileSync(tap, 'utf8').split('\n');
  fs.rmSync(folder, { recursive: true });
  const count = (name) =>
    Number(lines.findLast((line) => line.startsWith(`# ${name} `))?.split(' ')[2]);
  const skipped = lines.filter((line) => /^\s*(not )?ok .* # SKIP/.test(line)).length;
  const good = status === 0 && !(kind !== 'unit' && skipped > 0 && process.env.CI);
  const failed = count('fail') + count('cancelled');
  results.push({
    good,
    text: `${kind}: ${count('pass')} passed, ${failed} failed, ${skipped} skipped${good ? '' : ': FAILED'}`,
  });
}

function node(...args) {
  return new Promise((resolve, reject) =>
    spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'] })
      .on('error', reject)
      .on('close', (status) => resolve(status ?? 1)),
  );
}
