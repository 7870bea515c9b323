import assert from 'node:assert/strict';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Report } from '../../src/explain/finding.js';
import { BIN, onlyFinding, skbwhy, wholly } from './skbwhy.js';

const folder = mkdtempSync(join(tmpdir(), 'skbwhy-recordings-'));
after(() => rmSync(folder, { recursive: true }));
const file = (name: string) => join(folder, `${name}.skbw`);

async function explained(...files: string[]): Promise<Report> {
  const { status, stdout, stderr } = await skbwhy(['explain', '--json', ...files]);
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout) as Report;
}

describe('recordings of healthy traffic that starts before and ends after them', () => {
  const [client, server] = ['client', 'server'].map(
    (role) => `skbwhy-test-${process.pid}-${role}`,
  ) as [string, string];
  const ip = (...args: string[]) => void execFileSync('ip', args, { stdio: 'pipe' });
  const program = (name: string) =>
    fileURLToPath(new URL(`../../src/lab/${name}.js`, import.meta.url));
  const running: ChildProcess[] = [];
  const start = (netns: string, ...args: string[]): ChildProcess => {
    const command = ['netns', 'exec', netns, process.execPath, ...args];
    const child = spawn('ip', command, { stdio: ['pipe', 'pipe', 'inherit'] });
    running.push(child);
    return child;
  };

  before(async () => {
    ip('netns', 'add', client);
    ip('netns', 'add', server);
    ip('link', 'add', 'eth0', 'netns', client, 'type', 'veth', 'peer', 'eth0', 'netns', server);
    for (const [netns, address] of [
      [client, '10.78.0.1/24'],
      [server, '10.78.0.2/24'],
    ] as const) {
      ip('-n', netns, 'address', 'add', address, 'dev', 'eth0');
      ip('-n', netns, 'link', 'set', 'eth0', 'up');
    }
    await once(start(server, program('server'), JSON.stringify({ reset: 8083 })).stdout!, 'data');
    start(client, program('load'), 'connect', '10.78.0.2', '8083', '1000000');
  });
  after(() => {
    for (const child of running) child.kill('SIGKILL');
    for (const netns of [client, server]) ip('netns', 'del', netns);
  });

  for (const netns of [[], ['--netns', client], ['--netns', server]])
    test(`find nothing wrong with it: ${netns.length === 0 ? 'everywhere' : netns[1]!.replace(/.*-/, 'from the ')}`, async () => {
      for (let i = 0; i < 2; i++) {
        const args = ['--json', '--duration', '0.3', ...netns];
        const { status, stdout, stderr } = await skbwhy(['record', file('healthy'), ...args]);
        assert.equal(status, 0, stderr);
        const report = JSON.parse(stdout) as Report;
        assert.ok(report.sessions[0]!.events > 100);
        const ours = [...report.findings, ...report.unexplained].filter(
          ({ subject }) => subject.netns === client || subject.netns === server,
        );
        assert.deepEqual(ours, []);
      }
    });
});

test('two recordings of the same namespaces at once are explained together like one', async () => {
  const script = join(folder, 'second.sh');
  const names = ['SENDER', 'RECEIVER', 'POD'].map((role) => `$SKBWHY_NETNS_${role}`).join(' ');
  writeFileSync(
    script,
    `#!/bin/sh
    "${process.execPath}" "${BIN}" record "${file('second')}" --netns ${names} > "${folder}/said" 2>&1 &
    until grep -q Recording "${folder}/said"; do sleep 0.1; done
    curl -s --max-time 9 "http://$SKBWHY_SERVICE/" || exit
    sleep 0.3
    kill -INT $! && wait $!`,
  );
  chmodSync(script, 0o755);
  const lab = ['lab', 'double-snat', '--record', file('first'), '--', script];
  const both = await wholly(async () => {
    const { status, stderr } = await skbwhy(lab);
    assert.equal(status, 0, stderr);
    return explained(file('first'), file('second'));
  });
  const [first, second, reverse] = await Promise.all([
    explained(file('first')),
    explained(file('second')),
    explained(file('second'), file('first')),
  ]);
  const verdict = (report: Report) => {
    const { verdict, defect, confidence, outcome, attempts, bypass, chain } = onlyFinding(report);
    assert.equal(confidence, 'proved');
    assert.deepEqual(report.unexplained, []);
    return {
      ...{ verdict, defect, outcome, bypass },
      attempts: attempts.map(({ n, fate, mark, outerPort, dropReason }) => ({
        ...{ n, fate, mark, outerPort, dropReason },
      })),
      chain: chain.map(({ claim }) => claim),
    };
  };
  assert.deepEqual(verdict(second), verdict(first));
  assert.deepEqual(verdict(both), verdict(first));
  assert.deepEqual(verdict(reverse), verdict(first));
  const { id, delayMs, attempts, chain } = onlyFinding(both);
  const alone = onlyFinding(first);
  assert.deepEqual([id, delayMs, attempts], [alone.id, alone.delayMs, alone.attempts]);
  assert.deepEqual(
    chain.map(({ text }) => text),
    alone.chain.map(({ text }) => text),
  );
});
