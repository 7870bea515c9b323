import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { faultLab } from './fault-labs.js';
import { skbwhy, type LabReport } from './skbwhy.js';

const run = promisify(execFile);

describe('two faults at once', { concurrency: 2 }, () => {
  test('a policy drop beside a double SNAT: neither is blamed for the other', async () => {
    const script = `set -e
      nft add table ip guard
      nft 'add chain ip guard output { type filter hook output priority 0; }'
      nft add rule ip guard output tcp dport 9999 drop
      sleep 8
      curl -s -m 10 -o /dev/null http://$SKBWHY_SERVICE/ &
      curl -s -m 1.5 -o /dev/null http://10.244.2.10:9999/ || true
      wait`;
    const report = await faultLab('double-snat', {}, '--', 'sh', '-c', script);
    assert.deepEqual(
      report.findings.map(({ verdict, confidence, outcome }) => ({ verdict, confidence, outcome })),
      report.findings[0]?.verdict === 'policy-drop'
        ? [
            { verdict: 'policy-drop', confidence: 'proved', outcome: 'failed' },
            { verdict: 'double-snat', confidence: 'proved', outcome: 'recovered' },
          ]
        : [
            { verdict: 'double-snat', confidence: 'proved', outcome: 'recovered' },
            { verdict: 'policy-drop', confidence: 'proved', outcome: 'failed' },
          ],
    );
    assert.deepEqual(report.unexplained, []);
  });

  test('a policy drop beside a collision of reply tuples in one namespace: neither is blamed for the other', async () => {
    let refused: Promise<unknown> = Promise.resolve();
    const { status, stdout, stderr } = await skbwhy(
      ['lab', 'conntrack-reply-collision', '--json'],
      (child) => {
        refused = dropBeside(child.pid!);
      },
    );
    await refused;
    assert.equal(status, 0, stderr);
    const report = JSON.parse(stdout) as LabReport;
    const verdicts = (kind: string) => [
      ...new Set(
        report.findings.flatMap(({ subject, verdict }) => (subject.kind === kind ? verdict : [])),
      ),
    ];
    assert.deepEqual(verdicts('tcp-connect'), ['policy-drop']);
    assert.deepEqual(verdicts('dns-lookup'), ['conntrack-reply-collision']);
    assert.deepEqual(report.unexplained, []);
  });
});

/** In the lab of that process: a rule on its node, and connects from a pod that meet it until it ends. */
async function dropBeside(pid: number): Promise<void> {
  const inside = (role: string, ...command: string[]) =>
    run('ip', ['netns', 'exec', `skbwhy-${pid}-${role}`, ...command]);
  const rules = `table ip guard {
    chain forward { type filter hook forward priority 0; tcp dport 9999 drop; }
  }`;
  for (let i = 0; i < 500 && !existsSync(`/run/netns/skbwhy-${pid}-client`); i++) await sleep(20);
  await inside('node', 'nft', rules);
  while (existsSync(`/run/netns/skbwhy-${pid}-client`)) {
    await inside('client', 'curl', '-s', '-m', '0.3', 'http://10.250.0.2:9999/').catch(() => null);
    await sleep(300);
  }
}
