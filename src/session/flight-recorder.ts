import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { fileError } from './file-error.js';
import { FileWriter } from './file-writer.js';
import { recordSize, recordTime } from './records.js';
import { outgrown, writeFacts } from './rotation.js';
import type { Batch, SessionHeader } from './session.js';
import { StandingFacts } from './standing-facts.js';

/** After a finding, what is still under way has this long to be seen, ms. */
const AFTERMATH_MS = 2000;
const NAME = /^flight-.*\.skbw$/;

export interface FlightOptions {
  /** kept in memory */
  seconds: number;
  /** at most, bytes */
  maxBytes: number;
  /** where files are written */
  folder: string;
  /** the oldest files go when all together are longer, bytes; Infinity: none goes */
  keepTotalBytes: number;
  /** told in the log */
  log: (level: 'info' | 'error', message: string, details?: Record<string, unknown>) => void;
}

interface Kept {
  batch: Batch;
  /** CLOCK_MONOTONIC, ns */
  lastTime: number;
}

/**
 * Keeps the last seconds of a session in memory and writes them to a file when there is a finding
 * or somebody asks. After a file the next one by a finding waits until all its records are new, so
 * that an outage does not fill the disk.
 */
export class FlightRecorder {
  /** what was told before the oldest record kept */
  private readonly facts = new StandingFacts();
  private kept: Kept[] = [];
  private bytes = 0;
  private timer: NodeJS.Timeout | null = null;
  private reason = '';
  private writtenAt = -Infinity;
  private writing: Promise<void> = Promise.resolve();

  private constructor(
    private readonly header: SessionHeader,
    private readonly options: FlightOptions,
  ) {}

  /** Makes the folder where it is not there. Throws `file-unwritable`. */
  static async create(header: SessionHeader, options: FlightOptions): Promise<FlightRecorder> {
    try {
      await mkdir(options.folder);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST')
        return new FlightRecorder(header, options);
      throw fileError('file-unwritable', options.folder, error, 'choose another --flight-dir');
    }
    return new FlightRecorder(header, options);
  }

  /** The batch's memory must stay as it is. */
  keep(batch: Batch): void {
    const { seconds, maxBytes } = this.options;
    if (batch.count === 0) return;
    const lastTime = latest(batch.bytes);
    this.kept.push({ batch, lastTime });
    this.bytes += batch.bytes.length;
    let gone = 0;
    while (
      gone < this.kept.length - 1 &&
      (this.bytes > maxBytes || this.kept[gone]!.lastTime < lastTime - seconds * 1e9)
    ) {
      const { batch: old } = this.kept[gone++]!;
      this.facts.learn(old);
      this.bytes -= old.bytes.length;
    }
    if (gone > 0) this.kept.splice(0, gone);
  }

  /** There is a finding: what led to it is written soon. */
  finding(verdict: string): void {
    if (this.timer) return;
    this.reason = verdict;
    const wait = this.writtenAt + this.options.seconds * 1000 - performance.now();
    this.timer = setTimeout(() => void this.dump(verdict), Math.max(wait, AFTERMATH_MS));
  }

  /** Writes what is kept now; resolves when it is on the disk, or could not be written. */
  dump(reason: string): Promise<void> {
    if (this.timer) clearTimeout(this.timer);
    this.timer = null;
    this.writtenAt = performance.now();
    // the facts are taken now: what is kept goes on changing
    const batches = this.kept.map(({ batch }) => batch);
    const facts = this.facts.copy();
    this.writing = this.writing.then(() => this.write(reason, facts, batches));
    return this.writing;
  }

  /** Writes what a finding has asked for. */
  async close(): Promise<void> {
    await (this.timer ? this.dump(this.reason) : this.writing);
  }

  private async write(
    reason: string,
    facts: StandingFacts,
    batches: readonly Batch[],
  ): Promise<void> {
    const { folder, keepTotalBytes, log } = this.options;
    const stamp = new Date().toISOString().replace(/[-:]/g, '');
    const file = path.join(folder, `flight-${stamp}-${reason.replace(/[^\w-]/g, '_')}.skbw`);
    try {
      const writer = await FileWriter.create(file, this.header);
      try {
        await writeFacts(writer, facts);
        for (const batch of batches) await writer.write(batch);
      } finally {
        await writer.close();
      }
      log('info', 'flight recording written', { file, reason });
      if (!Number.isFinite(keepTotalBytes)) return;
      for (const old of await outgrown(folder, (name) => NAME.test(name), keepTotalBytes)) {
        await rm(old);
        log('info', 'an old recording was deleted', { file: old });
      }
    } catch (error) {
      log('error', (error as Error).message, { file });
    }
  }
}

function latest(bytes: Buffer): number {
  let time = 0;
  for (let at = 0; at < bytes.length; at += recordSize(bytes, at))
    time = Math.max(time, recordTime(bytes, at));
  return time;
}
