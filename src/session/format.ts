import { crc32 } from './crc32.js';

/**
 * The session file, `.skbw`. All numbers are little-endian, times are CLOCK_MONOTONIC in ns.
 *
 *     preamble  magic (8 bytes), u32 format, u32 length, u32 CRC of these two and of the JSON
 *               the session's header: JSON, UTF-8, `length` bytes
 *     block     head (48 bytes), `stored` bytes: whole records, deflated by zlib
 *     ...
 *     index     head (48 bytes, another mark), `stored` bytes: one entry (40 bytes) for each block
 *     trailer   u64 offset of the index, u32 CRC of it, u32 mark (16 bytes)
 *
 * A file without a valid trailer was cut or is still being written: its blocks up to the last
 * whole one are good, each proves itself.
 */
export const MAGIC = Buffer.from('\x89SKBWHY\n', 'latin1');
export const FORMAT = 1;
export const PREAMBLE_BYTES = 20;
export const HEAD_BYTES = 48;
export const ENTRY_BYTES = 40;
export const TRAILER_BYTES = 16;

/** Limits, so that a hostile file cannot make a reader allocate more than this at once. */
export const MAX_HEADER_BYTES = 4 << 20;
export const MAX_BLOCK_BYTES = 16 << 20;

const BLOCK_MARK = 0x4b4c4253; // SBLK
const INDEX_MARK = 0x58444953; // SIDX
const TRAILER_MARK = 0x444e4553; // SEND

/** What the head of a block, or of the index, says of what follows it. */
export interface BlockHead {
  kind: 'block' | 'index';
  /** bytes in the file after the head */
  stored: number;
  /** bytes of the records, inflated; of an index the same as `stored` */
  raw: number;
  /** records; of an index: entries */
  count: number;
  /** running number of the first record; of an index, here and below: 0 */
  firstSeq: number;
  /** earliest and latest record */
  firstTime: number;
  lastTime: number;
  /** CRC of the stored bytes */
  crc: number;
}

/** One block as the index knows it. */
export interface BlockEntry {
  /** of its head, from the start of the file */
  offset: number;
  firstSeq: number;
  count: number;
  raw: number;
  firstTime: number;
  lastTime: number;
}

/** Encodes the preamble with the header's JSON after it. */
export function encodePreamble(json: Buffer): Buffer {
  const bytes = Buffer.alloc(PREAMBLE_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(FORMAT, 8);
  bytes.writeUInt32LE(json.length, 12);
  bytes.writeUInt32LE(crc32(json, crc32(bytes.subarray(8, 16))), 16);
  return Buffer.concat([bytes, json]);
}

export function encodeHead(head: BlockHead): Buffer {
  const bytes = Buffer.allocUnsafe(HEAD_BYTES);
  bytes.writeUInt32LE(head.kind === 'block' ? BLOCK_MARK : INDEX_MARK, 0);
  bytes.writeUInt32LE(head.stored, 4);
  bytes.writeUInt32LE(head.raw, 8);
  bytes.writeUInt32LE(head.count, 12);
  writeU64(bytes, head.firstSeq, 16);
  writeU64(bytes, head.firstTime, 24);
  writeU64(bytes, head.lastTime, 32);
  bytes.writeUInt32LE(head.crc, 40);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 44)), 44);
  return bytes;
}

/** The head at the start of `bytes`, or null where none stands or it is damaged. */
export function decodeHead(bytes: Buffer): BlockHead | null {
  if (bytes.length < HEAD_BYTES) return null;
  const mark = bytes.readUInt32LE(0);
  if (mark !== BLOCK_MARK && mark !== INDEX_MARK) return null;
  if (bytes.readUInt32LE(44) !== crc32(bytes.subarray(0, 44))) return null;
  return {
    kind: mark === BLOCK_MARK ? 'block' : 'index',
    stored: bytes.readUInt32LE(4),
    raw: bytes.readUInt32LE(8),
    count: bytes.readUInt32LE(12),
    firstSeq: readU64(bytes, 16),
    firstTime: readU64(bytes, 24),
    lastTime: readU64(bytes, 32),
    crc: bytes.readUInt32LE(40),
  };
}

export function encodeEntry(entry: BlockEntry, bytes: Buffer, at: number): void {
  writeU64(bytes, entry.offset, at);
  writeU64(bytes, entry.firstSeq, at + 8);
  bytes.writeUInt32LE(entry.count, at + 16);
  bytes.writeUInt32LE(entry.raw, at + 20);
  writeU64(bytes, entry.firstTime, at + 24);
  writeU64(bytes, entry.lastTime, at + 32);
}

export function decodeEntry(bytes: Buffer, at: number): BlockEntry {
  return {
    offset: readU64(bytes, at),
    firstSeq: readU64(bytes, at + 8),
    count: bytes.readUInt32LE(at + 16),
    raw: bytes.readUInt32LE(at + 20),
    firstTime: readU64(bytes, at + 24),
    lastTime: readU64(bytes, at + 32),
  };
}

export function encodeTrailer(indexOffset: number): Buffer {
  const bytes = Buffer.allocUnsafe(TRAILER_BYTES);
  writeU64(bytes, indexOffset, 0);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 8)), 8);
  bytes.writeUInt32LE(TRAILER_MARK, 12);
  return bytes;
}

/** Offset of the index, or null where `bytes` is no trailer. */
export function decodeTrailer(bytes: Buffer): number | null {
  if (bytes.length !== TRAILER_BYTES || bytes.readUInt32LE(12) !== TRAILER_MARK) return null;
  if (bytes.readUInt32LE(8) !== crc32(bytes.subarray(0, 8))) return null;
  return readU64(bytes, 0);
}

const HIGH = 2 ** 32;

function writeU64(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32LE(value % HIGH, at);
  bytes.writeUInt32LE(Math.min(Math.floor(value / HIGH), HIGH - 1), at + 4);
}

function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * HIGH;
}
