import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import type { Fact } from '../../src/event/fact.js';
import type { Namespace } from '../../src/host/namespaces.js';
import { HostWatch } from '../../src/host/watch.js';

const name = `skbwhy-host-${process.pid}`;
const path = `/run/netns/${name}`;
const ip = (...args: string[]) => execFileSync('ip', args);
const inside = (...command: string[]) => ip('netns', 'exec', name, ...command);

/** Polls until a fact passes; fails after 15 s. */
async function until<T extends Fact>(
  watch: HostWatch,
  wanted: (fact: Fact) => fact is T,
): Promise<T> {
  for (let turn = 0; turn < 60; turn++) {
    const found = (await watch.poll()).find(wanted);
    if (found) return found;
    await setTimeout(250);
  }
  throw new Error('no such fact in 15 s');
}

/** As facts have it. */
const monotonicNs = () => Number(process.hrtime.bigint());

const is =
  <K extends Fact['fact']>(kind: K, more: (fact: Extract<Fact, { fact: K }>) => boolean) =>
  (fact: Fact): fact is Extract<Fact, { fact: K }> =>
    fact.fact === kind && more(fact as Extract<Fact, { fact: K }>);

describe('a namespace that is followed', () => {
  let namespaces: Namespace[] = [];
  const watch = new HostWatch(() => namespaces, 0);
  let started: Fact[] = [];

  before(() => {
    ip('netns', 'add', name);
    ip('-n', name, 'link', 'set', 'lo', 'up');
    ip('-n', name, 'link', 'add', 'u0', 'type', 'veth', 'peer', 'name', 'u1');
    ip('-n', name, 'address', 'add', '192.0.2.1/24', 'dev', 'u0');
    namespaces = [{ inode: statSync(path).ino, name, path }];
  });
  after(() => {
    try {
      ip('netns', 'del', name);
    } catch {
      // the last test removed it
    }
  });

  test('tells everything at the start, and then nothing while nothing changes', async () => {
    started = await watch.start();
    const kinds = new Set(started.map(({ fact }) => fact));
    for (const kind of ['netns', 'device', 'datapath', 'rules', 'settings'] as const)
      assert.ok(kinds.has(kind), kind);
    const device = started.find(is('device', (fact) => fact.name === 'u0'));
    assert.deepEqual(device?.addresses, ['192.0.2.1/24']);
    assert.equal(device?.kind, 'veth');
    const later = (await watch.poll()).filter(({ fact }) => fact !== 'counters');
    assert.deepEqual(later, []);
  });

  test('a new tunnel, its offload, its end', async () => {
    ip(
      ...`-n ${name} link add foo0 type vxlan id 5 dstport 4789 local 192.0.2.1 dev u0 noudpcsum`.split(
        ' ',
      ),
    );
    const made = await until(
      watch,
      is('device', (fact) => fact.name === 'foo0'),
    );
    assert.equal(made.tunnel?.port, 4789);
    assert.equal(made.tunnel?.udpChecksum, false);
    assert.equal(made.offloads['tx-checksum-ip-generic'], true);
    inside('ethtool', '-K', 'foo0', 'tx', 'off');
    const changed = await until(
      watch,
      is('device', (fact) => fact.name === 'foo0'),
    );
    assert.equal(changed.offloads['tx-checksum-ip-generic'], false);
    ip('-n', name, 'link', 'del', 'foo0');
    const gone = await until(
      watch,
      is('device', (fact) => fact.name === 'foo0'),
    );
    assert.equal(gone.gone, true);
  });

  test('changed rules, in nft and in iptables', async () => {
    const digests = new Set([started.find(is('rules', () => true))?.digest]);
    for (const command of [
      'nft add table ip t',
      'nft add chain ip t post { type nat hook postrouting priority 100 ; }',
      'nft add rule ip t post meta mark 0x1 masquerade fully-random',
      'iptables-legacy -t nat -A POSTROUTING -m mark --mark 0x2/0x2 -j MASQUERADE',
      'ip6tables-nft -t nat -A POSTROUTING -m mark --mark 0x4/0x4 -j MASQUERADE --random-fully',
    ]) {
      inside(...command.split(' '));
      const { digest, unread } = await until(
        watch,
        is('rules', () => true),
      );
      assert.ok(!digests.has(digest), command);
      assert.deepEqual(unread, []);
      digests.add(digest);
    }
  });

  test('rules changed between two readings, and the fact says which', async () => {
    assert.equal(started.find(is('rules', () => true))?.changed, undefined);
    await watch.poll();
    // nothing changed: the bracket begins here
    const lastReading = monotonicNs();
    await watch.poll();
    const changing = monotonicNs();
    inside('nft', 'add', 'rule', 'ip', 't', 'post', 'meta', 'mark', '0x9', 'masquerade');
    const changed = monotonicNs();
    const fact = (await watch.poll()).find(is('rules', () => true));
    const told = monotonicNs();
    const { after, before } = fact?.changed ?? assert.fail('no bracket');
    assert.ok(lastReading <= after && after <= changing, `${lastReading} ${after} ${changing}`);
    assert.ok(changed <= before && before <= told, `${changed} ${before} ${told}`);
  });

  test('so it does when they change while they are read', async () => {
    const poll = watch.poll();
    // devices are read first, rules last
    await setTimeout(5);
    const changing = monotonicNs();
    inside('nft', 'add', 'rule', 'ip', 't', 'post', 'meta', 'mark', '0xa', 'masquerade');
    const changed = monotonicNs();
    const facts = [...(await poll), ...(await watch.poll())];
    const { after, before } = facts.find(is('rules', () => true))?.changed ?? assert.fail('none');
    assert.ok(after <= changed && changing <= before, `${after} ${changing} ${changed} ${before}`);
  });

  test('a changed setting, and only that', async () => {
    inside('sh', '-c', 'echo 7 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout');
    const { values } = await until(
      watch,
      is('settings', () => true),
    );
    assert.deepEqual(values, { 'net.netfilter.nf_conntrack_udp_timeout': '7' });
  });

  test('counters that rise', async () => {
    inside('bash', '-c', 'echo x > /dev/udp/127.0.0.1/9');
    const { values } = await until(
      watch,
      is('counters', (fact) => 'Udp.NoPorts' in fact.values),
    );
    assert.ok(values['Udp.NoPorts']! > 0);
  });

  const setUdpTimeout = (seconds: number) =>
    inside('sh', '-c', `echo ${seconds} > /proc/sys/net/netfilter/nf_conntrack_udp_timeout`);

  test('a last reading is of settings and counters only, also while a poll is under way', async () => {
    let release = (): void => undefined;
    const listed = new Promise<void>((resolve) => (release = resolve));
    let asked = 0;
    const own = new HostWatch(async () => {
      // the poll's, the second one, takes its time
      if (asked++ === 1) await listed;
      return namespaces;
    });
    await own.start();
    const poll = own.poll();
    setUdpTimeout(8);
    inside('nft', 'add', 'table', 'ip', 'late');
    inside('bash', '-c', 'echo x > /dev/udp/127.0.0.1/9');
    const told = await own.last(10_000);
    release();
    const settings = told.find(is('settings', () => true));
    assert.deepEqual(settings?.values, { 'net.netfilter.nf_conntrack_udp_timeout': '8' });
    const counters = told.find(is('counters', () => true));
    assert.ok(counters && 'Udp.NoPorts' in counters.values);
    assert.equal(told.length, 2);
    // what was told is not told again
    assert.deepEqual((await poll).filter(is('settings', () => true)), []);
  });

  test('a last reading tells what a poll under way has read, and waits no longer than it may', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'skbwhy-host-'));
    const fifo = join(folder, 'namespace');
    execFileSync('mkfifo', [fifo]);
    const [real] = namespaces;
    const stuck = { ...real!, inode: 1 };
    const own = new HostWatch(() => [real!, stuck]);
    await own.start();
    // whoever enters that one waits until somebody writes
    stuck.path = fifo;
    setUdpTimeout(12);
    const poll = own.poll();
    await setTimeout(1500);
    const asked = performance.now();
    const told = await own.last(500);
    const waited = performance.now() - asked;
    const release = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    writeSync(release, '\n');
    closeSync(release);
    assert.ok(waited < 5000, `${waited} ms`);
    assert.deepEqual(
      told.filter(is('settings', () => true)).map(({ netns, values }) => [netns, values]),
      [[real!.inode, { 'net.netfilter.nf_conntrack_udp_timeout': '12' }]],
    );
    assert.deepEqual(await poll, []);
    rmSync(folder, { recursive: true });
  });

  test('a last reading is of the 16 that were read longest ago, and of none that is new', async () => {
    const [real] = namespaces;
    // one namespace by many names, so that a change is one of all
    const many = Array.from({ length: 20 }, (_, i) => ({ ...real!, inode: i + 1 }));
    const own = new HostWatch(() => many);
    await own.start();
    many.push({ ...real!, inode: 21 });
    const tell = async (seconds: number) => {
      setUdpTimeout(seconds);
      const told = (await own.last(10_000)).filter(is('settings', () => true));
      return told.map(({ netns }) => netns).sort((a, b) => a - b);
    };
    const first = await tell(9);
    assert.equal(first.length, 16);
    const second = await tell(10);
    assert.equal(second.length, 16);
    const known = Array.from({ length: 20 }, (_, i) => i + 1);
    assert.deepEqual(
      known.filter((netns) => !first.includes(netns) && !second.includes(netns)),
      [],
    );
    assert.ok(![...first, ...second].includes(21));
  });

  test('the event loop stays free, a namespace that goes is told once', async () => {
    let late = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      late = Math.max(late, performance.now() - last - 5);
      last = performance.now();
    }, 5);
    await watch.poll();
    ip('netns', 'del', name);
    last = performance.now();
    // still listed: reading it fails, which is no error
    await watch.poll();
    clearInterval(timer);
    assert.ok(late < 250, `${late} ms`);
    const { inode } = namespaces[0]!;
    namespaces = [];
    assert.deepEqual(await watch.poll(), [{ fact: 'netns', netns: inode, name, gone: true }]);
    assert.deepEqual(await watch.poll(), []);
  });
});
