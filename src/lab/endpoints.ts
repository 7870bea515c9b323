import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { SkbwhyError } from '../event/errors.js';
import { endpoint, type Connection, type Measurement } from './client.js';
import type { ClientResult } from './lab.js';
import type { Load } from './load.js';
import type { Namespaces } from './namespaces.js';
import type { Ports } from './server.js';

const CLIENT = fileURLToPath(new URL('./client.js', import.meta.url));
const HOLD = fileURLToPath(new URL('./hold.js', import.meta.url));
const LOAD = fileURLToPath(new URL('./load.js', import.meta.url));
const SERVER = fileURLToPath(new URL('./server.js', import.meta.url));

/** What is there to keep the others busy gets what time they leave: the lab's clients are not to wait. */
const IDLE = ['nice', '-n', '19'];

/**
 * Starts a server in a namespace; resolves when it listens, `lab-failed` when it does not come so far.
 * `idle`: it gets what time the other processes leave.
 */
export async function startServer(
  namespaces: Namespaces,
  role: string,
  ports: Ports,
  idle = false,
): Promise<void> {
  const command = [...(idle ? IDLE : []), process.execPath, SERVER, JSON.stringify(ports)];
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
      reject(new SkbwhyError('lab-failed', `server in namespace '${role}': ${line.trim()}`));
    });
  });
}

export interface Purpose extends Connection {
  /** see ClientResult.purpose */
  purpose: string;
}

/**
 * Makes TCP connections from a namespace, all at once, by one process; resolves when all have ended.
 * On abort the pending ones end as 'aborted'. Throws `lab-failed` when the process breaks.
 */
export async function runClients(
  namespaces: Namespaces,
  role: string,
  connections: readonly Purpose[],
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  if (connections.length === 0) return [];
  const startedAt = new Date().toISOString();
  const child = namespaces.spawn(role, [process.execPath, CLIENT], {
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
  child.stdin?.write(`${JSON.stringify(connections)}\n`);
  const measured: Measurement[] = [];
  if (child.stdout) {
    for await (const line of createInterface({ input: child.stdout })) {
      measured.push(JSON.parse(line) as Measurement);
      if (measured.length === connections.length) child.stdin?.end();
    }
  }
  await ended;
  signal?.removeEventListener('abort', stop);
  if (measured.length < connections.length && !signal?.aborted) {
    throw new SkbwhyError('lab-failed', `the client in namespace '${role}' ended too early`);
  }
  return connections.map(({ address, port, purpose }, index) => {
    const found = measured.find((each) => each.index === index);
    return {
      client: role,
      purpose,
      target: endpoint(address, port),
      source: found?.source ?? null,
      protocol: 'tcp',
      ok: found?.ok ?? false,
      connectMs: found?.connectMs ?? null,
      error: found ? found.error : 'aborted',
      startedAt: found?.startedAt ?? startedAt,
    };
  });
}

/**
 * Loads a server from another namespace while `meanwhile` runs: by so many short connections, all of
 * which are made, or by a saturated one that gets what time the other processes leave.
 */
export async function runLoad<T>(
  namespaces: Namespaces,
  role: string,
  target: { address: string; port: number; load: number | 'stream' },
  meanwhile: () => Promise<T>,
  signal?: AbortSignal,
): Promise<[T, Load]> {
  const { address, port, load } = target;
  const command =
    load === 'stream'
      ? [...IDLE, process.execPath, LOAD, 'stream', address, `${port}`]
      : [process.execPath, LOAD, 'connect', address, `${port}`, `${load}`];
  const child = namespaces.spawn(role, command, {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  });
  child.stdin?.on('error', () => undefined);
  const lines = child.stdout ? createInterface({ input: child.stdout }) : null;
  const made = new Promise<void>((resolve) => {
    lines?.once('line', () => resolve());
    child.once('error', () => resolve()).once('close', () => resolve());
    signal?.addEventListener('abort', () => resolve(), { once: true });
  });
  const said = new Promise<string>((resolve) => {
    lines?.on('line', (line) => line !== 'made' && resolve(line));
    child.once('error', () => resolve('')).once('close', () => resolve(''));
  });
  try {
    const result = await meanwhile();
    await made;
    child.stdin?.end();
    const line = await said;
    if (!line)
      throw new SkbwhyError('lab-failed', `the load in namespace '${role}' ended too early`);
    return [result, JSON.parse(line) as Load];
  } finally {
    child.stdin?.end();
  }
}

/**
 * Opens TCP connections from a namespace and keeps them until the process's standard input ends;
 * resolves when they stand, `lab-failed` when they cannot be made.
 */
export async function hold(
  namespaces: Namespaces,
  role: string,
  address: string,
  port: number,
  connections: number,
): Promise<ReturnType<Namespaces['spawn']>> {
  const args = [address, port, connections].map(String);
  const child = namespaces.spawn(role, [process.execPath, HOLD, ...args], {
    stdio: ['pipe', 'pipe', 'ignore'],
    detached: true,
  });
  child.stdin?.on('error', () => undefined);
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('error', reject);
    child.once('close', () =>
      reject(
        new SkbwhyError('lab-failed', `connections from namespace '${role}' could not be made`),
      ),
    );
  });
  return child;
}
