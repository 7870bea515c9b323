import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { runInGuest, type GuestOptions } from './guest.js';
import type { Kernel } from './kernel.js';

/** What became of one command in a guest. */
export interface CommandResult {
  status: number;
  stdout: string;
  stderr: string;
}

/** A command may take so long, s. */
const COMMAND_S = 600;

/**
 * Runs skbwhy several times in one guest, one after another; a command that fails stops nothing.
 * @param commands arguments of each, by a name that is fit for a file
 */
export async function runCommands(
  kernel: Kernel,
  commands: Readonly<Record<string, readonly string[]>>,
  options: GuestOptions = {},
): Promise<Map<string, CommandResult>> {
  const files = await mkdtemp(path.join(tmpdir(), 'skbwhy-files-'));
  try {
    const script = Object.entries(commands).map(([name, args]) => {
      const words = args.map((word) => `'${word}'`).join(' ');
      const at = `/run/guest/files/${name}`;
      return `timeout ${COMMAND_S} node bin/skbwhy.js ${words} >${at}.out 2>${at}.err; echo $? >${at}.status`;
    });
    await runInGuest(kernel, script.join('\n'), {
      timeoutMs: script.length * COMMAND_S * 1000,
      ...options,
      files,
    });
    const read = (name: string, what: string) =>
      readFile(path.join(files, `${name}.${what}`), 'utf8');
    const results = new Map<string, CommandResult>();
    for (const name of Object.keys(commands))
      results.set(name, {
        status: Number(await read(name, 'status')),
        stdout: await read(name, 'out'),
        stderr: await read(name, 'err'),
      });
    return results;
  } finally {
    await rm(files, { recursive: true });
  }
}
