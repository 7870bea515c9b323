import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Finding } from '../../src/explain/finding.js';
import type { EventRow } from '../../src/export/event-row.js';
import { Namespaces } from '../../src/lab/namespaces.js';
import { doubleSnatLab, onlyFinding, skbwhy } from './skbwhy.js';

const folder = mkdtempSync(join(tmpdir(), 'skbwhy-export-'));
after(() => rmSync(folder, { recursive: true }));

/** What tshark shows of the file, of which it has nothing to complain. */
function tshark(file: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync('tshark', ['-r', file, ...args], {
    encoding: 'utf8',
    maxBuffer: 256 << 20,
  });
  // what it says of its user, not of the file
  assert.equal(stderr.replace(/^Running as user "root".*\n/m, ''), '');
  assert.equal(status, 0);
  return stdout;
}

function tsharkLines(file: string, ...args: string[]): string[] {
  return tshark(file, ...args)
    .split('\n')
    .filter((line) => line !== '');
}

async function exported(session: string, kind: 'pcapng' | 'jsonl'): Promise<string> {
  const out = `${session}.${kind}`;
  const { status, stderr } = await skbwhy(['export', session, `--${kind}`, out]);
  assert.equal(status, 0, stderr);
  return out;
}

function events(jsonl: string): EventRow[] {
  return readFileSync(jsonl, 'utf8')
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as EventRow)
    .filter((row) => row.type === 'event');
}

describe('an export of the double-SNAT session', () => {
  const session = join(folder, 'double-snat.skbw');
  // not a port at which Wireshark looks for VXLAN
  const vxlan = ['-d', 'udp.port==8472,vxlan'];
  let finding: Finding;
  let pcapng: string;
  let rows: EventRow[];
  before(async () => {
    finding = onlyFinding(await doubleSnatLab({}, '--record', session));
    pcapng = await exported(session, 'pcapng');
    rows = events(await exported(session, 'jsonl'));
  });

  test('is read by tshark without a warning or a malformed packet', () => {
    const output = tshark(pcapng, ...vxlan, '-V');
    assert.ok(!/malformed/i.test(output));
    assert.ok(/Virtual eXtensible Local Area Network/.test(output));
    assert.ok(/CHECKSUM_PARTIAL.*harmless/.test(output));
    assert.ok(/dropped: UDP_CSUM at __udp/.test(output));
    assert.ok(/proves double-snat \(proved\), second-snat/.test(output));
  });

  test('shows exactly the SYN observations, inner ones of tunnel packets too', () => {
    const hasSyn = ({ outer, inner }: EventRow) => (inner ?? outer)?.tcpFlags?.includes('SYN');
    const syns = rows.filter(hasSyn);
    const times = tsharkLines(
      pcapng,
      ...vxlan,
      ...['-Y', 'tcp.flags.syn==1', '-T', 'fields', '-e', 'frame.time_epoch'],
    );
    assert.ok(syns.length > 10);
    assert.deepEqual(
      times,
      syns.map(({ timeNs }) => `${timeNs.slice(0, -9)}.${timeNs.slice(-9)}`),
    );
  });

  test('shows the bad outer checksum on the wire, and the right one of the next SYN', () => {
    const sent = rows.filter(
      (row) => row.point === 'device.transmit' && row.inner && row.drop === null,
    );
    const wire = sent.filter((row) => row.inner?.tcpFlags?.join() === 'SYN');
    const shown = tsharkLines(
      pcapng,
      ...vxlan,
      ...['-o', 'udp.check_checksum:TRUE', '-o', 'tcp.check_checksum:TRUE'],
      ...['-Y', 'vxlan && tcp.flags.syn==1 && tcp.flags.ack==0'],
      ...['-T', 'fields', '-e', 'frame.time_epoch', '-e', 'udp.checksum.status'],
      ...['-e', 'udp.checksum_calculated', '-e', 'tcp.checksum.status'],
    ).map((line) => line.split('\t'));
    const statusOf = ({ timeNs }: EventRow) =>
      shown.find(([time]) => time === `${timeNs.slice(0, -9)}.${timeNs.slice(-9)}`)?.slice(1);
    const attempts = finding.attempts;
    assert.equal(wire.length, attempts.length);
    const BAD = '0';
    const GOOD = '1';
    wire.forEach((row, i) => {
      const { after: sentChecksum, expected } = attempts[i]!.checksum!;
      const [status, calculated, inner] = statusOf(row)!;
      assert.equal(status, sentChecksum === expected ? GOOD : BAD);
      assert.equal(Number(calculated), expected);
      assert.equal(inner, GOOD, 'the inner packet is whole');
    });
    assert.equal(statusOf(wire[0]!)![0], BAD);
    assert.equal(statusOf(wire[1]!)![0], GOOD);
  });

  test('has an interface for each namespace, device and direction', () => {
    const names = tsharkLines(pcapng, '-T', 'fields', '-e', 'frame.interface_name');
    assert.ok(names.some((name) => /-sender\/flannel\.1 out$/.test(name)));
    assert.ok(names.some((name) => /-receiver\/eth0 in$/.test(name)));
    assert.ok(names.some((name) => /-receiver\/eth0 drop$/.test(name)));
  });

  test('is read by jq, and each claim has its event', async () => {
    const { stdout } = await skbwhy(['export', session, '--jsonl', '-']);
    const claims = execFileSync('jq', ['-r', '.seq as $seq | .proves[]? | "\\(.claim) \\($seq)"'], {
      input: stdout,
      encoding: 'utf8',
    });
    const expected = finding.chain.flatMap(({ claim, evidence }) =>
      evidence.map(({ seq }) => `${claim} ${seq}`),
    );
    assert.deepEqual(claims.trim().split('\n').sort(), expected.sort());
  });

  test('goes down a pipe', () => {
    const bin = fileURLToPath(new URL('../../../bin/skbwhy.js', import.meta.url));
    const shell = '"$1" "$2" export "$3" --pcapng - 2>/dev/null | cmp - "$4"';
    execFileSync('sh', ['-c', shell, 'sh', process.execPath, bin, session, pcapng]);
  });
});

describe('an export of DNS', () => {
  const TRAFFIC = fileURLToPath(new URL('dns-traffic.js', import.meta.url));
  const session = join(folder, 'dns.skbw');
  const addresses = ['192.168.77.2', 'fd00:77::2', '172.31.7.2'];
  let namespaces: Namespaces;
  before(async () => {
    namespaces = await Namespaces.create(
      ['client', 'server'],
      [
        [
          ['client', 'eth0'],
          ['server', 'eth0'],
        ],
      ],
    );
    for (const [role, n] of [
      ['client', 1],
      ['server', 2],
    ] as const)
      await namespaces.script(
        role,
        `ip link set lo up
         ip link set eth0 up
         ip addr add 192.168.77.${n}/24 dev eth0
         ip addr add fd00:77::${n}/64 dev eth0 nodad
         ip link add vx0 type vxlan id 7 local 192.168.77.${n} remote 192.168.77.${3 - n} dstport 5555
         ip addr add 172.31.7.${n}/24 dev vx0
         ip link set vx0 up`,
      );
    for (const address of addresses) {
      const server = namespaces.spawn('server', [process.execPath, TRAFFIC, 'server', address], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      await new Promise((resolve) => server.stdout!.once('data', resolve));
    }
  });
  after(() => namespaces.remove());

  test('shows the questions, and truncated packets as truncated, not as malformed', async () => {
    const { client, server } = namespaces.names;
    const script = addresses
      .map((address) => `ip netns exec ${client} ${process.execPath} ${TRAFFIC} client ${address}`)
      .join(' && ');
    const { status, stderr } = await skbwhy([
      ...['record', session, '--json', '--netns', client!, server!],
      ...['--', 'sh', '-c', script],
    ]);
    assert.equal(status, 0, stderr);
    const pcapng = await exported(session, 'pcapng');
    const vxlan = ['-d', 'udp.port==5555,vxlan'];
    const output = tshark(pcapng, ...vxlan, '-V');
    assert.ok(!/malformed/i.test(output));
    assert.ok(/\[Packet size limited during capture: DNS truncated\]/.test(output));
    const names = tsharkLines(pcapng, ...vxlan, '-Y', 'dns', '-T', 'fields', '-e', 'dns.qry.name');
    assert.ok(names.filter((name) => name === 'www.example.com').length >= 2 * 2 * 4);
    assert.ok(names.includes('kubernetes.default.svc.cluster.local'));
    const dns = events(await exported(session, 'jsonl')).filter((row) => row.outer !== null);
    assert.equal(tsharkLines(pcapng, ...vxlan, '-Y', 'dns').length, dns.length);
    const whole = tsharkLines(
      pcapng,
      ...[...vxlan, '-Y', 'dns.flags.response==0 && dns.id==1 && frame.len!=frame.cap_len'],
    );
    assert.deepEqual(whole, [], 'a query without additional records is there whole');
  });
});
