import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Finding } from '../../src/explain/finding.js';
import { until } from './probe-lab.js';
import { skbwhy, type Result } from './skbwhy.js';

const execute = promisify(execFile);
const CHECKOUT = fileURLToPath(new URL('../../../', import.meta.url));
const SESSION = join(CHECKOUT, 'src/faults/double-snat/session.skbw');
const NOBODY = 65534;
const PLATFORM = "Object.defineProperty(process, 'platform', { value: 'darwin' })";
/** What Node and npm take for macOS. */
const ON_MAC = `--import=data:text/javascript,${encodeURIComponent(PLATFORM)}`;
/** Neither /proc nor /sys, and nobody's privileges. */
const ELSEWHERE = [
  ...['unshare', '--mount', '--propagation=private', 'sh', '-c'],
  `mount -t tmpfs none /sys && mount -t tmpfs none /proc &&
   exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups "$@"`,
  'sh',
];
/** A connection that is followed to its end may take so long, ms. */
const PATIENCE_MS = 20_000;

describe('at the desk: without root, native packages and Linux', () => {
  const desk = mkdtempSync(join(tmpdir(), 'skbwhy-desk-'));
  const session = join(desk, 'session.skbw');
  const own = join(desk, 'out');

  before(async () => {
    chmodSync(desk, 0o755);
    for (const name of ['package.json', 'package-lock.json', '.npmrc', 'bin'])
      cpSync(join(CHECKOUT, name), join(desk, name), { recursive: true });
    cpSync(join(CHECKOUT, 'dist/src'), join(desk, 'dist/src'), { recursive: true });
    copyFileSync(SESSION, session);
    mkdirSync(own);
    chmodSync(own, 0o777);
    // no compiler, no Python
    const env = { ...process.env, CC: 'false', CXX: 'false', npm_config_python: '/bin/false' };
    await execute('npm', ['ci', '--omit=dev', '--prefer-offline'], { cwd: desk, env });
  });
  after(() => rmSync(desk, { recursive: true }));

  function start(...args: string[]): ChildProcess {
    const [command, ...words] = [...ELSEWHERE, process.execPath, join(desk, 'bin/skbwhy.js')];
    const env = { PATH: process.env['PATH'], HOME: '/nonexistent', NODE_OPTIONS: ON_MAC };
    return spawn(command, [...words, ...args], { cwd: own, env });
  }

  async function run(...args: string[]): Promise<Result> {
    const child = start(...args);
    const stdout = textOf(child.stdout!);
    const stderr = textOf(child.stderr!);
    const status = await new Promise<number>((resolve) =>
      child.on('close', (code) => resolve(code ?? 128)),
    );
    return { status, stdout: stdout(), stderr: stderr() };
  }

  /** The same here and at the desk. */
  async function same(...args: string[]): Promise<string> {
    const there = await run(...args);
    assert.equal(there.status, 0, there.stderr);
    const here = await skbwhy(args);
    assert.equal(there.stdout, here.stdout);
    return there.stdout;
  }

  test('an installation goes through where nothing can be built', () => {
    const installed = readdirSync(join(desk, 'node_modules'));
    assert.ok(installed.includes('commander'));
    for (const name of ['ffi-napi', 'ref-napi', 'typescript'])
      assert.ok(!installed.includes(name), name);
  });

  test('an installation goes through on other systems', async () => {
    const env = { ...process.env, NODE_OPTIONS: ON_MAC };
    await execute('npm', ['ci', '--omit=dev', '--dry-run'], { cwd: desk, env });
  });

  test('explain says what it says on the node', async () => {
    assert.match(await same('explain', session), /double-snat/);
    await same('explain', '--json', session);
    await same('explain', '--format', 'markdown', session);
  });

  test('export writes what it writes on the node', async () => {
    for (const format of ['pcapng', 'jsonl']) {
      const [there, here] = [join(own, 'there'), join(desk, `here.${format}`)];
      const results = [
        await run('export', session, `--${format}`, there),
        await skbwhy(['export', session, `--${format}`, here]),
      ];
      for (const { status, stderr } of results) assert.equal(status, 0, stderr);
      assert.deepEqual(readFileSync(there), readFileSync(here));
    }
  });

  test('replay serves the session and the page, watch follows it', async () => {
    const replay = start('replay', session, '--speed', 'max', '--listen', '127.0.0.1:0');
    const said = textOf(replay.stderr!);
    try {
      const address = / at (http:\/\/\S+);/;
      await until('it serves', PATIENCE_MS, () => address.test(said()));
      const url = address.exec(said())![1]!;
      for (const path of ['/', '/healthz'])
        assert.equal((await fetch(new URL(path, url))).status, 200, path);
      const { status, stdout, stderr } = await run('watch', url, '--json');
      assert.equal(status, 0, stderr);
      const lines = stdout.split('\n').filter((line) => line !== '');
      const last = JSON.parse(lines.at(-1)!) as Finding;
      assert.equal(last.verdict, 'double-snat');
      assert.equal(last.outcome, 'recovered');
    } finally {
      replay.kill('SIGTERM');
    }
  });

  test('what needs Linux says so in one line', async () => {
    for (const args of [
      ['record', 'x.skbw'],
      ['doctor'],
      ['daemon', '--listen', '127.0.0.1:0'],
      ['lab', 'double-snat'],
    ]) {
      const { status, stdout, stderr } = await run(...args);
      assert.equal(status, 1, args[0]);
      assert.equal(stdout, '');
      assert.match(stderr, /^skbwhy: only Linux .*\[not-linux\]\n$/, args[0]);
    }
  });

  test('tracing without the native packages says what is missing', async () => {
    const { status, stderr } = await execute(process.execPath, [
      join(desk, 'bin/skbwhy.js'),
      ...['record', join(own, 'x.skbw'), '--duration', '1'],
    ]).then(
      () => ({ status: 0, stderr: '' }),
      (error: { code: number; stderr: string }) => ({ status: error.code, stderr: error.stderr }),
    );
    assert.equal(status, 1);
    assert.match(stderr, /^skbwhy: tracing needs the native packages .*\[library-missing\]\n$/);
  });
});

function textOf(stream: NodeJS.ReadableStream): () => string {
  let text = '';
  stream.on('data', (data: Buffer) => (text += data.toString()));
  return () => text;
}
