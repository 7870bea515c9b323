import { readFile, readdir, readlink } from 'node:fs/promises';

/** A network namespace that exists now. */
export interface Namespace {
  inode: number;
  /** name of its mount (`ip netns`), 'host' for that of process 1, else `pid:N (comm)` */
  name: string;
  /** leads to the namespace, as long as the process or the name is there: open it and check its inode */
  path: string;
}

const AT_ONCE = 64;
const PROC_NET = /^net:\[(\d+)\]$/;

async function inodeOf(path: string): Promise<number | undefined> {
  try {
    const match = PROC_NET.exec(await readlink(path));
    return match ? Number(match[1]) : undefined;
  } catch {
    return undefined; // the process has gone, or is not ours to look into
  }
}

/** Mounted namespaces: /run/netns (ip netns), and where container runtimes keep theirs. */
async function mounted(): Promise<Namespace[]> {
  const found: Namespace[] = [];
  const mounts = await readFile('/proc/self/mountinfo', 'utf8').catch(() => '');
  for (const line of mounts.split('\n')) {
    // 36 35 0:3 net:[4026532281] /run/netns/blue rw shared:1 - nsfs nsfs rw
    const fields = line.split(' ');
    const match = PROC_NET.exec(fields[3] ?? '');
    const path = fields[4]?.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(parseInt(octal, 8)),
    );
    if (!match || !path || path.startsWith('/proc/')) continue;
    found.push({ inode: Number(match[1]), name: path.slice(path.lastIndexOf('/') + 1), path });
  }
  return found;
}

/**
 * The network namespaces of this node that can be found: those with a name and those of processes
 * that may be looked into; each once. Those pinned only by an open file or link are not found.
 */
export async function discoverNamespaces(): Promise<Namespace[]> {
  const found = new Map<number, Namespace>();
  const host = await inodeOf('/proc/1/ns/net');
  if (host !== undefined) found.set(host, { inode: host, name: 'host', path: '/proc/1/ns/net' });
  for (const namespace of await mounted())
    if (!found.has(namespace.inode)) found.set(namespace.inode, namespace);
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  for (let i = 0; i < pids.length; i += AT_ONCE) {
    await Promise.all(
      pids.slice(i, i + AT_ONCE).map(async (pid) => {
        const path = `/proc/${pid}/ns/net`;
        const inode = await inodeOf(path);
        if (inode === undefined || found.has(inode)) return;
        found.set(inode, { inode, name: `pid:${pid}`, path });
        const comm = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
        const namespace = found.get(inode);
        if (namespace) namespace.name = `pid:${pid} (${comm.trim()})`;
      }),
    );
  }
  return [...found.values()];
}
