import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { batch, header, readAll } from './session-records.js';

let folder: string;
before(() => (folder = mkdtempSync(join(tmpdir(), 'skbwhy-session-'))));
after(() => rmSync(folder, { recursive: true }));

describe('a long session', () => {
  /** Writes and reads back `count` records; gives the most memory the process had, bytes. */
  async function peak(count: number): Promise<number> {
    const path = join(folder, 'long.skbw');
    const size = 1000;
    const template = batch(0, size);
    const writer = await FileWriter.create(path, header());
    let most = 0;
    const look = () => (most = Math.max(most, process.memoryUsage.rss()));
    for (let seq = 0; seq < count; seq += size) {
      await writer.write({ ...template, firstSeq: seq });
      look();
    }
    await writer.close();
    const session = await openFile(path);
    let read = 0;
    for await (const each of session) {
      read += each.count;
      look();
    }
    await session.close();
    assert.equal(read, count);
    return most;
  }

  test('of a million records takes no more memory than one of a hundred thousand', async () => {
    const small = await peak(100_000);
    const large = await peak(1_000_000);
    assert.ok(large < small * 1.5, `${large} bytes against ${small}`);
  });
});

describe('a killed process', () => {
  test('loses no more than its last second of the session', async () => {
    const path = join(folder, 'killed.skbw');
    const writer = spawn(process.execPath, [
      join(import.meta.dirname, 'session-writer-process.js'),
      path,
    ]);
    const written: { at: number; count: number }[] = [];
    writer.stdout.setEncoding('utf8').on('data', (text: string) => {
      for (const line of text.trim().split('\n')) {
        const [at, count] = line.split(' ').map(Number);
        written.push({ at: at!, count: count! });
      }
      if (written.at(-1)!.at - written[0]!.at > 2500) writer.kill('SIGKILL');
    });
    await new Promise((done) => writer.on('close', done));
    const session = await openFile(path);
    const { count } = await readAll(session);
    await session.close();
    const lastSecond = written.findLast(({ at }) => at <= written.at(-1)!.at - 1000);
    assert.ok(count >= lastSecond!.count, `${count} of ${written.at(-1)!.count} records`);
    assert.ok(session.truncated);
  });
});
