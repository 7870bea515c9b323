import { open, stat, type FileHandle } from 'node:fs/promises';
import { SkbwhyError } from '../event/errors.js';
import { fileError, printable } from '../session/file-error.js';

/** Bytes gathered before they are written. */
const CHUNK_BYTES = 256 << 10;

/** Where an export goes: a file, or standard output for `-`. Nothing piles up: writes are awaited. */
export class Output {
  private parts: Buffer[] = [];
  private gathered = 0;

  private constructor(
    private readonly path: string,
    private readonly file: FileHandle | null,
  ) {}

  /**
   * Creates the file, or empties it. Throws `file-unwritable`, also where `path` is the file
   * `source` that is being read.
   */
  static async open(path: string, source: string): Promise<Output> {
    if (path === '-') return new Output(path, null);
    if (await isSameFile(path, source))
      throw new SkbwhyError(
        'file-unwritable',
        `${printable(path)} cannot be written (it is the session to be exported): give another name`,
      );
    try {
      return new Output(path, await open(path, 'w'));
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  /** Takes bytes; wait when there is a promise. */
  write(bytes: Buffer): Promise<void> | null {
    this.parts.push(bytes);
    this.gathered += bytes.length;
    return this.gathered >= CHUNK_BYTES ? this.flush() : null;
  }

  async flush(): Promise<void> {
    const bytes = Buffer.concat(this.parts, this.gathered);
    this.parts = [];
    this.gathered = 0;
    if (bytes.length === 0) return;
    if (this.file) {
      try {
        await this.file.writeFile(bytes);
      } catch (error) {
        throw unwritable(this.path, error);
      }
    } else await writeToStdout(bytes);
  }

  async close(): Promise<void> {
    await this.file?.close();
  }
}

function unwritable(path: string, error: unknown): SkbwhyError {
  return fileError('file-unwritable', path, error, 'check its folder, permissions and free space');
}

/** The reader may go before the end: that is the command line's to judge. */
function writeToStdout(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) =>
    process.stdout.write(bytes, (error) => {
      if (!error) resolve();
      else if ((error as NodeJS.ErrnoException).code !== 'EPIPE')
        reject(unwritable('standard output', error));
    }),
  );
}

async function isSameFile(a: string, b: string): Promise<boolean> {
  try {
    const [x, y] = await Promise.all([stat(a), stat(b)]);
    return x.dev === y.dev && x.ino === y.ino;
  } catch {
    return false; // one of them does not exist: opening it says so
  }
}
