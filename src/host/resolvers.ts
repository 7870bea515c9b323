import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import type { Namespace } from './namespaces.js';

/** How programs of some namespaces look names up. */
export interface Resolver {
  /** names of the network namespaces */
  netns: string[];
  /** the C library that asks; null: neither of the two (a static program, Go), or not to be told */
  libc: 'musl' | 'glibc' | null;
  nameServers: string[];
  /** the search list */
  search: string[];
  /** names with fewer dots are tried with the search list first */
  ndots: number;
  /** other options of resolv.conf as they stand there: `timeout:1`, `rotate`, `single-request-reopen` */
  options: string[];
}

/** Processes whose libc is looked for at once. */
const AT_ONCE = 64;
/** Processes of one file system looked into until one shows its C library. */
const LOOKED_INTO = 16;

/**
 * The resolvers of the processes in these network namespaces, alike ones together: resolv.conf as it
 * is in their mount namespace, and the C library that they map. Reads /proc alone.
 */
export async function resolversOf(namespaces: readonly Namespace[]): Promise<Resolver[]> {
  const names = new Map(namespaces.map(({ inode, name }) => [`net:[${inode}]`, name]));
  /** pids by network namespace and what they see as files */
  const groups = new Map<string, { netns: string; pids: number[] }>();
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  pids.sort((a, b) => a - b);
  for (let i = 0; i < pids.length; i += AT_ONCE) {
    const some = pids.slice(i, i + AT_ONCE);
    const seen = await Promise.all(some.map((pid) => sightOf(pid)));
    for (const [n, sight] of seen.entries()) {
      const netns = sight && names.get(sight.net);
      if (!netns) continue;
      const key = `${sight.net} ${sight.files}`;
      const group = groups.get(key) ?? { netns, pids: [] };
      groups.set(key, group);
      group.pids.push(some[n]!);
    }
  }
  const found = new Map<string, Resolver>();
  for (const { netns, pids: some } of groups.values()) {
    const text = await readInside(some[0]!, '/etc/resolv.conf');
    if (text === null) continue;
    const resolver = { libc: await libcOf(some), ...parseResolvConf(text) };
    const key = JSON.stringify(resolver);
    const known = found.get(key);
    if (!known) found.set(key, { netns: [netns], ...resolver });
    else if (!known.netns.includes(netns)) known.netns.push(netns);
  }
  return [...found.values()];
}

/** resolv.conf(5): of `search` and `domain` the last line counts, options add up. */
export function parseResolvConf(text: string): Omit<Resolver, 'netns' | 'libc'> {
  const nameServers: string[] = [];
  let search: string[] = [];
  let ndots = 1;
  const options: string[] = [];
  for (const line of text.split('\n')) {
    const [keyword, ...words] = line.trim().split(/\s+/);
    if (keyword === 'nameserver' && words[0]) nameServers.push(words[0]);
    else if (keyword === 'search') search = words;
    else if (keyword === 'domain') search = words.slice(0, 1);
    else if (keyword === 'options')
      for (const option of words) {
        const number = /^ndots:(\d+)$/.exec(option)?.[1];
        if (number === undefined) options.push(option);
        else ndots = Math.min(Number(number), MAX_NDOTS);
      }
  }
  return { nameServers, search, ndots, options };
}

/** RES_MAXNDOTS, resolv.h of glibc; musl has the same (15). */
const MAX_NDOTS = 15;

/** The network namespace of a process and what tells its file system; null for kernel threads. */
async function sightOf(pid: number): Promise<{ net: string; files: string } | null> {
  try {
    const [net, mnt, root] = await Promise.all(
      ['ns/net', 'ns/mnt', 'root', 'exe'].map((file) => readlink(`/proc/${pid}/${file}`)),
    );
    return net && mnt ? { net, files: `${mnt} ${root}` } : null;
  } catch {
    return null; // a kernel thread has no exe; others may have gone, or are not ours to look into
  }
}

async function libcOf(pids: readonly number[]): Promise<Resolver['libc']> {
  for (const pid of pids.slice(0, LOOKED_INTO)) {
    const maps = await readFile(`/proc/${pid}/maps`, 'latin1').catch(() => '');
    const libc = libcIn(maps);
    if (libc !== null) return libc;
  }
  return null;
}

/** The C library among the files that a process maps, by the names that distributions give them. */
export function libcIn(maps: string): Resolver['libc'] {
  if (/\/(ld-musl-[^/\s]+|libc\.musl-[^/\s]+|libc\.so)$/m.test(maps)) return 'musl';
  return /\/libc(\.so\.6|-2\.\d+\.so)$/m.test(maps) ? 'glibc' : null;
}

/** A small file as a process sees it; null: it is not there. */
async function readInside(pid: number, path: string): Promise<string | null> {
  try {
    const file = await pathInside(`/proc/${pid}/root`, path);
    if (file === null) return null;
    const found = await stat(file);
    return found.isFile() && found.size <= MAX_SIZE ? await readFile(file, 'utf8') : null;
  } catch {
    return null; // the process, or the file, has gone
  }
}

/**
 * Where a path leads when links begin at another root: through /proc/PID/root the kernel follows
 * absolute ones from our own. null: links without an end
 */
export async function pathInside(root: string, path: string): Promise<string | null> {
  let rest = path.split('/');
  let at = '';
  for (let links = 0; rest.length > 0;) {
    const name = rest.shift()!;
    if (name === '' || name === '.') continue;
    if (name === '..') {
      at = at.slice(0, Math.max(at.lastIndexOf('/'), 0));
      continue;
    }
    const target = await readlink(`${root}${at}/${name}`).catch(() => null);
    if (target === null) at += `/${name}`;
    else if (++links > MAX_LINKS) return null;
    else {
      rest = [...target.split('/'), ...rest];
      if (target.startsWith('/')) at = '';
    }
  }
  return root + at;
}

/** MAXSYMLINKS, include/linux/namei.h */
const MAX_LINKS = 40;
/** Whatever else stands in its place, bytes. */
const MAX_SIZE = 65_536;
