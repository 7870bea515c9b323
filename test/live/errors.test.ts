import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { DoctorReport } from '../../src/cli/doctor.js';
import type { Report } from '../../src/explain/finding.js';
import { openFile } from '../../src/session/file-reader.js';
import { BIN, skbwhy, type Result } from './skbwhy.js';

const folder = mkdtempSync(join(tmpdir(), 'skbwhy-errors-'));
chmodSync(folder, 0o755);
const path = (name: string) => join(folder, name);
const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
const unprivileged = ['setpriv', '--bounding-set=-all', '--inh-caps=-all'];

before(async () => {
  writeFileSync(path('garbage'), Buffer.from('no session, whatever its name says\n'.repeat(100)));
  writeFileSync(path('empty'), '');
  mkdirSync(path('folder'));
  const { status, stderr } = await skbwhy(['lab', 'double-snat', '--record', path('good.skbw')]);
  assert.equal(status, 0, stderr);
  chmodSync(path('good.skbw'), 0o644);
});
after(() => rmSync(folder, { recursive: true }));

/** One line for people with its code, nothing else anywhere. */
function assertError({ status, stdout, stderr }: Result, code: string, says: RegExp): void {
  assert.match(stderr, /^skbwhy: [^\n]+ \[[a-z-]+\]\n$/);
  assert.ok(stderr.endsWith(` [${code}]\n`), stderr);
  assert.match(stderr, says);
  assert.equal(stdout, '');
  assert.equal(status, code === 'bad-option' || code === 'bad-filter' ? 2 : 1);
}

/** Runs the command line behind another command. */
async function behind(command: readonly string[], args: readonly string[]): Promise<Result> {
  const child = spawn(command[0]!, [...command.slice(1), process.execPath, BIN, ...args], {
    cwd: '/',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const result = { status: 1, stdout: '', stderr: '' };
  child.stdout.on('data', (text) => (result.stdout += String(text)));
  child.stderr.on('data', (text) => (result.stderr += String(text)));
  [result.status] = (await once(child, 'close')) as [number];
  return result;
}

/** A prefix that hides a file or folder from the command behind it, in a mount namespace of its own. */
function without(hidden: string, kind: 'file' | 'folder'): string[] {
  const mount = kind === 'file' ? 'mount --bind /dev/null "$0"' : 'mount -t tmpfs none "$0"';
  return ['unshare', '--mount', 'sh', '-c', `${mount} && exec "$@"`, hidden];
}

function library(name: string): string {
  const known = execFileSync('/sbin/ldconfig', ['-p'], { encoding: 'utf8' });
  const line = known.split('\n').find((each) => each.trim().startsWith(`${name} `));
  return realpathSync(line!.split(' => ')[1]!);
}

describe('wrong usage is one line and status 2', { concurrency: 2 }, () => {
  const lab = ['lab', 'double-snat'];
  const record = ['record', path('never.skbw')];
  for (const [args, code, says] of [
    [[], 'bad-option', /which command\?.*doctor.*record.*explain.*lab/],
    [['explian'], 'bad-option', /unknown command 'explian'/],
    [['explain'], 'bad-option', /'file'/],
    [['explain', '--bogus', path('empty')], 'bad-option', /'--bogus'/],
    [['explain', '--format', 'xml', path('empty')], 'bad-option', /text, json, markdown/],
    [['record'], 'bad-option', /'file'/],
    [[...record, '--duration', 'soon'], 'bad-option', /'soon'.*seconds/],
    [[...record, '--duration', '0'], 'bad-option', /above 0/],
    [[...record, '--filter', 'tcp and ('], 'bad-filter', /not understood/],
    [[...record, '--filter', 'host example.org'], 'bad-filter', /example\.org.*address/],
    [[...record, '--filter', 'vlan 3'], 'bad-filter', /VLAN/],
    [[...record, '--filter', 'ether host 02:00:00:00:00:01'], 'bad-filter', /ethernet/],
    [['lab'], 'bad-option', /which lab\?.*double-snat/],
    [['lab', 'triple-snat'], 'bad-option', /no lab 'triple-snat'.*double-snat/],
    [[...lab, '--set'], 'bad-option', /--set/],
    [[...lab, '--set', 'udpTimeuot=3'], 'bad-option', /no setting 'udpTimeuot'.*udpTimeout/],
    [[...lab, '--set', 'txrehash'], 'bad-option', /no value.*0 to 1/],
    [[...lab, '--set', 'txrehash=2'], 'bad-option', /0 to 1/],
    [[...lab, '--set', 'rules=ipfw'], 'bad-option', /iptables-legacy/],
    [[...lab, '--netns', 'nobody'], 'bad-option', /no nobody.*sender/],
    [[...lab, '--filter', 'vlan'], 'bad-filter', /VLAN/],
    [['doctor', '--bogus'], 'bad-option', /'--bogus'/],
  ] as [string[], string, RegExp][])
    test(`skbwhy ${args.join(' ').replace(folder, '')}`, async () =>
      assertError(await skbwhy(args), code, says));

  test('and writes no file', () => assert.ok(!readdirSync(folder).includes('never.skbw')));
});

describe('what cannot be done is one line and status 1', { concurrency: 2 }, () => {
  for (const [args, code, says] of [
    [['explain', path('garbage')], 'bad-session', /garbage is not a session/],
    [['explain', path('empty')], 'bad-session', /empty is not a session/],
    [['explain', path('folder')], 'file-unreadable', /directory/],
    [['explain', path('missing')], 'file-unreadable', /ENOENT/],
    [['record', path('folder'), '--duration', '1'], 'file-unwritable', /folder/],
    [['record', path('missing/x'), '--duration', '1'], 'file-unwritable', /ENOENT/],
    [['record', path('x'), '--netns', 'skbwhy-no-such'], 'netns-missing', /skbwhy-no-such/],
    [['record', path('x'), '--', '/no/such/command'], 'command-failed', /\/no\/such\/command/],
    [['lab', 'double-snat', '--record', path('missing/x')], 'file-unwritable', /ENOENT/],
    [['doctor', '--netns', 'skbwhy-no-such'], 'netns-missing', /skbwhy-no-such/],
  ] as [string[], string, RegExp][])
    test(`skbwhy ${args.join(' ').replace(folder, '')}`, async () =>
      assertError(await skbwhy(args), code, says));
});

describe('an ordinary user', { concurrency: 2 }, () => {
  const record = ['record', path('x'), '--duration', '1'];
  test('may explain, list labs and ask the doctor', async () => {
    const explained = await behind(nobody, ['explain', '--json', path('good.skbw')]);
    assert.deepEqual([explained.status, explained.stderr], [0, '']);
    assert.equal((JSON.parse(explained.stdout) as Report).findings.length, 1);
    assert.equal((await behind(nobody, ['lab', '--list'])).status, 0);
    const doctor = await behind(nobody, ['doctor', '--json']);
    assert.deepEqual([doctor.status, doctor.stderr], [0, '']);
    const report = JSON.parse(doctor.stdout) as DoctorReport;
    assert.match(report.pointsUnknown ?? '', /needs root/);
    // what the kernel would take is not known: it is not promised
    for (const { mechanism, reason } of report.points) {
      assert.equal(mechanism, null);
      assert.match(reason ?? '', /\S/);
    }
    assert.ok(report.points.some(({ reason }) => /^not tried; its BTF/.test(reason ?? '')));
    assert.ok(report.unread.length > 0, 'rules that only root may read are named');
    const cost = await behind(nobody, ['doctor', '--json', '--cost', '1']);
    assert.equal(cost.status, 1);
    assert.match(cost.stderr, /^skbwhy: .*root.*\[no-privilege\]\n$/);
    assert.deepEqual((JSON.parse(cost.stdout) as DoctorReport).kernel, report.kernel);
  });
  test('may neither record nor run a lab', async () => {
    assertError(await behind(nobody, record), 'no-privilege', /root/);
    assertError(await behind(nobody, ['lab', 'double-snat']), 'no-privilege', /root/);
  });
  test('is told so of a file that is not his', async () => {
    writeFileSync(path('secret'), 'x', { mode: 0o600 });
    assertError(await behind(nobody, ['explain', path('secret')]), 'file-unreadable', /EACCES/);
  });
  test('is who root is in a container without capabilities', async () => {
    assertError(await behind(unprivileged, record), 'no-privilege', /CAP_SYS_ADMIN/);
    assertError(
      await behind(unprivileged, ['lab', 'double-snat']),
      'no-privilege',
      /CAP_SYS_ADMIN/,
    );
  });
});

describe('a machine where something is missing', { concurrency: 2 }, () => {
  const bpf = library('libbpf.so.1');
  const pcap = library('libpcap.so.0.8');
  const record = ['record', path('x'), '--duration', '1'];
  const lab = ['lab', 'double-snat'];
  for (const [what, prefix, code, says] of [
    ['BTF', without('/sys/kernel/btf', 'folder'), 'no-btf', /CONFIG_DEBUG_INFO_BTF/],
    ['libbpf', without(bpf, 'file'), 'library-missing', /libbpf1/],
    ['libpcap', without(pcap, 'file'), 'library-missing', /libpcap0\.8/],
  ] as [string, string[], string, RegExp][])
    test(`${what}: it cannot trace, but explains and examines`, async () => {
      const filter = ['--filter', 'tcp'];
      assertError(await behind(prefix, [...record, ...filter]), code, says);
      assertError(await behind(prefix, [...lab, ...filter]), code, says);
      const explained = await behind(prefix, ['explain', path('good.skbw')]);
      assert.deepEqual([explained.status, explained.stderr], [0, '']);
      const doctor = await behind(prefix, ['doctor']);
      assert.deepEqual([doctor.status, doctor.stderr], [0, '']);
      if (what !== 'libpcap') assert.match(doctor.stdout.replaceAll(/\s+/g, ' '), says);
    });
});

test('a session cut anywhere explains up to its last whole block, or is said to be none', async () => {
  const whole = readFileSync(path('good.skbw'));
  for (let i = 0; i < 24; i++) {
    const length = Math.floor(Math.random() * whole.length);
    const cut = path(`cut-${length}.skbw`);
    writeFileSync(cut, whole.subarray(0, length));
    const result = await skbwhy(['explain', '--json', cut]);
    if (result.status !== 0) {
      assertError(result, 'bad-session', new RegExp(`cut-${length}.skbw is not a session`));
      continue;
    }
    const [session] = (JSON.parse(result.stdout) as Report).sessions;
    assert.match(session?.truncated ?? '', /\S/, `cut at ${length} of ${whole.length}`);
    assert.equal(result.stderr, '');
  }
});

test('--fail-on-finding gives status 3 when there is one', async () => {
  const file = path('good.skbw');
  assert.equal((await skbwhy(['explain', '--fail-on-finding', file])).status, 3);
  assert.equal((await skbwhy(['explain', file])).status, 0);
  const lab = ['lab', 'double-snat', '--fail-on-finding'];
  assert.equal((await skbwhy(lab)).status, 3);
  assert.equal((await skbwhy([...lab, '--set', 'xorMark=true'])).status, 0);
});

test('what was found comes before the command that failed of it', async () => {
  const lab = async (...options: string[]) =>
    skbwhy(['lab', 'no-listener', ...options, '--', 'curl', '-s', 'http://127.0.0.1:9/']);
  const [asked, unasked] = [await lab('--fail-on-finding'), await lab()];
  assert.deepEqual([asked.status, unasked.status], [3, 1]);
  for (const { stdout, stderr } of [asked, unasked]) {
    assert.match(stdout, /nobody listens on TCP 127\.0\.0\.1:9/);
    assert.equal(stderr, 'skbwhy: the command ended with status 7 [command-failed]\n');
  }
});

test('a filter that a script broke over two lines is recorded so that the file opens', async () => {
  const file = path('two-lines.skbw');
  const filter = ['--filter', 'host 127.0.0.1 and\n  tcp port 9'];
  const lab = ['lab', 'no-listener', ...filter, '--record', file];
  assert.equal((await skbwhy([...lab, '--', 'true'])).status, 0);
  const session = await openFile(file);
  assert.equal(session.header.filter, 'host 127.0.0.1 and tcp port 9');
  await session.close();
});
