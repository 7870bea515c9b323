import { encodeFact } from '../../src/event/fact.js';
import { LAYOUT } from '../../src/event/layout.js';
import type { Batch, SessionHeader } from '../../src/session/session.js';

/** A header as a kernel's session would have it. */
export function header(changes: Partial<SessionHeader> = {}): SessionHeader {
  return {
    format: 1,
    id: 'session-1',
    node: 'node-a',
    boot: '11111111-2222-3333-4444-555555555555',
    startedAt: '2026-01-01T00:00:00.000Z',
    kernel: { release: '6.1.0', version: '#1 SMP', machine: 'x86_64', hz: 250 },
    clock: { startNs: 1_000_000_000, realtimeOffsetUs: 1_700_000_000_000_000 },
    filter: null,
    netns: null,
    plan: [{ point: 'packet.drop', mechanism: 'tracepoint', where: 'skb:kfree_skb' }],
    layout: LAYOUT,
    reasons: { '2': 'NOT_SPECIFIED' },
    ...changes,
  };
}

/** An event record at `time` (ns) with `packetLength` bytes of packet, filled from `seed`. */
export function event(time: number, packetLength = 64, seed = 0): Buffer {
  const size = (LAYOUT.packet[0] + packetLength + 7) & ~7;
  const bytes = Buffer.alloc(size, seed & 0xff);
  bytes.writeUInt32LE(size, 0);
  bytes[4] = 1;
  bytes[5] = 15;
  bytes.writeBigUInt64LE(BigInt(time), 8);
  bytes[LAYOUT.packet_length[0]] = packetLength;
  return bytes;
}

/** `count` records from `firstSeq` on, 1 µs apart; every 50th is a fact. */
export function records(firstSeq: number, count: number): Buffer {
  const parts = Array.from({ length: count }, (_, i) => {
    const seq = firstSeq + i;
    const time = 1_000_000_000 + seq * 1000;
    return seq % 50 === 0
      ? encodeFact({ fact: 'tick' }, time)
      : event(time, 40 + ((seq * 13) % 100), seq);
  });
  return Buffer.concat(parts);
}

export function batch(firstSeq: number, count: number): Batch {
  return { firstSeq, count, bytes: records(firstSeq, count) };
}

/** The same numbers in every run: mulberry32. */
export function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export interface Content {
  bytes: Buffer;
  count: number;
}

/** All records of a session in one piece; batches must follow each other. */
export async function readAll(session: AsyncIterable<Batch>): Promise<Content> {
  const parts: Buffer[] = [];
  let count = 0;
  for await (const { firstSeq, count: n, bytes } of session) {
    if (firstSeq !== count) throw new Error(`record ${count} is missing`);
    count += n;
    parts.push(bytes);
  }
  return { bytes: Buffer.concat(parts), count };
}
