/** How a lab talks to the programs that it starts in its namespaces; each ends when its standard input does. */
import { createInterface } from 'node:readline';
import { SkbwhyError } from '../event/errors.js';
import type { Namespaces } from './namespaces.js';

export type Program = ReturnType<Namespaces['spawn']>;

/**
 * Starts a program in a namespace, which says a line when it is ready; resolves when it is,
 * `lab-failed` with what it complained of when it does not come so far.
 * @param what it is, for the message
 */
export async function startProgram(
  namespaces: Namespaces,
  role: string,
  what: string,
  command: readonly string[],
): Promise<Program> {
  const child = namespaces.spawn(role, command, {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
  });
  let complaint = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (complaint += text));
  child.stdin?.on('error', () => undefined);
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('error', reject);
    child.once('close', () => {
      const line = complaint.split('\n').find((each) => /error/i.test(each)) ?? 'it ended at once';
      reject(new SkbwhyError('lab-failed', `${what} in namespace '${role}': ${line.trim()}`));
    });
  });
  return child;
}

/**
 * Gives a program in a namespace its tasks (a JSON array on one line) and reads what became of them, a
 * JSON line each. On abort it is ended, and fewer come back. Throws `lab-failed` when it breaks.
 * @param what it is, for the message
 */
export async function giveTasks<T>(
  namespaces: Namespaces,
  role: string,
  what: string,
  command: readonly string[],
  tasks: readonly unknown[],
  signal?: AbortSignal,
): Promise<T[]> {
  const child = namespaces.spawn(role, command, {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  });
  const stop = () => child.kill('SIGKILL');
  signal?.addEventListener('abort', stop, { once: true });
  if (signal?.aborted) stop();
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', () => resolve());
  });
  child.stdin?.on('error', () => undefined);
  child.stdin?.write(`${JSON.stringify(tasks)}\n`);
  const results: T[] = [];
  if (child.stdout) {
    for await (const line of createInterface({ input: child.stdout })) {
      results.push(JSON.parse(line) as T);
      if (results.length === tasks.length) child.stdin?.end();
    }
  }
  await ended;
  signal?.removeEventListener('abort', stop);
  if (results.length < tasks.length && !signal?.aborted)
    throw new SkbwhyError('lab-failed', `${what} in namespace '${role}' ended too early`);
  return results;
}
