import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SkbwhyError } from '../../src/event/errors.js';
import { encodeFact, type DeviceFact } from '../../src/event/fact.js';
import { LAYOUT } from '../../src/event/layout.js';
import { Point } from '../../src/event/point.js';
import type { EventRow } from '../../src/export/event-row.js';
import { exportSession } from '../../src/export/export.js';
import { JsonLines } from '../../src/export/json-lines.js';
import { Output } from '../../src/export/output.js';
import { decodeAsOptions, PacketCapture } from '../../src/export/packet-capture.js';
import { survey } from '../../src/export/survey.js';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { parsePcapng, type Frame } from './pcapng-parser.js';
import { batch, header } from './session-records.js';

let folder: string;
before(() => (folder = mkdtempSync(join(tmpdir(), 'skbwhy-export-'))));
after(() => rmSync(folder, { recursive: true }));

const NETNS = 4026531840;
const HIGH = 0xffff_8881_0954_3b00n;

/** IPv4, DF, with the transport bytes given; `length` is what the header says. */
function ipv4(protocol: number, transport: readonly number[], length: number): number[] {
  return [
    ...[0x45, 0, length >> 8, length & 255, 0x2a, 0x24, 0x40, 0, 64, protocol, 0, 0],
    ...[10, 0, 0, 1, 10, 0, 0, 2],
    ...transport,
  ];
}

/** From port 40000 to port 80, without options. */
function tcp(flags: number): number[] {
  return [0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, flags, 0xfa, 0xf0, 0x19, 0x20, 0, 0];
}

type Fields = Partial<Record<keyof typeof LAYOUT, number | bigint>>;

/** An event record as the kernel would write it. */
function record(point: keyof typeof Point, fields: Fields, packet: readonly number[]): Buffer {
  const size = (LAYOUT.packet[0] + Math.max(packet.length, 72) + 7) & ~7;
  const bytes = Buffer.alloc(size);
  const put = (name: keyof typeof LAYOUT, value: number | bigint): void => {
    const [at, width] = LAYOUT[name];
    if (width === 8) bytes.writeBigUInt64LE(BigInt(value), at);
    else bytes.writeUIntLE(Number(value), at, width);
  };
  const all: Fields = {
    ...{ size, kind: 1, point: Point[point], hook: 255, csum_start: 65535, txrehash: 255 },
    ...{ time: 2_000_000_123n, netns: NETNS, packet_length: packet.length },
    ...fields,
  };
  for (const [name, value] of Object.entries(all)) put(name as keyof typeof LAYOUT, value);
  Buffer.from(packet).copy(bytes, LAYOUT.packet[0]);
  return bytes;
}

function tuple(source: number, sport: number, destination: number, dport: number): Buffer {
  const bytes = Buffer.alloc(40);
  Buffer.from([10, 0, 0, source, 10, 0, 0, destination]).copy(bytes);
  bytes.writeUInt16BE(sport, 8);
  bytes.writeUInt16BE(dport, 10);
  bytes[36] = 4;
  bytes[37] = 17;
  return bytes;
}

const device: DeviceFact = {
  ...{ fact: 'device', netns: NETNS, ifindex: 3, name: 'flannel.1', kind: 'vxlan', mtu: 1450 },
  ...{ mac: '02:00:00:00:00:01', addresses: [], offloads: {} },
  tunnel: {
    ...{ kind: 'vxlan', vni: 1, port: 8472, local: null, remote: null, udpChecksum: true },
    ...{ sourcePorts: null, link: null },
  },
};

interface Exported {
  capture: ReturnType<typeof parsePcapng>;
  lines: Record<string, unknown>[];
  events: EventRow[];
  decodeAs: string[];
}

/** Both exports of a session with these records. */
async function exportRecords(records: readonly Buffer[], name = 'session'): Promise<Exported> {
  const path = join(folder, `${name}.skbw`);
  const writer = await FileWriter.create(path, header({ reasons: { '19': 'UDP_CSUM' } }));
  await writer.write({ firstSeq: 0, count: records.length, bytes: Buffer.concat(records) });
  await writer.close();
  return exportFile(path);
}

async function exportFile(path: string): Promise<Exported> {
  const session = await openFile(path);
  const whole = await survey(session, []);
  const write = async (suffix: string, format: PacketCapture | JsonLines): Promise<Buffer> => {
    const output = await Output.open(path + suffix, path);
    await exportSession(session, format, output);
    await output.close();
    return readFileSync(path + suffix);
  };
  const capture = await write('.pcapng', new PacketCapture(session.header, whole, '1.2.3'));
  const json = await write('.jsonl', new JsonLines(session.header, whole));
  await session.close();
  const text = json.toString();
  assert.ok(text === '' || text.endsWith('\n'));
  const lines = text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  return {
    capture: parsePcapng(capture),
    lines,
    events: lines.filter((line) => line['type'] === 'event') as unknown as EventRow[],
    decodeAs: decodeAsOptions(whole),
  };
}

function onlyFrame({ capture }: Exported): Frame {
  assert.equal(capture.frames.length, 1);
  return capture.frames[0]!;
}

describe('an export', () => {
  test('says what a function said: the session of a kernel that lets it be seen', async () => {
    const recorded = new URL('../../../sessions/defect-flannel-63s.skbw', import.meta.url);
    const path = join(folder, 'functions.skbw');
    writeFileSync(path, readFileSync(recorded));
    const { events } = await exportFile(path);
    const results = (point: string) =>
      new Set(events.filter((row) => row.point === point).map(({ result }) => result));
    assert.deepEqual(results('conntrack.insert'), new Set(['NF_ACCEPT']));
    assert.deepEqual(results('conntrack.delete'), new Set(['by the kernel']));
    assert.deepEqual(results('checksum.fill'), new Set(['computed']));
    assert.deepEqual(
      results('checksum.verify'),
      new Set(['wrong: the sum is 0xd477 instead of 0']),
    );
    assert.deepEqual(results('device.transmit'), new Set([null]));
    const rewrites = events.filter((row) => row.point === 'nat.rewrite' && row.hook === null);
    assert.equal(rewrites.length, 6); // the SYNs that the second SNAT spoiled
    for (const { before, outer } of rewrites)
      assert.deepEqual([before?.checksum, outer?.checksum], [0, 0xffff]);
  });

  test('names everything of a packet, whenever the names were learnt', async () => {
    const syn = record(
      'nat.setup',
      {
        ...{ hook: 4, ifindex: 3, mark: 0x4000, hash: 0xf9b595f1, skb: HIGH, length: 60 },
        ...{ ip_summed: 3, csum_start: 20, csum_offset: 16, before_sport: 50000, before_dport: 80 },
        before_check: 0x1111,
      },
      ipv4(6, tcp(2), 60),
    );
    const exported = await exportRecords([
      syn,
      encodeFact({ fact: 'netns', netns: NETNS, name: 'sender' }, 3e9),
      encodeFact(device, 3e9),
    ]);
    const frame = onlyFrame(exported);
    assert.equal(frame.interface.name, 'sender/flannel.1 out');
    assert.match(frame.interface.description, /vxlan device flannel\.1/);
    assert.equal(frame.direction, 2);
    assert.equal(frame.time, 1_700_000_002_000_000_123n);
    assert.equal(frame.bytes.length, 40);
    assert.equal(frame.originalLength, 60);
    const comments = frame.comments.join('\n');
    assert.match(comments, /#0 nat\.setup: hook POSTROUTING, flannel\.1 in sender, mark 0x4000/);
    assert.match(comments, /source port 50000 → 40000/);
    assert.match(comments, /CHECKSUM_PARTIAL.*harmless/);
    assert.match(exported.capture.section.comments.join('\n'), /-d udp\.port==8472,vxlan/);
    assert.equal(exported.capture.section.application, 'skbwhy 1.2.3');

    const [row] = exported.events;
    assert.equal(row?.time, '2023-11-14T22:13:22.000000Z');
    assert.equal(row?.timeNs, '1700000002000000123');
    assert.equal(row?.skb, '0xffff888109543b00');
    assert.equal(row?.netns, 'sender');
    assert.equal(row?.device, 'flannel.1');
    assert.deepEqual(row?.outer?.tcpFlags, ['SYN']);
    assert.equal(row?.checksum?.unfinished, 'outer');
    assert.deepEqual(
      exported.lines.map((line) => [line['seq'], line['type']]),
      [
        [0, 'event'],
        [1, 'netns'],
        [2, 'device'],
      ],
    );
    assert.deepEqual(exported.lines[2]?.['fact'], device);
  });

  test('names why and where a packet was dropped, with its conntrack entry', async () => {
    const drop = record(
      'packet.drop',
      { reason: 19, location: 0xffffffff8204647bn, ct: HIGH, ct_status: 0x198, ct_timeout: 30000 },
      ipv4(17, [0, 53, 0x9c, 0x40, 0, 28, 0xde, 0x65], 48),
    );
    tuple(1, 40000, 9, 53).copy(drop, LAYOUT.original[0]);
    tuple(2, 53, 1, 40000).copy(drop, LAYOUT.reply[0]);
    const exported = await exportRecords([
      drop,
      encodeFact(
        { fact: 'symbol', address: '0xffffffff8204647b', name: '__udp4_lib_rcv+0x1eb' },
        3e9,
      ),
    ]);
    const comments = onlyFrame(exported).comments.join('\n');
    assert.match(comments, /dropped: UDP_CSUM at __udp4_lib_rcv\+0x1eb/);
    assert.match(comments, /ESTABLISHED: CONFIRMED SRC_NAT SRC_NAT_DONE DST_NAT_DONE;/);
    assert.match(comments, /original udp 10\.0\.0\.1:40000 → 10\.0\.0\.9:53/);
    assert.match(comments, /expires in 30 s/);
    assert.equal(onlyFrame(exported).interface.name, `netns ${NETNS} drop`);
    assert.equal(onlyFrame(exported).direction, 0);
    assert.equal(exported.events[0]?.conntrack?.id, '0xffff888109543b00');
  });

  test('takes the length from the IP header: skb->len counts a link header or lacks the IP one', async () => {
    const sent = record('device.transmit', { length: 74 }, ipv4(6, tcp(2), 60));
    const delivered = record('packet.drop', { length: 28 }, ipv4(6, tcp(2), 60));
    const v6 = [0x60, 0, 0, 0, 0, 40, 6, 64, ...Array<number>(32).fill(1), ...tcp(2)];
    const { capture } = await exportRecords([
      sent,
      delivered,
      record('device.receive', { length: 80 }, v6),
      record('device.receive', { length: 20 }, ipv4(6, tcp(2), 0)),
    ]);
    assert.deepEqual(
      capture.frames.map((frame) => frame.originalLength),
      [60, 60, 80, 40],
    );
  });

  test('has an interface for each namespace, device and direction', async () => {
    const packet = ipv4(6, tcp(2), 40);
    const at = (point: keyof typeof Point, netns: number, ifindex: number) =>
      record(point, { netns, ifindex }, packet);
    const { capture } = await exportRecords([
      at('device.transmit', NETNS, 2),
      at('device.receive', NETNS, 2),
      at('device.transmit', NETNS + 1, 2),
      at('device.transmit', NETNS, 3),
      at('device.transmit', NETNS, 2),
      at('packet.drop', NETNS, 2),
    ]);
    assert.deepEqual(
      capture.frames.map((frame) => frame.interfaceId),
      [0, 1, 2, 3, 0, 4],
    );
    assert.equal(capture.interfaces.length, 5);
  });

  test('names the port of a DNS server whose Service has another', async () => {
    const query = record('device.transmit', { ct: 1 }, ipv4(17, [1, 0, 20, 233, 0, 8, 0, 0], 28));
    tuple(1, 256, 9, 53).copy(query, LAYOUT.original[0]);
    tuple(2, 5353, 1, 256).copy(query, LAYOUT.reply[0]);
    assert.deepEqual((await exportRecords([query])).decodeAs, ['-d udp.port==5353,dns']);
  });

  test('keeps text that could move a cursor away from comments and names', async () => {
    const exported = await exportRecords([
      encodeFact({ fact: 'netns', netns: NETNS, name: 'a\u001b[2Jb\n\u009bc' }, 1e9),
      record('device.transmit', {}, ipv4(6, tcp(2), 40)),
    ]);
    const { interface: description, comments } = onlyFrame(exported);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch([description.name, ...comments].join(''), /[\x00-\x1f\x7f-\x9f]/);
  });

  test('has every column in every event line, and no packet for an event without one', async () => {
    const exported = await exportRecords([
      record('socket.state', { old_state: 7, new_state: 2, pid: 12 }, []),
      record('device.transmit', {}, ipv4(6, tcp(18), 40)),
    ]);
    const [first, second] = exported.events;
    assert.deepEqual(Object.keys(first!), Object.keys(second!));
    assert.deepEqual(
      [first?.socket?.oldState, first?.socket?.newState, first?.socket?.pid],
      ['CLOSE', 'SYN_SENT', 12],
    );
    assert.equal(first?.outer, null);
    assert.deepEqual(onlyFrame(exported).bytes, Buffer.from(ipv4(6, tcp(18), 40)));
    assert.match(exported.capture.section.comments.join('\n'), /1 event without a packet/);
  });

  test('says of records that only a later version knows that they are there', async () => {
    const kind = encodeFact({ fact: 'tick' }, 1e9);
    kind[4] = 9;
    const later = record('device.transmit', { point: 99 }, ipv4(6, tcp(2), 40));
    const { lines, events, capture } = await exportRecords([kind, later]);
    assert.deepEqual([lines[0]?.['seq'], lines[0]?.['type']], [0, 'kind 9']);
    assert.equal(events[0]?.point, 'point 99');
    assert.match(capture.frames[0]!.comments[0]!, /#1 point 99/);
  });

  test('of records full of noise is well formed', async () => {
    const path = join(folder, 'noise.skbw');
    const writer = await FileWriter.create(path, header());
    await writer.write(batch(0, 5000));
    await writer.close();
    const { capture, lines, events } = await exportFile(path);
    assert.equal(lines.length, 5000);
    assert.deepEqual(
      lines.map((line) => line['seq']),
      Array.from({ length: 5000 }, (_, i) => i),
    );
    assert.equal(capture.frames.length, events.length);
    for (const frame of capture.frames) assert.ok(frame.originalLength >= frame.bytes.length);
  });

  test('of an empty session and of a cut file is well formed', async () => {
    const empty = await exportRecords([], 'empty');
    assert.equal(empty.capture.frames.length, 0);
    assert.deepEqual(empty.lines, []);
    const path = join(folder, 'cut.skbw');
    const writer = await FileWriter.create(path, header());
    await writer.write(batch(0, 5000));
    await writer.close();
    const whole = readFileSync(path);
    writeFileSync(path, whole.subarray(0, whole.length >> 1));
    const cut = await exportFile(path);
    assert.match(cut.capture.section.comments.join('\n'), /not whole/);
    assert.equal(cut.capture.frames.length, cut.events.length);
  });

  test('does not overwrite the session it reads, nor write where it may not', async () => {
    const path = join(folder, 'kept.skbw');
    writeFileSync(path, 'x');
    const unwritable = (error: unknown): boolean =>
      error instanceof SkbwhyError && error.code === 'file-unwritable';
    await assert.rejects(Output.open(path, path), unwritable);
    assert.equal(readFileSync(path, 'utf8'), 'x');
    await assert.rejects(Output.open(join(folder, 'no', 'such'), path), unwritable);
    const full = await Output.open('/dev/full', path);
    await assert.rejects(async () => {
      await full.write(Buffer.alloc(1 << 20));
    }, unwritable);
    await full.close();
  });
});
