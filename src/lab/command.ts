import { spawn } from 'node:child_process';
import { SkbwhyError } from '../event/errors.js';

/** Where a command comes from, for the message when it is missing (Debian's packages). */
const PACKAGES: Readonly<Record<string, string>> = {
  conntrack: 'conntrack',
  ethtool: 'ethtool',
  ip: 'iproute2',
  nft: 'nftables',
};

/**
 * Runs a command to its end and resolves with its standard output.
 * Throws `lab-failed` with the first line of its standard error behind `label` (else the command's
 * first words), AbortError when aborted.
 */
export async function run(
  command: readonly string[],
  options: { input?: string; label?: string; signal?: AbortSignal | undefined } = {},
): Promise<string> {
  const [file = '', ...rest] = command;
  options.signal?.throwIfAborted();
  const child = spawn(file, rest, { stdio: 'pipe', signal: options.signal });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => undefined); // the command ended without reading: its status tells
  child.stdin.end(options.input ?? '');
  const status = await new Promise<number | string>((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) => reject(explain(file, error)));
    child.once('close', (code, signal) => resolve(code ?? signal ?? 'no status'));
  });
  if (status !== 0) {
    const line = stderr.split('\n').find((each) => each.trim()) ?? `it ended with ${status}`;
    throw new SkbwhyError(
      'lab-failed',
      `${options.label ?? command.slice(0, 4).join(' ')}: ${line.trim()}`,
    );
  }
  return stdout;
}

function explain(file: string, error: NodeJS.ErrnoException): Error {
  if (error.code !== 'ENOENT') return error;
  const hint = PACKAGES[file] ? ` (package ${PACKAGES[file]})` : '';
  return new SkbwhyError('lab-failed', `'${file}' is not installed${hint}`, { cause: error });
}
