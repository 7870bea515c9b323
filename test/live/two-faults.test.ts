import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Report } from '../../src/explain/finding.js';
import { BACKENDS, createDnsNode, SERVICE } from '../../src/lab/dns-node.js';
import { runClients, startServer } from '../../src/lab/endpoints.js';
import type { ClientResult } from '../../src/lab/lab.js';
import type { Namespaces } from '../../src/lab/namespaces.js';
import { provokeLookupCollision } from '../../src/lab/race.js';
import { assertNoticed, runLab, skbwhy, wholly, type LabReport } from './skbwhy.js';

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
    const report = await runLab('double-snat', {}, '--', 'sh', '-c', script);
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

  test('a double SNAT beside a collision of lookups on one node: neither is blamed for the other', async () => {
    const namespaces = await createDnsNode({
      ...{ pods: 2, backends: 1, delayMs: 0, lateRules: 400 },
      rules: [
        `-A PREROUTING -d ${TUNNELLED}/32 -p tcp -j MARK --set-xmark 0x4000/0x4000`,
        '-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully',
        `-A POSTROUTING -d ${BACKENDS[0]}/32 -p udp -m udp --dport 53 -j MASQUERADE`,
      ],
    });
    const folder = mkdtempSync(join(tmpdir(), 'skbwhy-two-faults-'));
    try {
      await namespaces.script('node', tunnel(NODE, BACKENDS[0], '10.245.0.1'));
      await namespaces.script('server', tunnel(BACKENDS[0], NODE, TUNNELLED));
      await startServer(namespaces, 'server', { answer: PORT });
      const { clients, report } = await during(namespaces, folder, async () => {
        const server = { address: TUNNELLED, port: PORT };
        const connect = { ...server, purpose: 'faulty', timeoutMs: 10_000 };
        const race = { server: SERVICE, tries: 2000, repeatAfter: 1.2, timeout: 10 };
        const [connects, lookups] = await Promise.all([
          runClients(namespaces, 'client', [connect]),
          provokeLookupCollision(namespaces, race),
        ]);
        return [...connects, ...lookups.filter(({ purpose }) => purpose === 'lookup')];
      });
      assert.ok(clients.length >= 2, JSON.stringify(clients));
      assert.equal(report.findings.length, clients.length, JSON.stringify(report.findings));
      assert.deepEqual(report.unexplained, []);
      for (const { protocol, source, connectMs } of clients) {
        const finding = report.findings.find(({ subject }) => subject.client === source);
        assert.equal(
          finding?.verdict,
          protocol === 'tcp' ? 'double-snat' : 'conntrack-reply-collision',
        );
        assert.equal(finding.confidence, 'proved');
        assert.equal(finding.outcome, 'recovered');
        assertNoticed(connectMs, finding);
      }
    } finally {
      await namespaces.remove();
      rmSync(folder, { recursive: true });
    }
  });
});

/** A server's address behind a tunnel of the node that the lookups pass, and its port. */
const TUNNELLED = '10.245.0.2';
const PORT = 8080;
/** The node's own address towards the server. */
const NODE = '10.250.0.1';

/**
 * One end of that tunnel, which is as iproute2 makes it, with outer checksums; the cable takes finished
 * packets only, as one between machines.
 */
const tunnel = (local: string, remote: string, address: string): string => `
ethtool -K eth0 tx off > /dev/null
ip link add vxlan0 type vxlan id 1 local ${local} remote ${remote} dstport 8472
ip address add ${address}/24 dev vxlan0
ip link set vxlan0 up`;

/** What clients measure while their namespaces are recorded, and what is found. */
async function during(
  namespaces: Namespaces,
  folder: string,
  measure: () => Promise<ClientResult[]>,
): Promise<{ clients: ClientResult[]; report: Report }> {
  const [begun, done] = ['begun', 'done'].map((name) => join(folder, name)) as [string, string];
  let clients: ClientResult[] = [];
  const report = await wholly(async () => {
    for (const file of [begun, done]) rmSync(file, { force: true });
    const recorded = skbwhy([
      ...['record', join(folder, 'session.skbw'), '--json', '--netns'],
      ...Object.values(namespaces.names),
      ...['--', 'sh', '-c', `touch ${begun}; until test -e ${done}; do sleep 0.1; done`],
    ]);
    for (let i = 0; i < 500 && !existsSync(begun); i++) await sleep(20);
    clients = await measure();
    writeFileSync(done, '');
    const { status, stdout, stderr } = await recorded;
    assert.equal(status, 0, stderr);
    return JSON.parse(stdout) as Report;
  });
  return { clients, report };
}

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
