import { readFileSync, readlinkSync } from 'node:fs';

/** A process, told from a later one that got the same pid. */
export interface ProcessIdentity {
  pid: number;
  /** field 22 of /proc/PID/stat: clock ticks since boot */
  startTime: string;
  /** 'pid:[inode]': pids of different pid namespaces cannot be compared */
  pidNamespace: string;
}

/** The identity of a process; null when there is none. Throws nothing. */
export function identify(pid: number): ProcessIdentity | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // the command (field 2) stands in brackets and may contain anything, brackets too
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return null;
    const startTime = fields[19];
    if (startTime === undefined) return null;
    return { pid, startTime, pidNamespace: readlinkSync(`/proc/self/ns/pid`) };
  } catch {
    return null;
  }
}

/** False when that very process is gone; true when it lives, or cannot be seen from this pid namespace. */
export function mayLive(owner: ProcessIdentity): boolean {
  if (readlinkSync('/proc/self/ns/pid') !== owner.pidNamespace) return true;
  return identify(owner.pid)?.startTime === owner.startTime;
}
