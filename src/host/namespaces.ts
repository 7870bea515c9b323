import { readFile, readdir, readlink } from 'node:fs/promises';

/** A network namespace that exists now. */
export interface Namespace {
  /** its identity while it lives */
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

/**
 * Mounted namespaces: /run/netns (ip netns), and where container runtimes keep theirs. In a container
 * that sees the node's processes, also those that process 1 has mounted.
 */
async function mounted(): Promise<Namespace[]> {
  const found = await mountedBy('self', '');
  const [own, initial] = await Promise.all(
    ['self', '1'].map((pid) => readlink(`/proc/${pid}/ns/mnt`).catch(() => '')),
  );
  return initial && initial !== own ? [...found, ...(await mountedBy('1', '/proc/1/root'))] : found;
}

/** @param root leads to the process's root directory */
async function mountedBy(pid: string, root: string): Promise<Namespace[]> {
  const found: Namespace[] = [];
  const mounts = await readFile(`/proc/${pid}/mountinfo`, 'utf8').catch(() => '');
  for (const line of mounts.split('\n')) {
    // 36 35 0:3 net:[4026532281] /run/netns/blue rw shared:1 - nsfs nsfs rw
    const fields = line.split(' ');
    const match = PROC_NET.exec(fields[3] ?? '');
    const path = fields[4]?.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(parseInt(octal, 8)),
    );
    if (!match || !path || path.startsWith('/proc/')) continue;
    const name = path.slice(path.lastIndexOf('/') + 1);
    found.push({ inode: Number(match[1]), name, path: root + path });
  }
  return found;
}

/** The namespace of process 1; kernel threads are in it too, where process 1 is not ours to look into. */
async function initial(): Promise<Namespace | undefined> {
  for (const pid of [1, 2]) {
    const comm = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (pid === 2 && comm.trim() !== 'kthreadd') continue;
    const path = `/proc/${pid}/ns/net`;
    const inode = await inodeOf(path);
    if (inode !== undefined) return { inode, name: 'host', path };
  }
  return undefined;
}

/**
 * The network namespaces of this node that can be found: those with a name and those of processes
 * that may be looked into; each once. Those pinned only by an open file or link are not found.
 */
export async function discoverNamespaces(): Promise<Namespace[]> {
  const found = new Map<number, Namespace>();
  const host = await initial();
  if (host) found.set(host.inode, host);
  for (const namespace of await mounted())
    if (!found.has(namespace.inode)) found.set(namespace.inode, namespace);
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  pids.sort((a, b) => a - b);
  for (let i = 0; i < pids.length; i += AT_ONCE) {
    const some = pids.slice(i, i + AT_ONCE);
    const inodes = await Promise.all(some.map((pid) => inodeOf(`/proc/${pid}/ns/net`)));
    for (const [n, inode] of inodes.entries()) {
      if (inode === undefined || found.has(inode)) continue;
      const pid = some[n];
      const comm = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
      found.set(inode, { inode, name: `pid:${pid} (${comm.trim()})`, path: `/proc/${pid}/ns/net` });
    }
  }
  return [...found.values()];
}
