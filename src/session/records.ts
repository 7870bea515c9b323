import { RECORD_EVENT, RECORD_FACT } from '../event/fact.js';
import { LAYOUT } from '../event/layout.js';
import { Point } from '../event/point.js';

const HIGH = 2 ** 32;
const FACT_HEAD = 24;
/** The smallest record, bytes; all sizes are multiples of 8. */
export const MIN_RECORD_BYTES = FACT_HEAD;
const EVENT_HEAD = LAYOUT.packet[0];
const PACKET_LENGTH = LAYOUT.packet_length[0];
const SOCKET_END = LAYOUT['socket.rto'][0] + LAYOUT['socket.rto'][1];

/** Bytes of the record at `offset`. */
export function recordSize(bytes: Buffer, offset: number): number {
  return bytes.readUInt32LE(offset);
}

/** Time of the record at `offset`: CLOCK_MONOTONIC, ns; a double, as Cursor has it. */
export function recordTime(bytes: Buffer, offset: number): number {
  return bytes.readUInt32LE(offset + 8) + bytes.readUInt32LE(offset + 12) * HIGH;
}

/**
 * What is wrong with the records that should fill `bytes`, or null: sizes that do not add up,
 * events without room for what they say they hold, facts that are not JSON objects.
 * Records of a kind not known here only need to have a size.
 */
export function damageOf(bytes: Buffer, count: number): string | null {
  let offset = 0;
  let seen = 0;
  while (offset < bytes.length) {
    const left = bytes.length - offset;
    const size = left < FACT_HEAD ? 0 : recordSize(bytes, offset);
    if (size < FACT_HEAD || size > left || size % 8 !== 0) return 'a record with a wrong size';
    const kind = bytes[offset + 4];
    if (kind === RECORD_EVENT && !eventFits(bytes, offset, size)) return 'an event cut short';
    if (kind === RECORD_FACT && !isFact(bytes, offset, size)) return 'a fact that is not one';
    offset += size;
    seen++;
  }
  return seen === count ? null : 'another number of records than announced';
}

function eventFits(bytes: Buffer, offset: number, size: number): boolean {
  if (size < EVENT_HEAD) return false;
  const point = bytes[offset + 5];
  if (point === Point['socket.state'] || point === Point['tcp.retransmit'])
    return size >= SOCKET_END;
  return size >= EVENT_HEAD + bytes[offset + PACKET_LENGTH]!;
}

function isFact(bytes: Buffer, offset: number, size: number): boolean {
  const length = bytes.readUInt32LE(offset + 16);
  if (length > size - FACT_HEAD) return false;
  try {
    const start = offset + FACT_HEAD;
    const fact: unknown = JSON.parse(bytes.toString('utf8', start, start + length));
    return typeof fact === 'object' && fact !== null && 'fact' in fact;
  } catch {
    return false;
  }
}
