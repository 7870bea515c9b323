import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { DoctorReport } from '../../src/cli/doctor.js';
import { skbwhy } from './skbwhy.js';

const BIN = fileURLToPath(new URL('../../../bin/skbwhy.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'skbwhy-doctor-'));
after(() => rmSync(folder, { recursive: true }));

type Settings = Record<string, string | number | boolean>;

/** Asks the doctor inside the sender's node of a double-SNAT lab. */
async function doctorIn(settings: Settings): Promise<DoctorReport> {
  const file = join(folder, 'report.json');
  rmSync(file, { force: true });
  const set = Object.entries(settings).map(([key, value]) => `${key}=${value}`);
  const command = `'${process.execPath}' '${BIN}' doctor --json > '${file}'`;
  const { status, stderr } = await skbwhy([
    'lab',
    'double-snat',
    '--json',
    ...(set.length > 0 ? ['--set', ...set] : []),
    '--',
    'sh',
    '-c',
    command,
  ]);
  assert.equal(status, 0, stderr);
  return JSON.parse(readFileSync(file, 'utf8')) as DoctorReport;
}

/** Other faults say where they can strike, too. */
const ofDoubleSnat = ({ verdict }: { verdict: string }): boolean => verdict === 'double-snat';

/** The one exposure there has to be. */
function exposed({ exposures, notExposed }: DoctorReport) {
  const mine = exposures.filter(ofDoubleSnat);
  assert.equal(mine.length, 1, JSON.stringify({ exposures, notExposed }, null, 1));
  assert.deepEqual(notExposed.filter(ofDoubleSnat), []);
  const [found] = mine;
  assert.equal(found!.confidence, 'proved');
  return found!;
}

function notExposed({ exposures, notExposed: reasons }: DoctorReport): string {
  assert.deepEqual(exposures.filter(ofDoubleSnat), []);
  const mine = reasons.filter(ofDoubleSnat);
  assert.equal(mine.length, 1);
  return mine[0]!.why.join(' ');
}

describe('doctor inside a node', () => {
  for (const settings of [
    {},
    { rules: 'nft' },
    { rules: 'iptables-legacy' },
    { rules: 'iptables-nft' },
    { markBit: 0x8000, tunnelPort: 4789, tunnelDevice: 'foo0' },
    { inner: 'ipv6' },
    { outer: 'ipv6' },
    { pods: '172.20.0.0/16' },
  ] satisfies Settings[])
    test(`exposed, an upgrade of Kubernetes is enough: ${JSON.stringify(settings)}`, async () => {
      const found = exposed(await doctorIn(settings));
      assert.equal(found.defect, 'udpcsum-not-updated');
      assert.deepEqual(found.enough, { kubernetes: true, kernel: false });
      const device = 'tunnelDevice' in settings ? settings.tunnelDevice : 'flannel.1';
      assert.equal(found.where.device, device);
      assert.ok(
        found.remedies.some(
          ({ command }) => command === `ethtool -K ${device} tx-checksum-ip-generic off`,
        ),
      );
    });

  for (const [settings, why] of [
    [{ xorMark: true }, /mark is cleared before/],
    [{ xorMark: true, rules: 'nft' }, /mark is cleared before/],
    [{ randomFully: false }, /without --random-fully/],
    [{ randomFully: false, rules: 'nft' }, /without --random-fully/],
    [{ tunnelTxOffload: false }, /offload is off/],
    [{ tunnelChecksum: 'noudpcsum' }, /writes no outer UDP checksum/],
  ] satisfies [Settings, RegExp][])
    test(`not exposed: ${JSON.stringify(settings)}`, async () => {
      assert.match(notExposed(await doctorIn(settings)), why);
    });

  for (const rules of ['iptables', 'nft'])
    test(`a rule that masquerades first makes an upgrade of Kubernetes not enough (${rules})`, async () => {
      const found = exposed(await doctorIn({ xorMark: true, masqueradeFirst: true, rules }));
      assert.deepEqual(found.enough, { kubernetes: false, kernel: false });
      assert.match(found.why.join(' '), /Kubernetes is not enough here: `.*10\.244\.0\.0\/16/);
    });
});

test('a node that translates DNS, and a pod that asks there for A and AAAA at once', async () => {
  const file = join(folder, 'dns.json');
  const conf = join(folder, 'pod.conf');
  writeFileSync(conf, 'nameserver 10.96.0.10\nsearch a.example b.example\noptions ndots:5\n');
  // the lab's command runs in the pod
  const command = `mount --bind ${conf} /etc/resolv.conf && pod=$(ip netns identify $$) &&
    '${process.execPath}' '${BIN}' doctor --json --netns "\${pod%client}node" "$pod" > '${file}'`;
  const { status, stderr } = await skbwhy([
    'lab',
    'conntrack-late-answer',
    '--json',
    '--',
    'unshare',
    '-m',
    'sh',
    '-c',
    command,
  ]);
  assert.equal(status, 0, stderr);
  const { exposures, netns, others } = JSON.parse(readFileSync(file, 'utf8')) as DoctorReport;
  const why = (verdict: string): [string, string] | undefined => {
    const found = exposures.find((exposure) => exposure.verdict === verdict);
    return found && [found.where.netns, found.why.join(' ')];
  };
  const pod = others[0]!.netns;
  const [where, late] = why('conntrack-late-answer')!;
  assert.equal(where, netns);
  assert.match(late, /destination NAT for DNS at 10\.96\.0\.10\./);
  assert.ok(late.includes(`A resolver of ${pod} (glibc) asks there for A and AAAA at once`), late);
  assert.equal(why('resolver-search')?.[0], pod);
});

describe('doctor in a namespace of its own', () => {
  const name = `skbwhy-doctor-${process.pid}`;
  const inside = (...command: string[]): string =>
    execFileSync('ip', ['netns', 'exec', name, ...command], { encoding: 'utf8' });
  before(() => execFileSync('ip', ['netns', 'add', name]));
  after(() => execFileSync('ip', ['netns', 'del', name]));

  test('prints kernel, datapath, points and settings, and says why it is not exposed', async () => {
    const { status, stdout, stderr } = await skbwhy(['doctor', '--netns', name, '--json']);
    assert.equal(status, 0, stderr);
    const report = JSON.parse(stdout) as DoctorReport;
    assert.match(report.kernel.release, /^\d+\.\d+/);
    assert.equal(report.netns, name);
    assert.deepEqual(report.datapath.iptablesLegacy, []);
    assert.equal(report.datapath.ipvs, false);
    assert.ok(report.points.some(({ point, mechanism }) => point === 'packet.drop' && mechanism));
    assert.equal(report.settings['net.core.txrehash'], '1');
    assert.match(notExposed(report), /no VXLAN or Geneve/);
    const drop = report.counters.find(({ name }) => name === 'conntrack.drop');
    assert.deepEqual([drop?.value, drop?.attention], [0, false]);
    assert.equal(report.conntrack?.entries, 0);
  });

  test('says what each point has cost', async (t) => {
    const send = `const s = require('dgram').createSocket('udp4');
      setInterval(() => s.send(Buffer.alloc(20), 53, '127.0.0.1'), 5)`;
    execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    const sender = spawn('ip', ['netns', 'exec', name, process.execPath, '-e', send]);
    t.after(() => sender.kill());
    const { status, stdout, stderr } = await skbwhy(['doctor', '--json', '--cost', '2']);
    assert.equal(status, 0, stderr);
    const { points } = JSON.parse(stdout) as DoctorReport;
    for (const { point, mechanism, cost } of points) {
      assert.equal(cost === null, mechanism === null, point);
      if (point !== 'device.transmit') continue;
      assert.ok(cost!.perSecond > 20 && cost!.perSecond < 100_000, `${cost!.perSecond} a second`);
      assert.ok(cost!.ns! > 10 && cost!.ns! < 100_000, `${cost!.ns} ns`);
    }
    const { stdout: text } = await skbwhy(['doctor', '--cost', '1']);
    assert.match(text, /device\.transmit +tracepoint +\d+\/s × \d+ ns/);
  });

  test('looks into the namespace’s processes: their C library, and resolv.conf as they see it', async (t) => {
    const conf = join(folder, 'resolv.conf');
    writeFileSync(conf, 'nameserver 10.96.0.10\nsearch a.example b.example\noptions ndots:5\n');
    const script = `mount --bind ${conf} /etc/resolv.conf && exec sleep 60`;
    const pod = spawn('ip', ['netns', 'exec', name, 'unshare', '-m', 'sh', '-c', script]);
    t.after(() => pod.kill());
    let report: DoctorReport;
    do {
      const { stdout } = await skbwhy(['doctor', '--netns', name, '--json']);
      report = JSON.parse(stdout) as DoctorReport;
    } while (!report.resolvers.some(({ ndots }) => ndots === 5) && pod.exitCode === null);
    const resolver = report.resolvers.find(({ ndots }) => ndots === 5);
    assert.deepEqual(resolver, {
      netns: [name],
      libc: 'glibc',
      nameServers: ['10.96.0.10'],
      search: ['a.example', 'b.example'],
      ndots: 5,
      options: [],
    });
    const exposure = report.exposures.find(({ verdict }) => verdict === 'resolver-search');
    assert.match(exposure!.why.join(' '), /ndots:5 and a search list of 2/);
  });

  test('the text has a line for each, and no colour in a pipe', async () => {
    const { stdout } = await skbwhy(['doctor', '--netns', name]);
    assert.match(stdout, /^kernel +\d/);
    assert.match(stdout, /packet\.drop +tracepoint/);
    assert.match(stdout, /net\.netfilter\.nf_conntrack_\n( {4}.*\n)* +udp_timeout +30/);
    assert.match(stdout, /^Conntrack\n {2}0 of \d+ entries \(0 %\)/m);
    assert.match(stdout, /^Not exposed\n(.+\n)* {2}double-snat:/m);
    const wide = stdout.split('\n').filter((line) => line.length > 80);
    assert.deepEqual(wide, []);
    assert.ok(!stdout.includes('\u001b'));
  });

  test('leaves no table behind: a legacy table is made by whoever asks for it', async () => {
    const tables = () =>
      inside(
        'sh',
        '-c',
        'cat /proc/net/ip_tables_names /proc/net/ip6_tables_names; nft list tables',
      );
    assert.equal(tables(), '');
    assert.equal((await skbwhy(['doctor', '--netns', name])).status, 0);
    assert.equal(tables(), '');
  });

  test('a namespace that is not there is one clear line', async () => {
    const { status, stderr } = await skbwhy(['doctor', '--netns', 'skbwhy-none']);
    assert.equal(status, 1);
    assert.match(stderr, /^skbwhy: .*'skbwhy-none'.* \[netns-missing\]\n$/);
  });
});
