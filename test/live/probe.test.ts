import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, statSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { SkbwhyError } from '../../src/event/errors.js';
import { decodeFact, RECORD_FACT, type Fact } from '../../src/event/fact.js';
import { Probe } from '../../src/probe/probe.js';
import { trace } from '../../src/session/live.js';
import {
  addNetns,
  background,
  collect,
  decode,
  inside,
  netnsName,
  removeNetns,
  run,
  sleep,
  tuple,
  until,
  vxlanNodes,
  type Collected,
  type Nodes,
  type Seen,
} from './probe-lab.js';
import { isLoaded, programsOf } from './programs.js';

const CONFIRMED = 8n;
const SRC_NAT = 0x10n;
const DST_NAT = 0x20n;
const TUNNEL = 32n;
const FOLLOWED = 8n;
const SKIPPED = 128n;
/** TCP flags, RFC 9293 */
const SYN = 2;
const RST_ACK = 20;
const OUT = 3n;
const POST = 4n;

const of = (events: Seen[], point: string) => events.filter((event) => event.point === point);
const one = (events: Seen[], point: string, which: (event: Seen) => boolean = () => true): Seen => {
  const found = of(events, point).filter(which);
  assert.ok(found.length > 0, `no ${point}`);
  return found[0] as Seen;
};
const isTunnel = (event: Seen) => (event.field('flags') & TUNNEL) !== 0n;
const udpPort = (event: Seen) => event.packet.readUInt16BE(20);
const udpCheck = (event: Seen) => event.packet.readUInt16BE(26);

/** One connection to the Service through the doubly masqueraded tunnel, on an odd port. */
describe('a connection through a tunnel that is masqueraded twice', () => {
  let nodes: Nodes;
  let seen: Collected;
  let server: ReturnType<typeof background>;

  const connect = async (options: { filter?: string }) => {
    for (let left = 2; ; left--) {
      const collected = await collect({ netns: [nodes.client, nodes.server], ...options });
      inside(nodes.client, `curl -s -m 10 -o /dev/null http://${nodes.service}/`);
      // its end, too, whatever it waits for
      await sleep(500);
      await collected.session.close();
      await collected.done;
      const { events } = collected;
      const skipped =
        (events.length > 0 && of(events, 'tcp.retransmit').length === 0) ||
        events.some((event) => (event.field('flags') & SKIPPED) !== 0n);
      if (!skipped || left === 0) return collected;
      console.log('the kernel skipped programs: again');
    }
  };

  before(async () => {
    nodes = vxlanNodes(8472);
    inside(nodes.client, 'echo 1 > /proc/sys/net/core/txrehash');
    server = background(
      nodes.server,
      process.execPath,
      '-e',
      'require("http").createServer((q, r) => r.end("ok")).listen(8080, "10.77.2.0")',
    );
    await until('the server listens', 10_000, () =>
      inside(nodes.server, 'ss -Hltn sport = :8080').includes('8080'),
    );
    seen = await connect({});
  });
  after(() => {
    server.stop();
    nodes.remove();
  });

  test('the socket opens with the Service as its peer, and its process is known', () => {
    const opened = one(seen.events, 'socket.state', (event) => event.field('new_state') === 2n);
    assert.match(tuple(opened, 'socket.flow'), /^192\.168\.77\.1:0 > 10\.96\.0\.10:80$/);
    assert.notEqual(opened.field('pid'), 0n);
    assert.equal(opened.field('txrehash'), 1n);
    assert.equal(opened.bytes.toString('latin1', 248, 252), 'curl');
    one(
      seen.events,
      'socket.state',
      (event) => event.field('old_state') === 2n && event.field('new_state') === 1n,
    );
  });

  test('mark.set names the mark and the hook', () => {
    const marked = one(seen.events, 'mark.set');
    assert.equal(marked.field('mark'), 0x4000n);
    assert.equal(marked.field('before_mark'), 0n);
    assert.equal(marked.field('hook'), OUT);
  });

  test('nat.setup shows destination NAT of the SYN, source NAT of the SYN and of its tunnel packet', () => {
    const inner = of(seen.events, 'nat.setup').filter((event) => !isTunnel(event));
    const destination = inner.find((event) => event.field('hook') === OUT);
    const source = inner.find((event) => event.field('hook') === POST);
    assert.ok(destination && source);
    assert.equal(destination.field('ct_status') & (CONFIRMED | DST_NAT), DST_NAT);
    assert.equal(source.field('ct_status') & SRC_NAT, SRC_NAT);
    assert.match(tuple(destination, 'original'), / > 10\.96\.0\.10:80$/);
    assert.match(tuple(destination, 'reply'), /^10\.77\.2\.0:8080 > /);
    const outer = one(
      seen.events,
      'nat.setup',
      (event) => isTunnel(event) && event.field('hook') === POST && event.field('mark') !== 0n,
    );
    assert.equal(outer.field('ct_status') & SRC_NAT, SRC_NAT);
    assert.equal(outer.field('ct_timeout'), 0xffffffffn);
    assert.notEqual(udpPort(outer), Number(outer.field('before_sport')), 'the port changed');
    assert.equal(udpCheck(outer), Number(outer.field('before_check')), 'the checksum did not');
    assert.equal(outer.field('csum_start'), 70n, 'the pending checksum is the inner one');
  });

  test('the first SYN leaves with the spoiled checksum and dies of it at the peer', () => {
    const sent = of(seen.events, 'device.transmit').filter(isTunnel)[0] as Seen;
    const dropped = one(seen.events, 'packet.drop', isTunnel);
    assert.equal(udpPort(sent), udpPort(dropped));
    assert.equal(udpCheck(sent), udpCheck(dropped));
    assert.equal(sent.field('ct_status') & (CONFIRMED | SRC_NAT), CONFIRMED | SRC_NAT);
    assert.ok(sent.field('ct_timeout') <= 30_000n && sent.field('ct_timeout') > 25_000n);
    assert.equal(seen.session.header.reasons[String(dropped.field('reason'))], 'UDP_CSUM');
    // IP, UDP, VXLAN, Ethernet, IP, TCP with its options
    assert.equal(sent.packet.length, 20 + 8 + 8 + 14 + 20 + ((sent.packet[82] as number) >> 4) * 4);
    const address = `0x${dropped.field('location').toString(16)}`;
    const symbol = seen.facts.find((fact) => fact.fact === 'symbol' && fact.address === address);
    assert.match(symbol?.fact === 'symbol' ? symbol.name : '', /^\w*udp\w*\+0x[0-9a-f]+$/);
  });

  test('the second SYN has another hash, no mark, and only a null binding outside', () => {
    const retransmit = one(seen.events, 'tcp.retransmit');
    const hashes = of(seen.events, 'tunnel.transmit').map((event) => event.field('hash'));
    assert.notEqual(hashes[0], hashes[1]);
    assert.equal(retransmit.field('sock_hash'), hashes[1]);
    assert.equal(retransmit.field('reason'), 1n);
    const outer = one(
      seen.events,
      'nat.setup',
      (event) => isTunnel(event) && event.field('hook') === POST && event.field('mark') === 0n,
    );
    assert.equal(outer.field('ct_status') & SRC_NAT, 0n);
    assert.equal(udpPort(outer), Number(outer.field('before_sport')));
    one(seen.events, 'nat.rewrite', (event) => event.field('hook') === OUT);
    one(seen.events, 'tunnel.receive');
  });

  test('a filter for the Service sees the same, on the node that does not know its address too', async () => {
    const filtered = await connect({ filter: `host ${nodes.service}` });
    const points = (events: Seen[]) =>
      Object.fromEntries(
        [...new Set(events.map(({ point }) => point))]
          .sort()
          .map((point) => [point, of(events, point).length]),
      );
    assert.deepEqual(points(filtered.events), points(seen.events));
    assert.ok(of(filtered.events, 'tunnel.receive').every((e) => e.field('flags') & FOLLOWED));
  });

  test('a filter for something else sees nothing', async () => {
    const filtered = await connect({ filter: 'host 10.96.0.11' });
    assert.equal(filtered.events.length, 0);
  });
});

describe('DNS', () => {
  const name = netnsName('dns');
  after(() => removeNetns(name));

  test('keeps the question and never what follows it', async () => {
    removeNetns(name);
    addNetns(name);
    const seen = await collect({ netns: [name] });
    const payload = Buffer.from(
      '123401000001000000000001' + '076578616d706c6503636f6d00' + '00010001' + 'ee'.repeat(40),
      'hex',
    );
    inside(
      name,
      `${process.execPath} -e '
        const s = require("dgram").createSocket("udp4");
        s.send(Buffer.from("${payload.toString('hex')}", "hex"), 53, "127.0.0.1", () => s.close());'`,
    );
    await sleep(100);
    await seen.session.close();
    await seen.done;
    const sent = one(seen.events, 'device.transmit');
    assert.equal(sent.packet.length, 20 + 8 + 12 + 13 + 4);
    assert.ok(!sent.bytes.includes('eeeeeeee', 0, 'hex'));
    assert.ok(sent.bytes.length <= 208 + 64);
    one(seen.events, 'packet.drop');
  });
});

describe('IPv6', () => {
  const name = netnsName('six');
  after(() => removeNetns(name));

  test('is read behind extension headers; a refused connection keeps its port', async () => {
    removeNetns(name);
    addNetns(name);
    const seen = await collect({ netns: [name], filter: 'ip6 host ::1' });
    // destination options and hop-by-hop options before the UDP header
    inside(
      name,
      `python3 -c '
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(41, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
s.setsockopt(41, 54, bytes([0, 0, 5, 2, 0, 0, 1, 0]))
s.sendto(bytes.fromhex("123401000001000000000000") + b"\\x03abc\\0\\0\\1\\0\\1", ("::1", 53))
t = socket.socket(socket.AF_INET6)
t.connect_ex(("::1", 9))
'`,
    );
    await sleep(100);
    await seen.session.close();
    await seen.done;
    const isUdp = (event: Seen) => event.packet[6] === 0;
    const query = one(seen.events, 'device.transmit', isUdp);
    assert.equal(query.packet.length, 40 + 8 + 8 + 8 + 12 + 5 + 4);
    one(seen.events, 'packet.drop', isUdp);
    const syn = one(seen.events, 'device.transmit', (event) => event.packet[6] === 6);
    const port = syn.packet.readUInt16BE(40);
    const closed = one(seen.events, 'socket.state', (event) => event.field('new_state') === 7n);
    assert.match(tuple(closed, 'socket.flow'), new RegExp(`:${port} > 0+1:9$`));
  });
});

describe('network namespaces', () => {
  test('that appear are attached, that go are let go within 5 s', async () => {
    const name = netnsName('late');
    removeNetns(name);
    const seen = await collect({});
    try {
      addNetns(name);
      const inode = Number(/^(\d+)$/m.exec(inside(name, 'stat -Lc %i /proc/self/ns/net'))?.[1]);
      const told = (gone: boolean) =>
        seen.facts.some(
          (fact) => fact.fact === 'netns' && fact.netns === inode && (fact.gone === true) === gone,
        );
      await until('the namespace is told', 5000, () => told(false));
      // a veth end in it tells, by its peer, when the kernel has really let it go
      const other = netnsName('peer');
      addNetns(other);
      run(
        'ip',
        '-n',
        name,
        'link',
        'add',
        'v0',
        'type',
        'veth',
        'peer',
        'name',
        'v1',
        'netns',
        other,
      );
      removeNetns(name);
      await until('the namespace is gone', 5000, () => !existsSync(`/run/netns/${name}`));
      await until('its device went with it', 5000, () => !inside(other, 'ip link').includes('v1'));
      await until('its end is told', 5000, () => told(true));
      removeNetns(other);
    } finally {
      await seen.session.close();
      await seen.done;
    }
  });

  test('that do not exist are named in the error', async () => {
    await assert.rejects(
      trace({ netns: ['no-such-namespace'], host: null }),
      (error: unknown) =>
        error instanceof SkbwhyError &&
        error.code === 'netns-missing' &&
        error.message.includes('no-such-namespace'),
    );
  });
});

describe('losses', () => {
  test('every event that the ring had no room for is counted', async () => {
    const name = netnsName('loss');
    removeNetns(name);
    addNetns(name);
    try {
      // never drained while traffic flows: a ring of 4 KiB holds about ten records
      const session = await trace({ netns: [name], host: null, ringBytes: 4096 });
      inside(name, 'for i in 1 2 3 4 5 6 7 8 9 10; do curl -s http://127.0.0.1:9/; done; true');
      await session.close();
      let lost = 0;
      let events = 0;
      for await (const { bytes } of session)
        for (let at = 0; at < bytes.length; at += bytes.readUInt32LE(at)) {
          const fact = bytes[at + 4] === RECORD_FACT ? decodeFact(bytes, at) : null;
          if (!fact) events++;
          if (fact?.fact === 'lost') for (const count of Object.values(fact.ring)) lost += count;
        }
      // SYN and RST: sent and received, the SYN dropped; two states of the socket
      assert.equal(events + lost, 10 * 7);
      assert.ok(lost > 0 && events > 0);
    } finally {
      removeNetns(name);
    }
  });
});

/** There are kernels that do so while a certain task is the current one; here a program is taken away. */
describe('a program at a tracepoint that the kernel does not run', () => {
  test('is missed in PREROUTING, where it is told what came', async () => {
    const clients: ChildProcess[] = [];
    const name = netnsName('skipped');
    removeNetns(name);
    addNetns(name);
    const probe = new Probe();
    try {
      const path = `/run/netns/${name}`;
      const { ino } = statSync(path);
      probe.attachNetns(path, ino);
      probe.start();
      const received = async () => {
        // another process each time, on one processor; it stays, since its task's address would be free
        // for the next one otherwise
        const client = spawn(
          'ip',
          [
            ...['netns', 'exec', name, 'taskset', '--cpu-list', '0'],
            ...['bash', '-c', ': < /dev/tcp/127.0.0.1/9; echo done; read'],
          ],
          { stdio: ['pipe', 'pipe', 'ignore'] },
        );
        clients.push(client);
        await once(client.stdout, 'data');
        const { bytes } = probe.ring.take(1 << 20);
        const events: Seen[] = [];
        for (let at = 0; at < bytes.length; at += bytes.readUInt32LE(at))
          events.push(decode(bytes.subarray(at, at + bytes.readUInt32LE(at))));
        return of(events, 'device.receive')
          .filter((event) => event.field('netns') === BigInt(ino))
          .map((event) => [event.packet[33], event.field('flags') & SKIPPED]);
      };
      assert.deepEqual(await received(), [
        [SYN, 0n],
        [RST_ACK, 0n],
      ]);
      const { programs } = probe['object'];
      probe['object'].detach(
        new Set([...programs.keys()].filter((program) => program !== 'device_receive')),
      );
      assert.deepEqual(await received(), [
        [SYN, SKIPPED],
        [RST_ACK, SKIPPED],
      ]);
    } finally {
      for (const client of clients) {
        client.stdin?.end();
        if (client.exitCode === null) await once(client, 'exit');
      }
      probe.close();
      removeNetns(name);
    }
  });
});

describe('a storm of drops', () => {
  const name = netnsName('storm');
  const THINNED = 64n;
  const PER_SECOND = 32;
  const FEW = 20;
  after(() => removeNetns(name));

  // A socket whose filter takes nothing: hardly anybody else drops packets at that place. On each CPU
  // a few, then thousands a second, then one more to tell of those that were left out at the end.
  const storm = `
import ctypes, os, socket, struct, time
taker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taker.bind(("127.0.0.1", 9999))
nothing = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
taker.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(nothing)))
giver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def give(packets):
    for _ in range(packets):
        giver.sendto(b"x", ("127.0.0.1", 9999))
cpus = os.sched_getaffinity(0)
for cpu in cpus:
    os.sched_setaffinity(0, {cpu})
    give(${FEW})
    time.sleep(1.1)
    end = time.monotonic() + 2.3
    while time.monotonic() < end:
        give(40)
        time.sleep(0.01)
    time.sleep(1.1)
    give(1)
for line in open("/proc/net/udp"):
    if ":270F " in line:
        print(len(cpus), line.split()[-1])
`;

  test('is told of by 32 events a second, place and CPU, and by how many were left out', async () => {
    removeNetns(name);
    addNetns(name);
    const seen = await collect({ netns: [name] });
    const printed = run('ip', 'netns', 'exec', name, 'python3', '-c', storm);
    const [cpus = 0, dropped = 0] = printed.split(' ').map(Number);
    await sleep(100);
    await seen.session.close();
    await seen.done;
    const told = of(seen.events, 'packet.drop');
    const leftOut = (event: Seen) => Number(event.field('left_out'));
    const byCpu = new Map<bigint, Seen[]>();
    for (const event of told) {
      assert.equal(event.packet.readUInt16BE(22), 9999);
      assert.ok(event.field('flags') & THINNED);
      const cpu = event.field('cpu');
      byCpu.set(cpu, [...(byCpu.get(cpu) ?? []), event]);
    }
    assert.equal(byCpu.size, cpus);
    assert.equal(new Set(told.map((event) => event.field('location'))).size, 1);
    for (const [cpu, events] of byCpu) {
      const perSecond: number[] = [];
      let since = -Infinity;
      for (const event of events) {
        const time = Number(event.field('time'));
        // counted in ticks of the kernel
        if (time - since >= 0.98e9) {
          since = time;
          perSecond.push(0);
        }
        perSecond[perSecond.length - 1]!++;
      }
      assert.equal(perSecond[0], FEW, `CPU ${cpu}: few are told of one by one`);
      assert.equal(perSecond[1], PER_SECOND, `CPU ${cpu}: ${perSecond.join(' ')}`);
      assert.ok(Math.max(...perSecond) <= PER_SECOND, `CPU ${cpu}: ${perSecond.join(' ')}`);
      assert.equal(perSecond.at(-1), 1);
      // none but the first of a second has to tell of others
      const telling = events.filter((event) => leftOut(event) > 0).length;
      assert.ok(telling > 0 && telling < perSecond.length, `${telling} of ${perSecond.join(' ')}`);
    }
    const left = told.reduce((sum, event) => sum + leftOut(event), 0);
    assert.ok(dropped > 4000 * cpus, `${dropped} dropped`);
    assert.equal(told.length + left, dropped);
  });
});

describe('ending', () => {
  test('by SIGKILL leaves no program behind', async () => {
    const module = fileURLToPath(new URL('../../src/session/live.js', import.meta.url));
    const child = spawn(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `const { trace } = await import(${JSON.stringify(module)});
         const session = await trace({ host: null });
         console.log('ready');
         for await (const batch of session) void batch;`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const programs = programsOf(child.pid ?? 0);
    assert.ok(programs.length >= 7 && programs.every(isLoaded));
    child.kill('SIGKILL');
    await until('its programs are gone', 5000, () => !programs.some(isLoaded));
  });

  test('closing tells the last reading, and waits for no poll under way', async () => {
    const counters = (value: number): Fact[] => [
      { fact: 'counters', netns: 1, values: { 'Udp.NoPorts': value } },
    ];
    let release = (): void => undefined;
    const polled = new Promise<void>((resolve) => (release = resolve));
    let polls = 0;
    const seen = await collect({
      host: () => ({
        start: () => Promise.resolve([]),
        poll: async () => {
          if (polls++ > 0) await polled;
          return counters(polls);
        },
        last: () => Promise.resolve(counters(3)),
      }),
    });
    await until('a second poll', 10_000, () => polls === 2);
    await seen.session.close();
    release();
    await seen.done;
    const told = seen.facts.flatMap((fact) =>
      fact.fact === 'counters' ? [fact.values['Udp.NoPorts']] : [],
    );
    assert.deepEqual(told, [1, 3]);
  });

  test('by leaving the loop closes the session', async () => {
    const session = await trace({ host: null });
    for await (const batch of session) {
      assert.equal(batch.firstSeq, 0);
      break;
    }
    assert.deepEqual(programsOf(process.pid), []);
  });
});
