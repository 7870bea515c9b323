import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { explain } from '../../src/cli/main-path.js';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import type { Batch, Session, SessionHeader } from '../../src/session/session.js';
import type { Recording } from './recording.js';
import { spread, type Figure } from './statistics.js';

const ONCE = fileURLToPath(new URL('explain-once.js', import.meta.url));

/** A session whose batches are in memory. */
class InMemory implements Session {
  constructor(
    readonly header: SessionHeader,
    private readonly batches: readonly Batch[],
  ) {}

  // eslint-disable-next-line @typescript-eslint/require-await -- a Session is asynchronous
  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void> {
    yield* this.batches;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** CPU time of all threads and wall time of `work`, ns. */
async function timed(work: () => Promise<void>): Promise<{ cpu: number; wall: number }> {
  const start = performance.now();
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return { cpu: (user + system) * 1000, wall: (performance.now() - start) * 1e6 };
}

/** Records explained from a file and from memory, the file written and read. */
export async function measureExplain(
  { path, faulty }: Recording,
  folder: string,
  rounds: number,
): Promise<Figure[]> {
  const recorded = await openFile(path);
  const { header } = recorded;
  const batches: Batch[] = [];
  for await (const batch of recorded) batches.push(batch);
  await recorded.close();
  const records = batches.reduce((sum, { count }) => sum + count, 0);
  const bytes = batches.reduce((sum, batch) => sum + batch.bytes.length, 0);
  const check = (findings: number) => {
    // some healthy ones may meet what a faulty one left in conntrack's table
    if (findings < faulty) throw new Error(`${findings} of ${faulty} faults were found`);
  };

  const works: { about: string; what: string; run: () => Promise<void> }[] = [
    {
      about: 'file',
      what: 'read',
      run: async () => {
        const session = await openFile(path);
        let seen = 0;
        for await (const { count } of session) seen += count;
        await session.close();
        if (seen !== records) throw new Error(`${seen} of ${records} records were read`);
      },
    },
    {
      about: 'file',
      what: 'written',
      run: async () => {
        const writer = await FileWriter.create(join(folder, 'written.skbw'), header);
        for (const batch of batches) await writer.write(batch);
        await writer.close();
      },
    },
    {
      about: 'explain',
      what: 'from memory',
      run: async () =>
        check((await explain([new InMemory(header, batches)])).report.findings.length),
    },
    {
      about: 'explain',
      what: 'from a file',
      run: async () => {
        const session = await openFile(path);
        check((await explain([session])).report.findings.length);
        await session.close();
      },
    },
  ];
  const cpu = works.map((): number[] => []);
  const wall = works.map((): number[] => []);
  const fresh: { cpu: number; memory: number }[] = [];
  for (let round = -1; round < rounds; round++) {
    for (const [i, work] of works.entries()) {
      const time = await timed(work.run);
      // one round to be compiled
      if (round < 0) continue;
      cpu[i]!.push(time.cpu);
      wall[i]!.push(time.wall);
    }
    if (round < 0) continue;
    const { stdout } = await promisify(execFile)(process.execPath, [ONCE, path]);
    const once = JSON.parse(stdout) as { cpu: number; memory: number; findings: number };
    check(once.findings);
    fresh.push(once);
  }
  const perRecord = ({ about, what }: { about: string; what: string }, i: number): Figure[] => {
    const rate = (of: number, unit: string): Figure => ({
      about,
      what,
      unit,
      value: spread(wall[i]!.map((ns) => (of * 1e9) / ns)),
    });
    return [
      { about, what, unit: 'CPU ns/record', value: spread(cpu[i]!.map((ns) => ns / records)) },
      about === 'file' ? rate(bytes / 1e6, 'MB/s of records') : rate(records, 'records/s'),
    ];
  };
  const alone = (what: string, unit: string, values: number[]): Figure => ({
    about: 'explain',
    what: `from a file, by a process of its own, ${what}`,
    unit,
    value: spread(values),
  });
  return [
    ...works.flatMap(perRecord),
    alone(
      'with its start',
      'CPU ns/record',
      fresh.map((once) => once.cpu / records),
    ),
    alone(
      'its largest memory',
      'MB',
      fresh.map((once) => once.memory / 1e6),
    ),
  ];
}
