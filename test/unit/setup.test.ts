import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const json = (file: string) => JSON.parse(readFileSync(join(root, file), 'utf8')) as unknown;

function run(file: string) {
  return spawnSync(process.execPath, [file], { cwd: tmpdir(), encoding: 'utf8' });
}

describe('the set-up', () => {
  test('does nothing when it was done before', () => {
    const { status, stderr } = run(join(root, 'scripts/setup.js'));
    assert.equal(status, 0, stderr);
    assert.doesNotMatch(stderr, /installing|compiling/);
  });

  test('is asked for by the command where nothing is built', () => {
    const folder = mkdtempSync(join(tmpdir(), 'skbwhy-setup-'));
    try {
      cpSync(join(root, 'bin'), join(folder, 'bin'), { recursive: true });
      const { status, stderr } = run(join(folder, 'bin/skbwhy.js'));
      assert.equal(status, 1);
      assert.match(stderr, /^skbwhy: .*npm start.*\n$/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

interface Package {
  name?: string;
  resolved?: string;
  hasInstallScript?: true;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

describe('the lock file', () => {
  const { packages } = json('package-lock.json') as {
    packages: Record<string, Package>;
  };

  test('names no host to download from', () => {
    for (const [path, { resolved }] of Object.entries(packages))
      assert.equal(resolved, undefined, path);
  });

  test('is whole: npm ci refuses one that lacks packages, also those for other machines', () => {
    const there = new Set(
      Object.keys(packages).map((path) => path.replace(/.*node_modules\//, '')),
    );
    for (const [path, { dependencies, optionalDependencies }] of Object.entries(packages))
      for (const name of Object.keys({ ...dependencies, ...optionalDependencies }))
        assert.ok(there.has(name), `${name}, for ${path || 'the project'}`);
  });

  test('brings no install script that package.json does not allow', () => {
    const { allowScripts } = json('package.json') as { allowScripts: Record<string, boolean> };
    for (const [path, { hasInstallScript, name }] of Object.entries(packages))
      if (hasInstallScript)
        assert.ok(allowScripts[name ?? path.replace(/.*node_modules\//, '')], path);
  });
});
