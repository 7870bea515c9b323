import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { SkbwhyError } from '../event/errors.js';
import { endpoint, type Connection, type Measurement } from './client.js';
import type { ClientResult } from './lab.js';
import type { Load } from './load.js';
import type { Namespaces } from './namespaces.js';
import { giveTasks, startProgram, type Program } from './programs.js';
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
 * @returns its process
 */
export async function startServer(
  namespaces: Namespaces,
  role: string,
  ports: Ports,
  idle = false,
): Promise<Program> {
  const command = [...(idle ? IDLE : []), process.execPath, SERVER, JSON.stringify(ports)];
  return startProgram(namespaces, role, 'server', command);
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
  const measured = await giveTasks<Measurement>(
    namespaces,
    role,
    'the client',
    [process.execPath, CLIENT],
    connections,
    signal,
  );
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
      answeredMs: found?.answeredMs ?? null,
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
export function hold(
  namespaces: Namespaces,
  role: string,
  address: string,
  port: number,
  connections: number,
): Promise<Program> {
  const args = [address, port, connections].map(String);
  return startProgram(namespaces, role, 'connections', [process.execPath, HOLD, ...args]);
}
