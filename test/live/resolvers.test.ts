import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Report } from '../../src/explain/finding.js';
import { BACKENDS, createDnsNode, podAddress, roleOf, SERVICE } from '../../src/lab/dns-node.js';
import type { Namespaces } from '../../src/lab/namespaces.js';
import { assertNoticed, skbwhy } from './skbwhy.js';

const SOURCE = fileURLToPath(new URL('../../../test/live/getaddrinfo.c', import.meta.url));
const NAME = 'www.example.com';

/**
 * Each asks from a pod of its own; how long it waits until it repeats, ms. musl keeps time in whole
 * milliseconds (`__res_msend_rc`, musl 1.2.3), so that up to one of its 2500 may have passed before.
 */
const RESOLVERS = [
  { libc: 'musl', compiler: ['musl-gcc', '-static'], waits: 2500, early: 1 },
  { libc: 'glibc', compiler: ['gcc'], waits: 5000, early: 0 },
] as const;

describe('real resolvers, a real DNS server, one lost query each', () => {
  const folder = mkdtempSync(join(tmpdir(), 'skbwhy-resolvers-'));
  const measured = new Map<string, number>();
  let namespaces: Namespaces;
  let report: Report;

  before(async () => {
    for (const { libc, compiler } of RESOLVERS) {
      const [command, ...flags] = compiler;
      const { status, stderr } = spawnSync(command, [...flags, '-o', join(folder, libc), SOURCE]);
      assert.equal(status, 0, String(stderr));
    }
    // of each pod's queries the second is dropped: A goes first, AAAA follows from the same socket
    const second = '-m statistic --mode nth --every 100000 --packet 1 -j DROP';
    namespaces = await createDnsNode({ pods: 2, backends: 1, delayMs: null, rules: [] });
    const { names } = namespaces;
    for (const [i] of RESOLVERS.entries())
      await namespaces.script(
        'node',
        `iptables -w 5 -A FORWARD -s ${podAddress(i + 1)} -p udp --dport 53 ${second}`,
      );
    const server = namespaces.spawn(
      'server',
      [
        ...['dnsmasq', '--no-daemon', '--conf-file=/dev/null', '--user=root', '--pid-file'],
        ...['--no-resolv', '--no-hosts', '--bind-interfaces', `--listen-address=${BACKENDS[0]}`],
        ...[`--address=/${NAME}/192.0.2.1`, `--address=/${NAME}/2001:db8::1`],
      ],
      { stdio: ['ignore', 'ignore', 'pipe'], detached: true },
    );
    await new Promise((resolve) => server.stderr?.once('data', resolve));
    for (const [i] of RESOLVERS.entries()) {
      // what ip-netns(8) puts in the place of /etc/resolv.conf
      const etc = `/etc/netns/${names[roleOf(i + 1)]}`;
      mkdirSync(etc, { recursive: true });
      writeFileSync(`${etc}/resolv.conf`, `nameserver ${SERVICE.address}\n`);
    }
    const lookups = RESOLVERS.map(
      ({ libc }, i) =>
        `ip netns exec ${names[roleOf(i + 1)]} ${folder}/${libc} ${NAME} > ${folder}/${libc}.json &`,
    );
    const { status, stdout, stderr } = await skbwhy([
      ...['record', join(folder, 'session.skbw'), '--json'],
      ...['--netns', names['node']!, names['client']!, names['client2']!],
      ...['--', 'sh', '-c', `${lookups.join(' ')} wait`],
    ]);
    assert.equal(status, 0, stderr);
    report = JSON.parse(stdout) as Report;
    for (const { libc } of RESOLVERS) {
      const said = readFileSync(join(folder, `${libc}.json`), 'utf8');
      measured.set(libc, (JSON.parse(said) as { ms: number }).ms);
    }
  });

  after(async () => {
    for (const name of Object.values(namespaces.names))
      rmSync(`/etc/netns/${name}`, { recursive: true, force: true });
    await namespaces.remove();
    rmSync(folder, { recursive: true });
  });

  for (const [i, { libc, waits, early }] of RESOLVERS.entries())
    test(`${libc} waits ${waits / 1000} s, explained to the query`, () => {
      const took = measured.get(libc)!;
      assert.ok(took > waits - early && took < waits + 100, `${took} ms`);
      const client = podAddress(i + 1);
      const findings = report.findings.filter(({ subject }) => subject.client.startsWith(client));
      assert.equal(findings.length, 1, JSON.stringify(report, null, 1));
      const [finding] = findings;
      assert.equal(finding?.subject.kind, 'dns-lookup');
      assert.equal(finding.subject.name, NAME);
      assert.equal(finding.verdict, 'policy-drop');
      assert.equal(finding.outcome, 'recovered');
      assertNoticed(took, finding);
      const dropped = finding.attempts.filter(({ fate }) => fate === 'dropped');
      assert.deepEqual(
        dropped.map(({ what }) => what),
        [`AAAA ${NAME}`],
      );
      const [, again] = finding.attempts.filter(({ what }) => what === `AAAA ${NAME}`);
      assert.ok(Math.abs((again?.atMs ?? 0) - waits) < 50, `${again?.atMs} ms`);
    });

  test('nothing else is found', () => {
    assert.equal(report.findings.length, RESOLVERS.length);
    assert.deepEqual(report.unexplained, []);
  });
});
