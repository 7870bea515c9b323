import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { fileURLToPath } from 'node:url';
import { runInNewContext } from 'node:vm';
import { AT, Cursor } from '../../src/event/cursor.js';
import { Headers } from '../../src/event/headers.js';
import { Point } from '../../src/event/point.js';
import { Explainer } from '../../src/explain/explainer.js';
import { loadFaults } from '../../src/faults/registry.js';
import type { SessionHeader } from '../../src/session/session.js';
import { Copies, recordsOf } from './copies.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
const diagnosers = (await loadFaults()).map((fault) => fault.diagnoser);

const sessionOf = (verdict: string) =>
  recordsOf(fileURLToPath(new URL(`../../../src/faults/${verdict}/session.skbw`, import.meta.url)));

/** Bytes in use. */
async function inUse(): Promise<number> {
  collect();
  // what buffers had outside of the heap goes behind them
  await setImmediate();
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

describe('the explainer’s memory', () => {
  test('does not grow with the length of the session', async () => {
    const recorded = await sessionOf('double-snat');
    const explainer = new Explainer(recorded.header, diagnosers);
    // the findings that are kept, a thousand, are there by then
    const [warm, end] = [1100, 2000];
    let before = 0;
    let copies = 0;
    const session = new Copies(recorded, end, 60e9);
    for await (const batch of session) {
      explainer.feed(batch);
      explainer.takeUnexplained();
      if (++copies === warm) before = await inUse();
    }
    const grown = (await inUse()) - before;
    assert.ok(session.records > 100_000);
    assert.ok(grown < 4e6, `${Math.round(grown / 1e6)} MB more`);
    explainer.finish();
    const { findings, omitted, unexplained, lost } = explainer.report();
    assert.deepEqual([findings.length, omitted.findings, unexplained.length], [1000, 1000, 0]);
    assert.equal(lost.exchanges, 0);
  });
});

/** SYNs of connects that nobody answers, made from one that was recorded. */
class Unanswered {
  private readonly bytes: Buffer;
  private readonly headers = new Headers();
  private readonly seqAt: number;
  private readonly portAt: number;

  constructor(recorded: { header: SessionHeader; bytes: Buffer }) {
    const cursor = new Cursor().reset(recorded.bytes, 0);
    const isSyn = (): boolean =>
      cursor.isEvent &&
      cursor.point === Point['device.transmit'] &&
      this.headers.parse(cursor.bytes, cursor.base + AT.packet, cursor.packetLength, false) &&
      this.headers.flow.flags === 2 &&
      cursor.ct === 0;
    while (cursor.next()) if (isSyn()) break;
    this.bytes = Buffer.from(recorded.bytes.subarray(cursor.base, cursor.base + cursor.size));
    this.headers.parse(this.bytes, AT.packet, this.bytes[AT.packet_length]!, false);
    this.portAt = this.headers.flow.l4;
    this.seqAt = this.portAt + 4;
    // no socket: what a node sees of somebody else's connects
    this.bytes.writeBigUInt64LE(0n, AT.sock);
  }

  /** The SYN of connect `n`, at a time in ns; a repeat has another IP identification. */
  syn(n: number, time: number, repeat = 0): Buffer {
    const syn = Buffer.from(this.bytes);
    const { flow } = this.headers;
    syn.writeUInt16BE(1 + repeat, flow.l3 + 4);
    syn.writeUInt16BE(1024 + (n % 60_000), this.portAt);
    syn.writeUInt32BE(1_000_000 + n, this.seqAt);
    syn.writeBigUInt64LE(BigInt(Math.round(time)), AT.time);
    return syn;
  }
}

const portOf = (n: number): string => `:${1024 + (n % 60_000)}`;

describe('a budget of exchanges', () => {
  test('holds the memory down, and the oldest healthy ones are forgotten first, never one with a finding', async () => {
    const recorded = await sessionOf('lost-on-the-wire');
    const budget = 1000;
    const many = 200_000;
    const explainer = new Explainer(recorded.header, diagnosers, { maxExchanges: budget });
    const unanswered = new Unanswered(await sessionOf('no-listener'));
    const { startNs } = recorded.header.clock;
    const at = (ms: number): number => startNs + ms * 1e6;
    let seq = 0;
    const feed = (bytes: Buffer) => explainer.feed({ firstSeq: seq++, count: 1, bytes });
    // twenty that repeat: something is wrong with them
    const repeating = Array.from({ length: 20 }, (_, n) => n);
    for (const n of repeating) feed(unanswered.syn(n, at(n)));
    for (const n of repeating) feed(unanswered.syn(n, at(1000 + n), 1));
    for (let n = 20; n < many / 10; n++) feed(unanswered.syn(n, at(1100 + n / 1000)));
    const before = await inUse();
    for (let n = many / 10; n < many; n++) feed(unanswered.syn(n, at(1100 + n / 1000)));
    const grown = (await inUse()) - before;
    assert.ok(grown < 2e6, `${Math.round(grown / 1e6)} MB more`);
    // those that are left repeat; of the others nothing is known any more
    const left = Array.from({ length: budget - 20 }, (_, i) => many - (budget - 20) + i);
    for (const n of left) feed(unanswered.syn(n, at(2500), 1));
    explainer.finish();
    const { findings, unexplained, omitted, lost } = explainer.report();
    assert.deepEqual(findings, []);
    assert.equal(lost.exchanges, many - budget);
    assert.equal(omitted.unexplained, 0);
    assert.deepEqual(
      unexplained.map(({ subject }) => subject.client.replace(/.*:/, ':')).sort(),
      [...repeating, ...left].map(portOf).sort(),
    );
    assert.ok(unexplained.every(({ attempts }) => attempts.length === 2));
  });

  test('an exchange with a finding outlives any number of others', async () => {
    const { header, bytes } = await sessionOf('double-snat');
    const budget = 100;
    const explainer = new Explainer(header, diagnosers, { maxExchanges: budget });
    const unanswered = new Unanswered(await sessionOf('no-listener'));
    const cursor = new Cursor().reset(bytes, 0);
    let seq = 0;
    let flooded = false;
    while (cursor.next()) {
      const record = bytes.subarray(cursor.base, cursor.base + cursor.size);
      const found = explainer.feed({ firstSeq: seq++, count: 1, bytes: record });
      if (flooded || found.length === 0) continue;
      flooded = true;
      assert.equal(found[0]?.outcome, 'pending');
      for (let n = 0; n < 50_000; n++)
        explainer.feed({ firstSeq: seq++, count: 1, bytes: unanswered.syn(n, cursor.time) });
    }
    explainer.finish();
    const { findings, lost } = explainer.report();
    assert.ok(flooded);
    assert.equal(lost.exchanges, 50_000 - budget + 1);
    assert.deepEqual(
      findings.map(({ verdict, outcome }) => [verdict, outcome]),
      [['double-snat', 'recovered']],
    );
  });
});
