import { existsSync, readFileSync } from 'node:fs';
import { execFile } from 'node:child_process';
import { release } from 'node:os';
import { nodeFile } from './node-file.js';

const read = (path: string): string | null => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
};

/**
 * Can a netlink request to nf_tables load no module? True when nf_tables is in the kernel already,
 * or nothing can be loaded. An answer of false means that there are no nft rules either.
 * (nfnetlink_rcv_msg, net/netfilter/nfnetlink.c, asks for the module of a subsystem that is absent.)
 */
export function nfTablesPresent(): Promise<boolean> {
  return isPresent('nf_tables', 'nf_tables_newtable');
}

/**
 * The same for a request to sock_diag about TCP and UDP sockets (inet_diag_handler_cmd and
 * sock_diag_rcv_msg, net/core/sock_diag.c, ask for modules, too).
 */
export async function socketDiagPresent(): Promise<boolean> {
  const parts = [
    isPresent('inet_diag', 'inet_diag_register'),
    isPresent('tcp_diag', 'tcp_diag_get_info'),
    isPresent('udp_diag', 'udp_diag_get_info'),
  ];
  return (await Promise.all(parts)).every(Boolean);
}

/** @param symbol a function of the module */
async function isPresent(module: string, symbol: string): Promise<boolean> {
  if (existsSync(`/sys/module/${module}`) || !existsSync('/proc/modules')) return true;
  if (read('/proc/sys/kernel/modules_disabled')?.trim() === '1') return true;
  const builtin = read(nodeFile(`/lib/modules/${release()}/modules.builtin`));
  if (builtin !== null) return builtin.includes(`/${module}.ko`);
  return new Promise((resolve) => {
    execFile('grep', ['-qw', symbol, '/proc/kallsyms'], (error) => resolve(!error));
  });
}

/** Is the release at least this version? Distribution suffixes are ignored. */
export function atLeast(kernelRelease: string, ...wanted: number[]): boolean {
  const version =
    kernelRelease
      .split(/[^\d.]/)[0]
      ?.split('.')
      .map(Number) ?? [];
  for (const [at, number] of wanted.entries()) {
    const have = version[at] ?? 0;
    if (have !== number) return have > number;
  }
  return true;
}

/** `4.18.0-305.el8`, `5.4.0-42-generic`: the number after the dash is the distribution's own count. */
export const isDistribution = (kernelRelease: string): boolean =>
  /^\d+\.\d+\.\d+-\d/.test(kernelRelease);
