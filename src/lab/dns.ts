import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { endpoint } from './client.js';
import type { ClientResult } from './lab.js';
import type { NameServer } from './name-server.js';
import type { Namespaces } from './namespaces.js';
import { giveTasks, startProgram, type Program } from './programs.js';
import type { Lookup, LookupResult } from './resolver.js';

const NAME_SERVER = fileURLToPath(new URL('./name-server.js', import.meta.url));
const RESOLVER = fileURLToPath(new URL('./resolver.js', import.meta.url));

/**
 * Starts a DNS server in a namespace; resolves when it listens, `lab-failed` when it does not come so
 * far.
 * @returns its process
 */
export async function startNameServer(
  namespaces: Namespaces,
  role: string,
  server: NameServer = {},
): Promise<Program> {
  const command = [process.execPath, NAME_SERVER, JSON.stringify(server)];
  return startProgram(namespaces, role, 'name server', command);
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
  const results = await giveTasks<LookupResult>(
    namespaces,
    role,
    'the resolver',
    command,
    lookups,
    signal,
  );
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
