import assert from 'node:assert/strict';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Report } from '../../src/explain/finding.js';
import { BIN, skbwhy } from './skbwhy.js';
import { Traces } from './traces.js';

const folder = mkdtempSync(join(tmpdir(), 'skbwhy-cleanup-'));
after(() => rmSync(folder, { recursive: true }));
/** Those that a failed test leaves are ended. */
const running = new Set<ChildProcess>();
after(() => running.forEach((child) => child.kill('SIGKILL')));
const file = (name: string) => join(folder, `${name}.skbw`);

interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** A run of skbwhy that is followed from outside, in a process group of its own like a terminal's. */
function start(...args: string[]): { child: ChildProcess; traces: Traces; ended: Promise<Ended> } {
  const child = spawn(process.execPath, [BIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  running.add(child);
  child.once('exit', () => running.delete(child));
  const ended = { status: null as number | null, stdout: '', stderr: '' };
  child.stdout.on('data', (text) => (ended.stdout += String(text)));
  child.stderr.on('data', (text) => (ended.stderr += String(text)));
  return {
    child,
    traces: new Traces(child.pid!),
    // not 'close': a process that is left would hold our pipes
    ended: once(child, 'exit').then(([status]) => ({ ...ended, status: status as number | null })),
  };
}

describe('nothing is left', { concurrency: 2 }, () => {
  for (const [what, ...args] of [
    ['lab', 'lab', 'double-snat'],
    ['lab -- COMMAND', 'lab', 'double-snat', '--', 'sh', '-c', 'sleep 0.5; sleep 60 &'],
    ['record --duration', 'record', file('duration'), '--duration', '0.5'],
    ['record -- COMMAND', 'record', file('command'), '--', 'sleep', '0.5'],
  ] as [string, ...string[]][])
    test(`after ${what}`, async () => {
      const { traces, ended } = start(...args);
      const { status, stderr } = await ended;
      assert.equal(status, 0, stderr);
      assert.ok(traces.objects.prog.size >= 4, 'programs were seen while it ran');
      assert.ok(traces.objects.link.size >= 12, 'links were seen while it ran');
      assert.ok(traces.objects.map.size >= 3, 'maps were seen while it ran');
      await traces.assertGone();
    });

  test('after record that refuses its filter, or cannot write', async () => {
    for (const args of [[file('x'), '--filter', 'vlan'], [folder]]) {
      const { traces, ended } = start('record', ...args);
      assert.notEqual((await ended).status, 0);
      await traces.assertGone();
    }
  });
});

/** Moments from start-up to tearing down, spread over the run with a little chance. */
const moments = (count: number, until: number): number[] =>
  Array.from({ length: count }, (_, i) => Math.round(((i + Math.random()) * until) / count));

describe('nothing is left when it is interrupted at any moment', { concurrency: 2 }, () => {
  const lab = ['lab', 'double-snat', '--set', 'txrehash=0'];
  const record = ['record', file('signal')];
  for (const [args, signal, count] of [
    [lab, 'SIGINT', 6],
    [lab, 'SIGTERM', 6],
    [record, 'SIGINT', 3],
    [record, 'SIGTERM', 3],
    [[...record, '--', 'sleep', '60'], 'SIGINT', 4],
    [[...record, '--', 'sleep', '60'], 'SIGTERM', 4],
  ] as [string[], NodeJS.Signals, number][])
    test(`${args.join(' ').replace(folder, '')}: ${signal}`, async () => {
      for (const [i, ms] of moments(count, 2000).entries()) {
        const { child, traces, ended } = start(...args);
        await sleep(ms);
        // a terminal tells the whole group, a service manager the process
        process.kill(i % 2 === 0 ? child.pid! : -child.pid!, signal);
        const { status, stdout, stderr } = await ended;
        const at = `${signal} after ${ms} ms: ${stderr}`;
        if (status === null) assert.equal(stdout + stderr, '', at);
        else if (status === 0) assert.match(stdout, /\S/, at);
        else assert.match(stderr, /^skbwhy: [^\n]+ \[interrupted\]\n$/, at);
        await traces.assertGone();
      }
    });

  test('and when a second signal does not let it finish', async () => {
    const command = 'trap "" TERM INT; echo begun; sleep 60';
    const { child, traces, ended } = start(...lab, '--', 'sh', '-c', command);
    await once(child.stdout!, 'data');
    process.kill(child.pid!, 'SIGINT');
    // two that wait are one
    const waits = () =>
      /^(Sig|Shd)Pnd:\s*0*[^0\s]/m.test(readFileSync(`/proc/${child.pid}/status`, 'latin1'));
    do await sleep(200);
    while (waits());
    process.kill(child.pid!, 'SIGINT');
    assert.equal((await ended).status, 130);
    await traces.assertGone();
  });
});

test('killed at any moment, it leaves no program, link or map; the next lab removes the rest', async () => {
  const killed: Traces[] = [];
  for (const ms of moments(6, 2000)) {
    const { child, traces, ended } = start('lab', 'double-snat', '--set', 'txrehash=0');
    await sleep(ms);
    process.kill(child.pid!, 'SIGKILL');
    await ended;
    await traces.assertGone(/^skbwhy-|\/lab-|^process/);
    killed.push(traces);
  }
  const recording = start('record', file('killed'), '--netns', 'host', '--', 'sleep', '2');
  await sleep(1200);
  process.kill(recording.child.pid!, 'SIGKILL');
  await recording.ended;
  await recording.traces.assertGone(/^process .*sleep 2/); // the user's own command goes on
  assert.equal((await skbwhy(['lab', 'double-snat'])).status, 0);
  for (const traces of killed) await traces.assertGone();
});

test('lab --keep leaves a lab that works, which the next lab removes', async () => {
  const { traces, ended, child } = start('lab', 'double-snat', '--keep');
  const { status, stderr } = await ended;
  assert.equal(status, 0, stderr);
  const node = `skbwhy-${child.pid}-sender`;
  assert.match(stderr, new RegExp(`^Kept: .*sender=${node} .*next lab removes them`));
  await traces.assertGone(/^skbwhy-|\/lab-|^process .*server\.js/);
  const curl = ['-sS', '--max-time', '9', 'http://10.96.0.10/'];
  const answer = execFileSync('ip', ['netns', 'exec', node, 'curl', ...curl], { encoding: 'utf8' });
  assert.match(answer, /the lab answers/);
  assert.equal((await skbwhy(['lab', 'double-snat'])).status, 0);
  await traces.assertGone();
});

describe('namespaces come and go while tracing', () => {
  const name = (role: string) => `skbwhy-test-${process.pid}-${role}`;
  const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8', stdio: 'pipe' });
  /** A namespace joined to `stays` by a cable: device `role` there, eth0 here. */
  function join_(role: string, address: string): void {
    const [own, peer] = [name(role), name('stays')];
    ip('netns', 'add', own);
    ip('link', 'add', 'eth0', 'netns', own, 'type', 'veth', 'peer', role, 'netns', peer);
    ip('-n', own, 'address', 'add', `${address}.1/24`, 'dev', 'eth0');
    ip('-n', peer, 'address', 'add', `${address}.2/24`, 'dev', role);
    for (const [netns, device] of [
      [own, 'eth0'],
      [peer, role],
    ] as const)
      ip('-n', netns, 'link', 'set', device, 'up');
  }
  const hasDevice = (device: string) =>
    ip('-n', name('stays'), '-o', 'link').includes(` ${device}@`);
  /** Whether the device is gone within that time: its namespace then is, too. */
  async function goes(device: string, ms: number): Promise<boolean> {
    for (let waited = 0; waited < ms; waited += 100) {
      if (!hasDevice(device)) return true;
      await sleep(100);
    }
    return false;
  }

  before(() => ip('netns', 'add', name('stays')));
  after(() => {
    for (const role of ['stays', 'named', 'later'])
      if (existsSync(`/run/netns/${name(role)}`)) ip('netns', 'del', name(role));
  });

  test('without --netns: what goes is not held, what appears is traced', async () => {
    join_('named', '10.77.1');
    // a namespace without a name, held by a process
    const holder = spawn('unshare', ['--net', 'sleep', '60'], { stdio: 'ignore' });
    const inode = (pid: number | 'self') => statSync(`/proc/${pid}/ns/net`).ino;
    while (inode(holder.pid!) === inode('self')) await sleep(20);
    ip(
      'link',
      'add',
      'unnamed',
      'netns',
      name('stays'),
      'type',
      'veth',
      'peer',
      'eth0',
      'netns',
      String(holder.pid),
    );

    const { child, traces, ended } = start('record', file('namespaces'), '--json');
    while (traces.objects.link.size < 24) await sleep(50);
    await sleep(1000);
    ip('netns', 'del', name('named'));
    holder.kill('SIGKILL');
    assert.ok(hasDevice('named') || hasDevice('unnamed'), 'the links hold the namespaces at first');
    assert.deepEqual(await Promise.all([goes('named', 5000), goes('unnamed', 5000)]), [true, true]);

    join_('later', '10.77.2');
    await sleep(5000);
    const refused = ['--max-time', '5', 'http://10.77.2.2:9/'];
    assert.throws(() => ip('netns', 'exec', name('later'), 'curl', '-s', ...refused));
    await sleep(300);
    process.kill(child.pid!, 'SIGINT');
    const { status, stdout, stderr } = await ended;
    assert.equal(status, 0, stderr);
    const { findings, unexplained } = JSON.parse(stdout) as Report;
    const told = [...findings, ...unexplained];
    const seen = told.filter(({ subject }) => subject.netns === name('later'));
    assert.equal(seen.length, 1, JSON.stringify(seen, null, 1));
    assert.match(JSON.stringify(seen[0]!.subject), /10\.77\.2\.2:9/);
    await traces.assertGone();
  });
});
