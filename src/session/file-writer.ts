import { open, type FileHandle } from 'node:fs/promises';
import { promisify } from 'node:util';
import { deflate } from 'node:zlib';
import { SkbwhyError } from '../event/errors.js';
import { crc32 } from './crc32.js';
import { fileError } from './file-error.js';
import {
  encodeEntry,
  encodeHead,
  encodePreamble,
  encodeTrailer,
  ENTRY_BYTES,
  MAX_BLOCK_BYTES,
  type BlockEntry,
} from './format.js';
import { MIN_RECORD_BYTES, recordSize, recordTime } from './records.js';
import type { Batch, SessionHeader } from './session.js';

const compress = promisify<Buffer, { level: number }, Buffer>(deflate);

/** Raw bytes of a block: what deflate's window and one read of the disk are content with. */
const BLOCK_BYTES = 256 << 10;
/** A block is sealed at the latest so long after its first record, ms. */
const SEAL_AFTER = 500;
/** Blocks on their way to the disk before `write` asks to wait. */
const MAX_PENDING = 16;
/** What a crash of the whole machine may cost besides: bytes between two fdatasync calls. */
const SYNC_BYTES = 1 << 20;

/** A block being filled. */
class Block {
  bytes = Buffer.allocUnsafe(BLOCK_BYTES);
  used = 0;
  firstSeq = 0;
  count = 0;
  firstTime = Infinity;
  lastTime = -Infinity;
}

/**
 * Writes a session file. Records are copied, gathered into blocks, compressed by the thread pool
 * and appended in order; a block waits half a second at most, so that a killed process loses no
 * more than its last second. The file can be read while it grows.
 */
export class FileWriter {
  private block = new Block();
  private readonly spare: Block[] = [];
  private timer: NodeJS.Timeout | null = null;
  private pending = 0;
  private tail: Promise<void> = Promise.resolve();
  private failure: SkbwhyError | null = null;
  private closing: Promise<void> | null = null;
  private readonly index: BlockEntry[] = [];
  private unsynced = 0;

  private constructor(
    private readonly file: FileHandle,
    readonly path: string,
    private offset: number,
  ) {}

  /** Bytes in the file by now. */
  get size(): number {
    return this.offset;
  }

  /** Creates the file, or empties it. Throws `file-unwritable`. */
  static async create(path: string, header: SessionHeader): Promise<FileWriter> {
    const preamble = encodePreamble(Buffer.from(JSON.stringify(header)));
    let file: FileHandle | null = null;
    try {
      file = await open(path, 'w');
      await writeAll(file, preamble, 0);
      return new FileWriter(file, path, preamble.length);
    } catch (error) {
      await file?.close().catch(() => {});
      throw fileError('file-unwritable', path, error, 'choose another place');
    }
  }

  /**
   * Takes the batch at once (its memory may be used again after the call); the promise asks the
   * caller to wait where the disk does not keep up. Rejects with `file-unwritable`, once and for
   * all: what was written until then stays readable.
   */
  async write(batch: Batch): Promise<void> {
    if (this.failure) throw this.failure;
    if (this.closing) throw new Error('the session file is closed');
    this.take(batch);
    while (this.pending > MAX_PENDING && !this.failure) await this.tail;
    if (this.failure) throw this.failure as SkbwhyError;
  }

  /** Writes what is left and the index. Rejects with `file-unwritable`; the file is closed then too. */
  close(): Promise<void> {
    this.closing ??= this.finish();
    return this.closing;
  }

  private take({ bytes, firstSeq }: Batch): void {
    // A gap in the numbers begins a new block: within one they are counted from its first.
    if (firstSeq !== this.block.firstSeq + this.block.count) {
      this.seal();
      this.block.firstSeq = firstSeq;
    }
    let start = 0;
    for (let at = 0; at < bytes.length;) {
      const size = recordSize(bytes, at);
      if (size < MIN_RECORD_BYTES || size > MAX_BLOCK_BYTES || at + size > bytes.length)
        throw new RangeError(`a record of ${size} bytes does not fit a session file`);
      if (this.block.used + (at - start) + size > this.block.bytes.length) {
        this.copy(bytes, start, at);
        start = at;
        this.seal();
        if (size > this.block.bytes.length) this.block.bytes = Buffer.allocUnsafe(size);
      }
      const time = recordTime(bytes, at);
      if (time < this.block.firstTime) this.block.firstTime = time;
      if (time > this.block.lastTime) this.block.lastTime = time;
      this.block.count++;
      at += size;
    }
    this.copy(bytes, start, bytes.length);
    if (this.block.count > 0) this.timer ??= setTimeout(() => this.seal(), SEAL_AFTER);
  }

  private copy(bytes: Buffer, start: number, end: number): void {
    bytes.copy(this.block.bytes, this.block.used, start, end);
    this.block.used += end - start;
  }

  /** Sends the block being filled on its way to the disk. */
  private seal(): void {
    if (this.timer) clearTimeout(this.timer);
    this.timer = null;
    const block = this.block;
    if (block.count === 0) return;
    this.block = this.spare.pop() ?? new Block();
    this.block.firstSeq = block.firstSeq + block.count;
    this.pending++;
    const stored = compress(block.bytes.subarray(0, block.used), { level: 1 });
    stored.catch(() => {}); // seen below, in its turn
    this.tail = this.tail.then(async () => {
      try {
        if (!this.failure) await this.append(block, await stored);
      } catch (error) {
        await this.fail(error);
      } finally {
        await stored.catch(() => {}); // the memory is free only now
        this.pending--;
        this.recycle(block);
      }
    });
  }

  private recycle(block: Block): void {
    if (block.bytes.length > BLOCK_BYTES || this.spare.length >= MAX_PENDING) return;
    block.used = block.count = 0;
    block.firstTime = Infinity;
    block.lastTime = -Infinity;
    this.spare.push(block);
  }

  private async append(block: Block, stored: Buffer): Promise<void> {
    const { firstSeq, count, used: raw, firstTime, lastTime } = block;
    const head = encodeHead({
      kind: 'block',
      stored: stored.length,
      raw,
      count,
      firstSeq,
      firstTime,
      lastTime,
      crc: crc32(stored),
    });
    const offset = this.offset;
    await this.put(Buffer.concat([head, stored]));
    this.index.push({ offset, firstSeq, count, raw, firstTime, lastTime });
    if (this.unsynced >= SYNC_BYTES) await this.sync();
  }

  private async put(bytes: Buffer): Promise<void> {
    await writeAll(this.file, bytes, this.offset);
    this.offset += bytes.length;
    this.unsynced += bytes.length;
  }

  private async sync(): Promise<void> {
    this.unsynced = 0;
    try {
      await this.file.datasync();
    } catch (error) {
      // pipes and devices have nothing to sync
      if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
    }
  }

  private async finish(): Promise<void> {
    this.seal();
    await this.tail;
    try {
      if (!this.failure) await this.putIndex();
    } catch (error) {
      await this.fail(error);
    }
    await this.file.close().catch((error: unknown) => this.fail(error));
    if (this.failure) throw this.failure;
  }

  private async putIndex(): Promise<void> {
    const offset = this.offset;
    const entries = Buffer.alloc(this.index.length * ENTRY_BYTES);
    this.index.forEach((entry, i) => encodeEntry(entry, entries, i * ENTRY_BYTES));
    const head = encodeHead({
      kind: 'index',
      stored: entries.length,
      raw: entries.length,
      count: this.index.length,
      firstSeq: 0,
      firstTime: 0,
      lastTime: 0,
      crc: crc32(entries),
    });
    await this.put(Buffer.concat([head, entries, encodeTrailer(offset)]));
    await this.sync();
  }

  /** Remembers the first failure and cuts off what it left behind the last whole block. */
  private async fail(error: unknown): Promise<void> {
    this.failure ??= fileError(
      'file-unwritable',
      this.path,
      error,
      'what was written until now stays readable; make room or choose another place',
    );
    await this.file.truncate(this.offset).catch(() => {});
  }
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}
