import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SkbwhyError } from '../../src/event/errors.js';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { event, header, readAll } from '../unit/session-records.js';

const skip = process.getuid?.() === 0 ? false : 'needs root, to mount a small file system';

describe('a disk that becomes full', { skip }, () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'skbwhy-full-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder]);
  });
  after(() => {
    execFileSync('umount', [folder]);
    rmdirSync(folder);
  });

  test('ends the writing with one line, and what was written stays readable', async () => {
    const path = join(folder, 'full.skbw');
    const writer = await FileWriter.create(path, header());
    let written = 0;
    const fill = async () => {
      for (;;) {
        const record = event(written, 184);
        randomFillSync(record, 96);
        await writer.write({ firstSeq: written++, count: 1, bytes: record });
        if (written % 500 === 0) await new Promise(setImmediate);
      }
    };
    const isFull = (error: unknown) => {
      assert.ok(error instanceof SkbwhyError, String(error));
      assert.equal(error.code, 'file-unwritable');
      assert.match(
        error.message,
        /full\.skbw cannot be written \(ENOSPC: no space left on device\)/,
      );
      return true;
    };
    await assert.rejects(fill(), isFull);
    await assert.rejects(writer.close(), isFull);
    const session = await openFile(path);
    const { count } = await readAll(session);
    await session.close();
    assert.ok(count > 1000 && count < written, `${count} of ${written} records`);
    assert.ok(session.truncated);
  });
});
