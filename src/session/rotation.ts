import { readdir, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { encodeFact } from '../event/fact.js';
import { fileError } from './file-error.js';
import { FileWriter } from './file-writer.js';
import { recordTime } from './records.js';
import type { Batch, SessionHeader } from './session.js';
import { StandingFacts } from './standing-facts.js';

/** The file's name is looked at so often, and a failed recording is tried again after this, ms. */
const LOOK_MS = 1000;
const RETRY_MS = 10_000;

export interface RotationOptions {
  /** a file is closed when it is so long, bytes; Infinity: never */
  rotateBytes: number;
  /** or so old, ms; Infinity: never */
  rotateMs: number;
  /** the oldest closed files go when all together would be longer, bytes; Infinity: none goes */
  keepTotalBytes: number;
  /** told in the log */
  log: (level: 'info' | 'error', message: string, details?: Record<string, unknown>) => void;
}

/**
 * Records a session for as long as it lasts, in files of a bounded size: the newest has the name
 * given, closed ones have their time in the name. Each is a session by itself, since it begins
 * with the facts that stand. Where writing fails (a full disk) the session goes on: it is tried
 * again, and what is missing is told in the next file.
 */
export class RotatingRecorder {
  private readonly facts = new StandingFacts();
  private writer: FileWriter | null = null;
  private inode = 0;
  private openedAt = 0;
  private lookAt = 0;
  private retryAt = 0;
  /** records that could not be written */
  private missing = 0;
  private failed = false;
  private turn: Promise<void> = Promise.resolve();

  private constructor(
    readonly path: string,
    private readonly header: SessionHeader,
    private readonly options: RotationOptions,
  ) {}

  /** Begins; a file of that name is moved aside. Throws `file-unwritable`. */
  static async create(
    file: string,
    header: SessionHeader,
    options: RotationOptions,
  ): Promise<RotatingRecorder> {
    const recorder = new RotatingRecorder(file, header, options);
    try {
      await recorder.open();
    } catch (error) {
      throw fileError('file-unwritable', file, error, 'choose another place');
    }
    return recorder;
  }

  /** Never rejects; waits where the disk does not keep up. */
  write(batch: Batch): Promise<void> {
    this.turn = this.turn.then(() => this.put(batch));
    return this.turn;
  }

  async close(): Promise<void> {
    await this.turn;
    await this.finish();
  }

  private async put(batch: Batch): Promise<void> {
    const now = performance.now();
    try {
      if (!this.writer && now >= this.retryAt) await this.tryAgain(batch);
      if (this.writer && now >= this.lookAt) await this.look(now);
      if (this.writer) await this.writer.write(batch);
      else this.missing += batch.count;
    } catch (error) {
      this.missing += batch.count;
      await this.fail(error as Error);
    }
    this.facts.learn(batch);
  }

  /** Once a second: is the file still there, is it long or old enough? */
  private async look(now: number): Promise<void> {
    this.lookAt = now + LOOK_MS;
    const { rotateBytes, rotateMs, log } = this.options;
    const there = await stat(this.path).catch(() => null);
    if (there?.ino !== this.inode) {
      log('info', 'the recording was moved away: going on in a new file', { file: this.path });
      await this.finish();
      await this.open();
    } else if (this.writer!.size >= rotateBytes || now - this.openedAt >= rotateMs) {
      await this.finish();
      await this.open();
    }
  }

  private async open(): Promise<void> {
    await this.moveAside();
    await this.prune();
    try {
      this.writer = await FileWriter.create(this.path, this.header);
    } catch (error) {
      // an empty file, or half a header, is nobody's recording
      const left = await stat(this.path).catch(() => null);
      if (left?.isFile()) await rm(this.path).catch(() => undefined);
      throw error;
    }
    this.inode = (await stat(this.path).catch(() => null))?.ino ?? 0;
    this.openedAt = performance.now();
    this.lookAt = this.openedAt + LOOK_MS;
    await writeFacts(this.writer, this.facts);
  }

  private async tryAgain(next: Batch): Promise<void> {
    await this.open();
    const lost = { fact: 'lost', ring: {}, missed: { recording: this.missing } } as const;
    const record = encodeFact(lost, recordTime(next.bytes, 0));
    await this.writer!.write({ firstSeq: Math.max(0, next.firstSeq - 1), count: 1, bytes: record });
    this.options.log('info', 'recording again', { file: this.path, missing: this.missing });
    this.missing = 0;
    this.failed = false;
  }

  private async fail(error: Error): Promise<void> {
    // said once: the retries that fail are no news
    if (!this.failed) this.options.log('error', error.message, { file: this.path });
    this.failed = true;
    this.retryAt = performance.now() + RETRY_MS;
    const { writer } = this;
    this.writer = null;
    await writer?.close().catch(() => undefined);
  }

  private async finish(): Promise<void> {
    const { writer } = this;
    this.writer = null;
    try {
      await writer?.close();
    } catch (error) {
      await this.fail(error as Error);
    }
  }

  /** Nothing that was recorded is written over. */
  private async moveAside(): Promise<void> {
    const there = await stat(this.path).catch(() => null);
    if (!there?.isFile() || there.size === 0) return;
    const stamp = there.mtime.toISOString().replace(/[-:]|\.\d+/g, '');
    const { dir, name, ext } = path.parse(this.path);
    for (let n = 1; ; n++) {
      const aside = path.join(dir, `${name}.${stamp}${n > 1 ? `-${n}` : ''}${ext}`);
      if (await stat(aside).catch(() => null)) continue;
      await rename(this.path, aside);
      return;
    }
  }

  /** Deletes the oldest closed files that would not fit the total. */
  private async prune(): Promise<void> {
    const { keepTotalBytes, rotateBytes, log } = this.options;
    if (!Number.isFinite(keepTotalBytes)) return;
    const { dir, name, ext } = path.parse(this.path);
    const room = keepTotalBytes - Math.min(rotateBytes, keepTotalBytes);
    for (const file of await outgrown(dir || '.', isAside(name, ext), room)) {
      await rm(file).catch(() => undefined);
      log('info', 'an old recording was deleted', { file });
    }
  }
}

function isAside(name: string, ext: string): (file: string) => boolean {
  return (file) =>
    file.startsWith(`${name}.`) &&
    file.endsWith(ext) &&
    /^\d{8}T\d{6}Z(-\d+)?$/.test(file.slice(name.length + 1, file.length - ext.length));
}

/** The oldest of these files, so many that the others are together no longer than `maxBytes`. */
export async function outgrown(
  folder: string,
  ours: (name: string) => boolean,
  maxBytes: number,
): Promise<string[]> {
  const names = (await readdir(folder)).filter(ours);
  const files = await Promise.all(
    names.map(async (name) => {
      const file = path.join(folder, name);
      const { size, mtimeMs } = await stat(file);
      return { file, size, mtimeMs };
    }),
  );
  files.sort((a, b) => b.mtimeMs - a.mtimeMs || (a.file < b.file ? 1 : -1));
  let total = 0;
  return files.filter(({ size }) => (total += size) > maxBytes).map(({ file }) => file);
}

/** Writes facts that stand, each under its own number. */
export async function writeFacts(writer: FileWriter, facts: StandingFacts): Promise<void> {
  const { seqs, records } = facts.records();
  for (let i = 0; i < seqs.length; i++)
    await writer.write({ firstSeq: seqs[i]!, count: 1, bytes: records[i]! });
}
