import { constants } from 'node:fs';
import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { inflate } from 'node:zlib';
import { conversionFrom, type Conversion } from '../event/conversion.js';
import { SkbwhyError } from '../event/errors.js';
import { LAYOUT } from '../event/layout.js';
import { crc32 } from './crc32.js';
import { fileError, printable } from './file-error.js';
import {
  decodeEntry,
  decodeHead,
  decodeTrailer,
  ENTRY_BYTES,
  FORMAT,
  HEAD_BYTES,
  MAGIC,
  MAX_BLOCK_BYTES,
  MAX_HEADER_BYTES,
  PREAMBLE_BYTES,
  TRAILER_BYTES,
  type BlockHead,
} from './format.js';
import { parseHeader } from './header.js';
import { damageOf } from './records.js';
import type { Batch, Session, SessionHeader } from './session.js';

const open = promisify(fs.open);
const fstat = promisify(fs.fstat);
const close = promisify(fs.close);
const readAt = promisify(fs.read);
const inflateUpTo = promisify<Buffer, { maxOutputLength: number; chunkSize: number }, Buffer>(
  inflate,
);

/** Where a session file stops being good, and why: one line, without the file's name. */
export interface Truncation {
  /** offset in the file after the last whole block */
  atByte: number;
  message: string;
}

/** A recorded session; each iteration reads it from the start, a block at a time. */
export interface FileSession extends Session {
  readonly path: string;
  /**
   * Set when the file was cut, is still being written or is damaged: the iteration ends before
   * that place. A damaged block in the middle shows only when the iteration comes to it.
   */
  readonly truncated: Truncation | null;
  /** Share of the file that the latest iteration has given out, 0 to 1. */
  readonly progress: number;
  /** The session from the block on that holds record `seq`. */
  from(seq: number): AsyncIterableIterator<Batch>;
  /** Time of the latest record, CLOCK_MONOTONIC ns; that of the start where there is none. */
  lastTime(): Promise<number>;
}

/**
 * Opens a session file, also one that is cut or still being written: it is read up to the last
 * block that is whole now. Throws `file-unreadable` where the system refuses, `bad-session` where
 * the file is not a session.
 */
export async function openFile(path: string): Promise<FileSession> {
  let fd: number | null = null;
  try {
    // O_NONBLOCK: opening a FIFO must not wait for its writer
    fd = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const stat = await fstat(fd);
    if (!stat.isFile()) {
      const what = stat.isDirectory() ? 'a directory' : 'not a regular file';
      throw new SkbwhyError(
        'file-unreadable',
        `${printable(path)} is ${what}: give a session file`,
      );
    }
    const source = new Source(fd, path);
    const { header, end: start } = await readHeader(source);
    const { end, truncated } = await findEnd(source, start, stat.size);
    return new Reader(source, header, start, end, truncated);
  } catch (error) {
    if (fd !== null) await close(fd).catch(() => {});
    throw fileError('file-unreadable', path, error, 'check its name and permissions');
  }
}

/** Reads of the file at given places. */
class Source {
  /** of records that another version wrote */
  conversion: Conversion | null = null;
  private readonly reading = new Set<Promise<unknown>>();
  private closed = false;

  constructor(
    readonly fd: number,
    readonly path: string,
  ) {}

  /** Up to `length` bytes from `offset`; fewer only at the end of the file. */
  async read(offset: number, length: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(length);
    let done = 0;
    while (done < length) {
      if (this.closed) throw new Error('closed');
      const read = readAt(this.fd, bytes, done, length - done, offset + done);
      this.reading.add(read);
      const { bytesRead } = await read.finally(() => this.reading.delete(read));
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return bytes.subarray(0, done);
  }

  /** The head at `offset`, or null where no whole one with a sensible length stands. */
  async head(offset: number): Promise<BlockHead | null> {
    const head = decodeHead(await this.read(offset, HEAD_BYTES));
    if (head?.kind === 'block' && (head.raw > MAX_BLOCK_BYTES || head.stored > MAX_BLOCK_BYTES))
      return null;
    return head;
  }

  /** The records of the block at `offset`, or what is wrong with it. */
  async block(offset: number): Promise<{ batch: Batch; next: number } | { damage: string }> {
    const head = await this.head(offset);
    if (head?.kind !== 'block') return { damage: 'no block stands there' };
    const stored = await this.read(offset + HEAD_BYTES, head.stored);
    if (stored.length < head.stored) return { damage: 'the block is cut' };
    if (crc32(stored) !== head.crc) return { damage: 'its checksum does not match' };
    let bytes: Buffer;
    try {
      // one byte more, so that all fits the first chunk
      bytes = await inflateUpTo(stored, {
        maxOutputLength: head.raw + 1,
        chunkSize: Math.max(head.raw + 1, 64),
      });
    } catch {
      return { damage: 'it cannot be inflated' };
    }
    if (bytes.length !== head.raw) return { damage: 'its length does not match' };
    const records = this.conversion ? this.conversion(bytes) : bytes;
    const damage = records ? damageOf(records, head.count) : 'a damaged record';
    if (damage) return { damage };
    const batch = { firstSeq: head.firstSeq, count: head.count, bytes: records! };
    return { batch, next: offset + HEAD_BYTES + head.stored };
  }

  /** Closes after the reads under way: the number of a closed file may soon mean another one. */
  async close(): Promise<void> {
    this.closed = true;
    await Promise.allSettled(this.reading);
    await close(this.fd);
  }
}

async function readHeader(source: Source): Promise<{ header: SessionHeader; end: number }> {
  const notSession = (why: string) =>
    new SkbwhyError(
      'bad-session',
      `${printable(source.path)} is not a session that can be read (${why}): give a file that ` +
        'skbwhy record wrote',
    );
  const preamble = await source.read(0, PREAMBLE_BYTES);
  if (preamble.length === 0) throw notSession('it is empty');
  const magic = preamble.subarray(0, MAGIC.length);
  if (!magic.equals(MAGIC.subarray(0, magic.length))) throw notSession('it begins otherwise');
  if (preamble.length < PREAMBLE_BYTES) throw notSession('it was cut inside its header');
  const format = preamble.readUInt32LE(8);
  const length = preamble.readUInt32LE(12);
  if (format !== FORMAT) throw notSession(`its format ${format} is not known to this version`);
  if (length > MAX_HEADER_BYTES) throw notSession('its header is damaged');
  const json = await source.read(PREAMBLE_BYTES, length);
  if (json.length < length) throw notSession('it was cut inside its header');
  if (crc32(json, crc32(preamble.subarray(8, 16))) !== preamble.readUInt32LE(16))
    throw notSession('its header is damaged');
  try {
    const header = parseHeader(json.toString());
    source.conversion = conversionFrom(header.layout);
    header.layout = LAYOUT;
    return { header, end: PREAMBLE_BYTES + length };
  } catch (error) {
    throw notSession(printable((error as Error).message));
  }
}

/** Where the blocks end: told by the trailer, else found by walking from head to head. */
async function findEnd(
  source: Source,
  start: number,
  size: number,
): Promise<{ end: number; truncated: Truncation | null }> {
  const trailer = size - TRAILER_BYTES;
  if (trailer >= start) {
    const index = decodeTrailer(await source.read(trailer, TRAILER_BYTES));
    const head = index !== null && index >= start ? await source.head(index) : null;
    if (index !== null && head?.kind === 'index' && index + HEAD_BYTES + head.stored === trailer)
      return { end: index, truncated: null };
  }
  let end = start;
  let last: number | null = null;
  for (;;) {
    const head = await source.head(end);
    if (head?.kind !== 'block' || end + HEAD_BYTES + head.stored > size) break;
    last = end;
    end += HEAD_BYTES + head.stored;
  }
  // A crash of the machine can leave a block's place without its bytes.
  if (last !== null && 'damage' in (await source.block(last))) end = last;
  const message =
    'it has no end mark (it was cut, or is still being written): ' +
    `read up to its last whole block, byte ${end} of ${size}`;
  return { end, truncated: { atByte: end, message } };
}

class Reader implements FileSession {
  private closed = false;
  private position = 0;

  constructor(
    private readonly source: Source,
    readonly header: SessionHeader,
    private readonly start: number,
    private readonly end: number,
    public truncated: Truncation | null,
  ) {}

  get path(): string {
    return this.source.path;
  }

  get progress(): number {
    return this.end === 0 ? 1 : this.position / this.end;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Batch> {
    return this.blocks(this.start);
  }

  async *from(seq: number): AsyncIterableIterator<Batch> {
    yield* this.blocks(await this.find(seq));
  }

  async lastTime(): Promise<number> {
    let last = this.header.clock.startNs;
    for (let offset = this.start; offset < this.end;) {
      const head = await this.source.head(offset);
      if (head?.kind !== 'block') break;
      last = Math.max(last, head.lastTime);
      offset += HEAD_BYTES + head.stored;
    }
    return last;
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.source.close();
  }

  /** Reads one block ahead of the one that the consumer works on. */
  private async *blocks(start: number): AsyncIterableIterator<Batch> {
    const read = (offset: number) => {
      if (this.closed || offset >= this.end) return null;
      const block = this.source.block(offset);
      block.catch(() => {}); // seen when its turn comes, if ever
      return block;
    };
    let offset = start;
    try {
      for (let ahead = read(offset); ahead;) {
        const block = await ahead;
        if ('damage' in block) {
          const message = `it is damaged at byte ${offset} (${block.damage}): read up to there`;
          this.truncated = { atByte: offset, message };
          return;
        }
        offset = block.next;
        this.position = offset;
        ahead = read(offset);
        yield block.batch;
        if (this.closed) return;
      }
    } catch (error) {
      if (this.closed) return;
      throw fileError('file-unreadable', this.path, error, 'what was read until there is good');
    }
  }

  /** Offset of the block that holds record `seq`, by bisecting the index or walking the heads. */
  private async find(seq: number): Promise<number> {
    const index = this.truncated ? null : await this.source.head(this.end);
    if (index?.kind !== 'index') return this.walk(seq);
    const entry = async (i: number) => {
      const bytes = await this.source.read(this.end + HEAD_BYTES + i * ENTRY_BYTES, ENTRY_BYTES);
      return bytes.length === ENTRY_BYTES ? decodeEntry(bytes, 0) : null;
    };
    let low = 0;
    let high = index.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      const found = await entry(middle);
      if (!found) return this.walk(seq);
      if (found.firstSeq + found.count > seq) high = middle;
      else low = middle + 1;
    }
    const found = low < index.count ? await entry(low) : null;
    if (!found) return this.end;
    const head = await this.source.head(found.offset);
    return head?.firstSeq === found.firstSeq ? found.offset : this.walk(seq);
  }

  private async walk(seq: number): Promise<number> {
    let offset = this.start;
    while (offset < this.end) {
      const head = await this.source.head(offset);
      if (head?.kind !== 'block' || head.firstSeq + head.count > seq) break;
      offset += HEAD_BYTES + head.stored;
    }
    return offset;
  }
}
