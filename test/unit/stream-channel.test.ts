import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, test } from 'node:test';
import { encodeFact } from '../../src/event/fact.js';
import { LAYOUT } from '../../src/event/layout.js';
import { Point } from '../../src/event/point.js';
import type { Finding } from '../../src/explain/finding.js';
import { damageOf } from '../../src/session/records.js';
import { Channel } from '../../src/stream/channel.js';
import { unpack } from '../../src/stream/msgpack.js';
import type {
  EvidenceMessage,
  HelloMessage,
  LostMessage,
  RecordsMessage,
  ServerMessage,
  StreamFilter,
} from '../../src/stream/protocol.js';
import { BACKLOG_BYTES, Subscriber, type Resume } from '../../src/stream/subscriber.js';
import { batch, event, header } from './session-records.js';

/** A client that reads when it is told to. */
class Reader {
  readonly messages: ServerMessage[] = [];
  readonly subscriber: Subscriber;
  mostBuffered = 0;
  reads: boolean;
  private unread: { message: Buffer; done: () => void }[] = [];
  buffered = 0;

  constructor(
    channel: Channel,
    options: { reads?: boolean; filter?: StreamFilter; resume?: Resume } = {},
  ) {
    this.reads = options.reads ?? true;
    this.subscriber = new Subscriber(channel, this, options.filter, options.resume);
  }

  send(message: Buffer, done: () => void): void {
    if (this.reads) {
      this.messages.push(unpack(message) as ServerMessage);
      setImmediate(done);
      return;
    }
    this.buffered += message.length;
    this.mostBuffered = Math.max(this.mostBuffered, this.buffered);
    this.unread.push({ message, done });
  }

  async readAll(): Promise<void> {
    for (let next = this.unread.shift(); next; next = this.unread.shift()) {
      this.buffered -= next.message.length;
      this.messages.push(unpack(next.message) as ServerMessage);
      next.done();
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.reads = true;
  }

  of<T extends ServerMessage['type']>(type: T): Extract<ServerMessage, { type: T }>[] {
    return this.messages.filter((m): m is Extract<ServerMessage, { type: T }> => m.type === type);
  }

  get seqs(): number[] {
    return this.of('records').flatMap(
      ({ firstSeq, count, seqs }) => seqs ?? Array.from({ length: count }, (_, i) => firstSeq + i),
    );
  }
}

const finding = (id: string, revision: number, seqs: number[] = []): Finding =>
  ({
    id,
    revision,
    verdict: 'double-snat',
    chain: [{ claim: 'x', text: '', evidence: seqs.map((seq) => ({ session: 'session-1', seq })) }],
    ruledOut: [],
  }) as unknown as Finding;

const open = (windowBytes?: number) =>
  new Channel(header(), { version: 'test', ...(windowBytes ? { windowBytes } : {}) });
const flushed = () => sleep(20);
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

describe('a channel', () => {
  test('tells every client the same bytes, packed once', async () => {
    const channel = open();
    const sent: Buffer[][] = [[], []];
    for (const list of sent)
      new Subscriber(channel, { buffered: 0, send: (message) => void list.push(message) });
    channel.send(batch(0, 100));
    await flushed();
    assert.equal(sent[0]!.length, 2);
    assert.equal(sent[0]![1], sent[1]![1]);
  });

  test('gathers small batches and cuts long ones between records', async () => {
    const channel = open();
    const reader = new Reader(channel);
    for (let seq = 0; seq < 100; seq += 10) channel.send(batch(seq, 10));
    await flushed();
    assert.equal(reader.of('records').length, 1);
    channel.send(batch(100, 8000));
    await flushed();
    const records = reader.of('records');
    assert.ok(records.length > 3);
    for (const { records: bytes, count } of records)
      assert.equal(damageOf(Buffer.from(bytes), count), null);
    assert.deepEqual(reader.seqs, range(0, 8100));
  });

  test('tells one who comes late what stands: facts and findings', async () => {
    const channel = open();
    const fact = (seq: number, name: string) =>
      channel.send({
        firstSeq: seq,
        count: 1,
        bytes: encodeFact({ fact: 'netns', netns: 5, name }, 7),
      });
    fact(0, 'first');
    channel.send(batch(1, 10));
    fact(11, 'second');
    channel.finding(finding('a', 1));
    channel.finding(finding('b', 1));
    channel.finding(finding('a', 2));
    const late = new Reader(channel);
    const [hello] = late.of('hello') as [HelloMessage];
    assert.equal(hello.nextSeq, 12);
    assert.deepEqual(hello.factSeqs, [11]);
    assert.match(Buffer.from(hello.facts).toString('latin1'), /second/);
    assert.deepEqual(
      late.of('finding').map(({ finding: { id, revision } }) => [id, revision]),
      [
        ['b', 1],
        ['a', 2],
      ],
    );
    assert.deepEqual(late.seqs, []);
    channel.send(batch(12, 5));
    await flushed();
    assert.deepEqual(late.seqs, range(12, 17));
  });

  test('keeps the records that prove a finding', async () => {
    const channel = open(100_000);
    channel.send(batch(0, 100));
    channel.finding(finding('a', 1, [3, 50, 99]));
    for (let seq = 100; seq < 5100; seq += 100) channel.send(batch(seq, 100));
    channel.finding(finding('a', 2, [3, 5099]));
    await flushed();
    const evidence = unpack(channel.evidenceMessage('a')!) as EvidenceMessage;
    assert.deepEqual(evidence.seqs, [3, 50, 99, 5099]);
    const expected = [3, 50, 99, 5099].map((seq) => batch(seq, 1).bytes);
    assert.deepEqual(Buffer.from(evidence.records), Buffer.concat(expected));
    assert.equal(channel.evidenceMessage('none'), null);
  });

  test('that begins anew makes its clients begin anew', async () => {
    const channel = open();
    const reader = new Reader(channel);
    channel.send(batch(0, 10));
    channel.end('over');
    await flushed();
    assert.equal(reader.of('end').length, 1);
    channel.hold();
    channel.clear();
    channel.send(batch(0, 4));
    channel.finding(finding('a', 1));
    await flushed();
    assert.equal(reader.messages.length, 3);
    channel.release();
    assert.equal(reader.of('hello').length, 2);
    assert.equal(reader.of('finding').length, 1);
    channel.send(batch(4, 2));
    channel.end('over');
    await flushed();
    assert.deepEqual(reader.seqs.slice(10), [4, 5]);
    assert.equal(reader.of('end').length, 2);
  });
});

describe('a client that does not read', () => {
  test('costs no more than its backlog, and is told how much it missed', async () => {
    const channel = open(4 << 20);
    const deaf = new Reader(channel, { reads: false });
    const honest = new Reader(channel);
    for (let seq = 0; seq < 100_000; seq += 1000) {
      channel.send(batch(seq, 1000));
      await new Promise((resolve) => setImmediate(resolve));
    }
    channel.finding(finding('a', 1));
    await flushed();
    assert.deepEqual(honest.seqs, range(0, 100_000));
    assert.ok(deaf.mostBuffered <= BACKLOG_BYTES, `${deaf.mostBuffered}`);
    await deaf.readAll();
    await flushed();
    const lost = deaf.of('lost');
    assert.equal(lost.length, 1);
    assert.equal(lost[0]!.reason, 'lag');
    assert.equal(lost[0]!.firstSeq, deaf.seqs.length);
    assert.equal(lost[0]!.count, 100_000 - deaf.seqs.length);
    // findings are not among what is skipped
    assert.equal(deaf.of('finding').length, 1);
    channel.send(batch(100_000, 10));
    await flushed();
    assert.deepEqual(deaf.seqs.slice(-10), range(100_000, 100_010));
  });

  test('for a moment misses nothing', async () => {
    const channel = open();
    const slow = new Reader(channel, { reads: false });
    for (let seq = 0; seq < 50_000; seq += 1000) channel.send(batch(seq, 1000));
    await flushed();
    assert.ok(slow.mostBuffered <= BACKLOG_BYTES);
    await slow.readAll();
    await flushed();
    assert.deepEqual(slow.seqs, range(0, 50_000));
    assert.equal(slow.of('lost').length, 0);
  });

  test('is waited for where nothing may be skipped, unless it has stalled', async () => {
    const channel = open(1 << 20);
    channel.lossless = true;
    const slow = new Reader(channel, { reads: false });
    for (let seq = 0; seq < 40_000; seq += 1000) {
      channel.send(batch(seq, 1000));
      const ready = channel.ready();
      if (slow.buffered > 0) await slow.readAll();
      slow.reads = seq % 3000 === 0;
      await ready;
    }
    await slow.readAll();
    await flushed();
    assert.deepEqual(slow.seqs, range(0, 40_000));
    slow.reads = false;
    channel.send(batch(40_000, 20_000));
    const start = performance.now();
    await channel.ready();
    assert.ok(performance.now() - start < 2000);
  });
});

describe('a client that comes back', () => {
  test('goes on where it was, without what it has', async () => {
    const channel = open();
    channel.send(batch(0, 100));
    channel.finding(finding('a', 1));
    channel.finding(finding('b', 1));
    await flushed();
    const resume = { session: 'session-1', after: 49, findings: 1 };
    const back = new Reader(channel, { resume });
    assert.equal(back.of('hello')[0]!.resumed, true);
    assert.deepEqual(back.seqs, range(50, 100));
    assert.deepEqual(
      back.of('finding').map(({ finding: { id } }) => id),
      ['b'],
    );
  });

  test('too late is told what is gone', async () => {
    const channel = open(100_000);
    for (let seq = 0; seq < 5000; seq += 100) {
      channel.send(batch(seq, 100));
      await flushed();
      if (seq > 2000) break;
    }
    const back = new Reader(channel, { resume: { session: 'session-1', after: 9, findings: 0 } });
    const [lost] = back.of('lost') as [LostMessage];
    assert.equal(lost.reason, 'gone');
    assert.equal(lost.firstSeq, 10);
    assert.equal(back.seqs[0], 10 + lost.count);
    assert.equal(back.seqs.length + lost.count, channel.window.next - 10);
  });

  test('to another session begins anew', async () => {
    const channel = open();
    channel.send(batch(0, 10));
    await flushed();
    for (const resume of [
      { session: 'another', after: 5, findings: 0 },
      { session: 'session-1', after: 500, findings: 0 },
    ]) {
      const back = new Reader(channel, { resume });
      assert.equal(back.of('hello')[0]!.resumed, false);
      assert.deepEqual(back.seqs, []);
    }
  });
});

describe('a client that filters', () => {
  const tcp = (source: number[], destination: number[], sport: number, dport: number): Buffer => {
    const packet = Buffer.alloc(40);
    packet[0] = 0x45;
    packet[9] = 6;
    packet.set(source, 12);
    packet.set(destination, 16);
    packet.writeUInt16BE(sport, 20);
    packet.writeUInt16BE(dport, 22);
    return packet;
  };
  const record = (netns: number, point: number, packet: Buffer): Buffer => {
    const bytes = event(2e9, packet.length);
    bytes.fill(0, LAYOUT.point[0], LAYOUT.size[1] + 4);
    bytes[LAYOUT.point[0]] = point;
    bytes.fill(0, LAYOUT.skb[0], LAYOUT.packet[0]);
    bytes[LAYOUT.packet_length[0]] = packet.length;
    bytes.writeUInt32LE(netns, LAYOUT.netns[0]);
    packet.copy(bytes, LAYOUT.packet[0]);
    return bytes;
  };
  const a = tcp([10, 0, 0, 1], [10, 96, 0, 10], 40000, 80);
  const b = tcp([10, 1, 0, 1], [10, 0, 0, 2], 443, 50000);
  const drop = Point['packet.drop'];
  const transmit = Point['device.transmit'];
  // 0: a fact, then events 1 to 5
  const parts = [
    encodeFact({ fact: 'netns', netns: 7, name: 'web' }, 1e9),
    record(7, drop, a),
    record(8, drop, a),
    record(7, transmit, b),
    record(8, transmit, b),
    record(8, transmit, tcp([192, 168, 1, 1], [192, 168, 1, 2], 1, 2)),
  ];
  const all = { firstSeq: 0, count: parts.length, bytes: Buffer.concat(parts) };

  const cases: [string, StreamFilter, number[]][] = [
    ['everything', {}, [1, 2, 3, 4, 5]],
    ['points', { points: ['packet.drop'] }, [1, 2]],
    ['namespaces by number', { netns: [8] }, [2, 4, 5]],
    ['namespaces by name', { netns: ['web', 'none'] }, [1, 3]],
    ['addresses', { addresses: ['10.96.0.10'] }, [1, 2]],
    ['prefixes', { addresses: ['10.0.0.0/15', 'fd00::/8'] }, [1, 2, 3, 4]],
    ['odd prefixes', { addresses: ['192.168.1.2/31'] }, [5]],
    ['ports', { ports: [443, 80] }, [1, 2, 3, 4]],
    ['all of these', { points: ['device.transmit'], netns: [8], ports: [443] }, [4]],
    ['nothing', { ports: [9] }, []],
  ];
  for (const [name, filter, expected] of cases)
    test(`by ${name} gets these records and all facts`, async () => {
      const channel = open();
      const reader = new Reader(channel, { filter });
      const other = new Reader(channel);
      channel.send(all);
      await flushed();
      assert.deepEqual(reader.seqs, [0, ...expected]);
      const got = Buffer.concat(
        reader.of('records').map((m: RecordsMessage) => Buffer.from(m.records)),
      );
      assert.deepEqual(got, Buffer.concat([0, ...expected].map((seq) => parts[seq]!)));
      assert.deepEqual(other.seqs, range(0, 6));
    });

  test('for findings only gets no records, and of these verdicts only', async () => {
    const channel = open();
    const reader = new Reader(channel, { filter: { records: false } });
    const picky = new Reader(channel, { filter: { records: false, verdicts: ['other'] } });
    channel.send(all);
    channel.finding(finding('a', 1));
    await flushed();
    assert.deepEqual(reader.seqs, []);
    assert.equal(reader.of('finding').length, 1);
    assert.equal(picky.of('finding').length, 0);
    // and can change its mind
    reader.subscriber.setFilter(null);
    channel.send({ ...all, firstSeq: 6 });
    await flushed();
    assert.deepEqual(reader.seqs, range(6, 12));
  });

  test('may pause alone', async () => {
    const channel = open();
    const reader = new Reader(channel);
    reader.subscriber.paused = true;
    channel.send(all);
    channel.finding(finding('a', 1));
    await flushed();
    assert.equal(reader.messages.length, 1);
    reader.subscriber.paused = false;
    assert.deepEqual(reader.seqs, range(0, 6));
    assert.equal(reader.of('finding').length, 1);
  });
});
