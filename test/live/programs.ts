/** eBPF programs in the kernel, whoever loaded them. */
import { closeSync, readFileSync, readdirSync } from 'node:fs';
import { native } from '../../src/probe/libbpf.js';

const { bpf_prog_get_fd_by_id: byId } = native().ffi.Library('libbpf.so.1', {
  bpf_prog_get_fd_by_id: ['int', ['uint32']],
}) as { bpf_prog_get_fd_by_id: (id: number) => number };

/** Is a program of that id in the kernel? */
export function isLoaded(id: number): boolean {
  const fd = byId(id);
  if (fd >= 0) closeSync(fd);
  return fd >= 0;
}

/** Ids of the programs that a process holds. */
export function programsOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/fdinfo`).flatMap((fd) => {
    try {
      const info = readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1');
      return [...info.matchAll(/^prog_id:\s*(\d+)$/gm)].map(([, id]) => Number(id));
    } catch {
      return []; // closed meanwhile
    }
  });
}
