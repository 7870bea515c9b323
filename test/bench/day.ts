/**
 * `node dist/test/bench/day.js SESSION RECORDS FOLDER`: writes a session as long as a day, of so many
 * records, by repeating a recorded one, and explains it in a process of its own; says, as JSON, what
 * that took and how much memory it had resident meanwhile.
 */
import { execFile, type ExecFileException } from 'node:child_process';
import { readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FileWriter } from '../../src/session/file-writer.js';
import { Copies, recordsOf } from '../replay/copies.js';

const ONCE = fileURLToPath(new URL('explain-once.js', import.meta.url));
const DAY_NS = 86_400e9;
const SAMPLE_MS = 500;

const [session = '', records = '', folder = ''] = process.argv.slice(2);
const recorded = await recordsOf(session);
const each = new Copies(recorded, 1, 0).records;
const count = Math.ceil(Number(records) / each);
const day = new Copies(recorded, count, DAY_NS / count);
const path = join(folder, 'day.skbw');
const writer = await FileWriter.create(path, day.header);
for await (const batch of day) await writer.write({ ...batch, bytes: Buffer.from(batch.bytes) });
await writer.close();

/** MB resident, by time */
const resident: number[] = [];
const start = performance.now();
const result = await new Promise<string>((resolve, reject) => {
  const child = execFile(
    process.execPath,
    [ONCE, path],
    (error: ExecFileException | null, stdout: string) => {
      clearInterval(timer);
      if (error) reject(new Error(error.message, { cause: error }));
      else resolve(stdout);
    },
  );
  const timer = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'latin1');
      resident.push(Math.round(Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) / 1024));
    } catch {
      // it has ended
    }
  }, SAMPLE_MS);
});
const seconds = (performance.now() - start) / 1000;
const parsed = JSON.parse(result) as { records: number };
process.stdout.write(
  `${JSON.stringify({
    ...parsed,
    fileBytes: statSync(path).size,
    seconds,
    recordsPerSecond: Math.round(parsed.records / seconds),
    residentMB: resident.filter((_, i) => i % Math.ceil(resident.length / 20) === 0),
  })}\n`,
);
rmSync(path);
