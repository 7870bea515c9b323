import type { ProcessFact, SocketsFact } from '../event/fact.js';
import { socketDiagPresent } from './kernel.js';
import type { Namespace } from './namespaces.js';
import { processFact } from './processes.js';
import { readSections } from './read.js';

/** What a socket without room moves: when one of these rose, its socket can be found. */
const OVERFLOWS = ['TcpExt.ListenDrops', 'Udp.RcvbufErrors', 'Udp6.RcvbufErrors'];
/** Sockets told at most, those that dropped most. */
const MAX_SOCKETS = 64;

/** sk_drops is the last number of skmem (sk_get_meminfo, net/core/sock.c; since 4.7). */
const SCRIPT = `
section tcp; ss -HOlntmp 2>/dev/null | grep -v ',d0)'
section udp; ss -HOanump 2>/dev/null | grep -v ',d0)'
`;

let diag: Promise<boolean> | undefined;

/** Did a socket of the namespace find itself without room between two samples of its counters? */
export function overflowed(
  before: Readonly<Record<string, number>>,
  now: Readonly<Record<string, number>>,
): boolean {
  return OVERFLOWS.some((name) => (now[name] ?? 0) > (before[name] ?? 0));
}

/**
 * The sockets of a namespace that dropped packets since they were made, and the processes that have
 * them. Empty where asking would load a module, or the namespace is gone.
 */
export async function overflowedSockets({
  inode,
  path,
}: Namespace): Promise<(SocketsFact | ProcessFact)[]> {
  diag ??= socketDiagPresent();
  if (!(await diag)) return [];
  const sections = await readSections(path, SCRIPT);
  const fact = sections && parseSockets(inode, sections);
  if (!fact) return [];
  const pids = new Set(fact.sockets.flatMap(({ pids: [first] }) => first ?? []));
  return [...[...pids].flatMap((pid) => processFact(pid) ?? []), fact];
}

/** Of the lines of `ss -HOnmp`; null: none of them dropped anything. */
export function parseSockets(
  netns: number,
  sections: ReadonlyMap<string, string>,
): SocketsFact | null {
  const sockets = (['tcp', 'udp'] as const).flatMap((protocol) =>
    (sections.get(protocol) ?? '').split('\n').flatMap((line) => {
      const [, received, sent, local] = line.trim().split(/\s+/);
      const memory = /skmem:\(r(\d+),rb(\d+),.*\bd(\d+)\)/.exec(line);
      if (!local || !memory) return [];
      const [waiting, room] = protocol === 'tcp' ? [received, sent] : memory.slice(1);
      return [
        {
          protocol,
          local,
          waiting: Number(waiting),
          room: Number(room),
          dropped: Number(memory[3]),
          pids: [...line.matchAll(/pid=(\d+)/g)].map(([, pid]) => Number(pid)),
        },
      ];
    }),
  );
  if (sockets.length === 0) return null;
  sockets.sort((a, b) => b.dropped - a.dropped);
  return { fact: 'sockets', netns, sockets: sockets.slice(0, MAX_SOCKETS) };
}
