import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { explain, type Explained } from '../../src/cli/main-path.js';
import type { Finding } from '../../src/explain/finding.js';
import { kubeProxyRules } from '../../src/lab/kube-proxy.js';
import { Namespaces, type Cable } from '../../src/lab/namespaces.js';
import { startProgram } from '../../src/lab/programs.js';
import { PODS, TUNNEL } from '../../src/lab/tunnelled.js';
import { nodeScript, podAddress, podScript, sysctls } from '../../src/lab/nodes.js';
import { trace } from '../../src/session/live.js';
import { Skipped } from '../bench/skipped.js';

/** So many connects and so many lookups, half of them while packets are lost. */
const EXCHANGES = Number(process.env['SKBWHY_EXCHANGES'] ?? 5000);
/** A second; each makes some fifty events. */
const RATE = Number(process.env['SKBWHY_RATE'] ?? 1000);
/** Other work on this machine may keep the reader from it for a while. */
const RING_BYTES = 64 << 20;
const SERVICE = '10.96.0.10';
const SERVER = podAddress(PODS.ipv4, 2, 10);
const SERVER_PORT = 8080;
const SERVICE_PORT = 80;
const TRACED = ['client', 'sender', 'receiver', 'server'];
const CABLES: Cable[] = [
  [
    ['client', 'eth0'],
    ['sender', 'pod'],
  ],
  [
    ['sender', 'eth0'],
    ['wire', 'left'],
  ],
  [
    ['wire', 'right'],
    ['receiver', 'eth0'],
  ],
  [
    ['receiver', 'pod'],
    ['server', 'eth0'],
  ],
];

/** What the clients themselves measured. */
interface Made {
  connects: number;
  lookups: number;
  failed: number;
  slowConnects: number;
  slowLookups: number;
}

interface Outcome extends Explained {
  made: Made;
  /** arrivals that the kernel ran no program at a tracepoint for (docs/kernels.md) */
  skipped: number;
  /** each finding as it was at last, those too many for the report included */
  findings: Finding[];
}

const service = (name: string, port: number, protocol: 'tcp' | 'udp', backend: number) => ({
  ...{ name, port, protocol, address: SERVICE, nodePort: 30000 + port },
  backend: { address: SERVER, port: backend },
  marked: 'everybody' as const,
});

/** kube-proxy's, as they should be: the mark is cleared before the packet enters the tunnel. */
const RULES = kubeProxyRules({
  ...{ backend: 'iptables', family: 'ipv4', pods: PODS.ipv4.cidr, mark: 0x4000 },
  ...{ randomFully: true, xorMark: true, masqueradeFirst: false },
  services: [service('web', SERVICE_PORT, 'tcp', SERVER_PORT), service('dns', 53, 'udp', 53)],
});

/** Hundreds of thousands in a row are not to fill the table. */
const SHORT_LIVED = sysctls({
  'net.netfilter.nf_conntrack_udp_timeout': 5,
  'net.netfilter.nf_conntrack_udp_timeout_stream': 5,
  'net.netfilter.nf_conntrack_tcp_timeout_close': 1,
});

const WIRE = `
ip link add wire type bridge
ip link set left master wire up
ip link set right master wire up
ip link set wire up
`;

function compile(folder: string, source: string, output: string, ...options: string[]): string {
  const path = join(folder, output);
  const sources = fileURLToPath(new URL('../../../test/live/', import.meta.url));
  execFileSync('clang', ['-O2', '-Wall', ...options, source, '-o', path], { cwd: sources });
  return path;
}

/** <linux/types.h> wants the machine's <asm/types.h>. */
const MACHINE_HEADERS = ['x86_64-linux-gnu', 'aarch64-linux-gnu']
  .map((machine) => `/usr/include/${machine}`)
  .filter((path) => existsSync(path))
  .flatMap((path) => ['-idirafter', path]);

describe('healthy connects and lookups through DNAT, masquerading and a tunnel', () => {
  const folder = mkdtempSync(join(tmpdir(), 'skbwhy-silence-'));
  let namespaces: Namespaces;
  let exchanges: string;
  let loss: string;

  before(async () => {
    exchanges = compile(folder, 'exchanges.c', 'exchanges');
    loss = compile(
      folder,
      'loss.bpf.c',
      'loss.o',
      '-target',
      'bpf',
      '-g',
      ...MACHINE_HEADERS,
      '-c',
    );
    namespaces = await Namespaces.create([...TRACED, 'wire'], CABLES);
    const node = (number: 1 | 2) =>
      nodeScript(number, { tunnel: TUNNEL, pods: PODS.ipv4, podCables: ['pod'] });
    await Promise.all([
      namespaces.script('client', podScript(PODS.ipv4, 1, 10)),
      namespaces.script('sender', `${node(1)}\n${RULES}\n${SHORT_LIVED}`),
      namespaces.script('wire', WIRE),
      namespaces.script('receiver', `${node(2)}\n${RULES}\n${SHORT_LIVED}`),
      namespaces.script('server', podScript(PODS.ipv4, 2, 10)),
    ]);
    await startProgram(namespaces, 'server', 'server', [
      ...[exchanges, 'serve', SERVER, `${SERVER_PORT}`],
    ]);
    // the neighbours are known: what waits for one is dropped when too many do
    await make(1);
  });

  after(async () => {
    await namespaces?.remove();
    rmSync(folder, { recursive: true, force: true });
  });

  /** Half of the exchanges, traced and explained. */
  async function half(): Promise<Outcome> {
    const session = await trace({
      netns: TRACED.map((role) => namespaces.names[role]!),
      transient: true,
      ringBytes: RING_BYTES,
    });
    const latest = new Map<string, Finding>();
    const skipped = new Skipped(session);
    const explaining = explain([skipped.session], {
      show: (finding) => latest.set(finding.id, finding),
    });
    let made: Made;
    try {
      made = await make(Math.ceil(EXCHANGES / 2));
      await sleep(300);
    } finally {
      await session.close();
    }
    return { ...(await explaining), made, skipped: skipped.count, findings: [...latest.values()] };
  }

  async function make(each: number): Promise<Made> {
    const command = [exchanges, 'make', SERVICE, `${SERVICE_PORT}`];
    const child = namespaces.spawn('client', [...command, `${each}`, `${RATE}`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    for await (const text of child.stdout!) said += String(text);
    return JSON.parse(said) as Made;
  }

  function assertAllSeen({ report, seen, made, skipped }: Outcome): void {
    const { missed, ...lost } = report.lost;
    assert.deepEqual(lost, { ring: 0, exchanges: 0 });
    // the kernel skips a program that it would enter a second time on one processor: a few in ten million
    assert.ok(missed - skipped <= 1 + EXCHANGES / 20_000, `${missed} missed, ${skipped} skipped`);
    assert.ok(skipped <= report.sessions[0]!.events / 1000, `${skipped} skipped`);
    assert.equal(made.failed, 0);
    // what cannot be told for a missed event is not told
    assert.deepEqual(
      report.unexplained.filter(({ lostEvents }) => lostEvents === 0).slice(0, 2),
      [],
    );
    assert.equal(seen['tcp-connect'], made.connects);
    // A and AAAA are two lookups where the client was kept from sending the other for long
    const lookups = seen['dns-lookup'];
    assert.ok(lookups >= made.lookups && lookups < made.lookups * 1.01, `${lookups} lookups`);
  }

  test('give no finding', async (t) => {
    const outcome = await half();
    t.diagnostic(
      JSON.stringify([outcome.made, outcome.report.sessions[0]?.events, outcome.skipped]),
    );
    assertAllSeen(outcome);
    assert.deepEqual(outcome.findings.slice(0, 2), []);
  });

  test('give a possible lost-on-the-wire for each packet that an untraced hop loses, and nothing else', async (t) => {
    for (const device of ['left', 'right'])
      await namespaces.script('wire', `ip link set ${device} xdpgeneric obj ${loss} sec xdp`);
    const outcome = await half();
    const { findings, made, report, skipped } = outcome;
    t.diagnostic(JSON.stringify([made, report.sessions[0]?.events, skipped, findings.length]));
    assertAllSeen(outcome);
    assert.ok(findings.length > 0);
    for (const { verdict, confidence, loweredFor, chain } of findings) {
      assert.deepEqual([verdict, confidence], ['lost-on-the-wire', 'possible']);
      assert.ok(loweredFor.length > 0);
      assert.ok(chain.every(({ evidence }) => evidence.length > 0));
    }
    const of = (kind: string) =>
      [...findings, ...report.unexplained].filter(({ subject }) => subject.kind === kind).length;
    assert.equal(of('tcp-connect'), made.slowConnects);
    assert.equal(of('dns-lookup'), made.slowLookups);
  });
});
