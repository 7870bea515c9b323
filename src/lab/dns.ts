import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { SkbwhyError } from '../event/errors.js';
import { endpoint } from './client.js';
import type { ClientResult } from './lab.js';
import type { NameServer } from './name-server.js';
import type { Namespaces } from './namespaces.js';
import type { Lookup, LookupResult } from './resolver.js';

const NAME_SERVER = fileURLToPath(new URL('./name-server.js', import.meta.url));
const RESOLVER = fileURLToPath(new URL('./resolver.js', import.meta.url));

/** Starts a DNS server in a namespace; resolves when it listens, `lab-failed` when it does not come so far. */
export async function startNameServer(
  namespaces: Namespaces,
  role: string,
  server: NameServer = {},
): Promise<void> {
  const child = namespaces.spawn(role, [process.execPath, NAME_SERVER, JSON.stringify(server)], {
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
      const what = `name server in namespace '${role}': ${line.trim()}`;
      reject(new SkbwhyError('lab-failed', what));
    });
  });
}

export interface PurposefulLookup extends Lookup {
  /** see ClientResult.purpose */
  purpose: string;
}

/**
 * Makes DNS lookups from a namespace, by one process; resolves when all have ended. `resolvConf`: what
 * the process finds as /etc/resolv.conf, for lookups by the C library's own resolver.
 * On abort the pending ones end as 'aborted'. Throws `lab-failed` when the process breaks.
 */
export async function runLookups(
  namespaces: Namespaces,
  role: string,
  lookups: readonly PurposefulLookup[],
  options: { resolvConf?: string; signal?: AbortSignal | undefined } = {},
): Promise<ClientResult[]> {
  if (lookups.length === 0) return [];
  const { resolvConf, signal } = options;
  const folder = resolvConf === undefined ? null : await mkdtemp(join(tmpdir(), 'skbwhy-'));
  try {
    let command = [process.execPath, RESOLVER];
    if (folder !== null) {
      await writeFile(join(folder, 'resolv.conf'), resolvConf ?? '');
      await writeFile(join(folder, 'nsswitch.conf'), 'hosts: files dns\n');
      // `ip netns exec` gives it a mount namespace of its own
      const bind = ['resolv.conf', 'nsswitch.conf']
        .map((file) => `test ! -e /etc/${file} || mount --bind "$0/${file}" /etc/${file}`)
        .join('; ');
      command = ['sh', '-c', `${bind}; exec "$@"`, folder, ...command];
    }
    return await converse(namespaces, role, command, lookups, signal);
  } finally {
    if (folder !== null) await rm(folder, { recursive: true, force: true });
  }
}

async function converse(
  namespaces: Namespaces,
  role: string,
  command: readonly string[],
  lookups: readonly PurposefulLookup[],
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const startedAt = new Date().toISOString();
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
  child.stdin?.write(`${JSON.stringify(lookups)}\n`);
  const results: LookupResult[] = [];
  if (child.stdout) {
    for await (const line of createInterface({ input: child.stdout })) {
      results.push(JSON.parse(line) as LookupResult);
      if (results.length === lookups.length) child.stdin?.end();
    }
  }
  await ended;
  signal?.removeEventListener('abort', stop);
  if (results.length < lookups.length && !signal?.aborted)
    throw new SkbwhyError('lab-failed', `the resolver in namespace '${role}' ended too early`);
  return lookups.map(({ servers, purpose }, index) => {
    const found = results.find((each) => each.index === index);
    return {
      client: role,
      purpose,
      target: endpoint(servers[0] ?? 'name server', 53),
      source: found?.source ?? null,
      protocol: 'udp',
      ok: found?.ok ?? false,
      connectMs: found?.answeredMs ?? null,
      error: found ? found.error : 'aborted',
      startedAt: found?.startedAt ?? startedAt,
    };
  });
}
