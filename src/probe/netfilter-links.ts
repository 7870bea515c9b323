import { closeSync, fstatSync, openSync } from 'node:fs';
import { SkbwhyError } from '../event/errors.js';
import { errnoName, native } from './libbpf.js';

const BPF_LINK_CREATE = 28;
const BPF_NETFILTER = 45;
const CLONE_NEWNET = 0x40000000;
const EBUSY = 16;
const NFPROTO_IPV4 = 2;
const NFPROTO_IPV6 = 10;
const PRE_ROUTING = 0;
const LOCAL_OUT = 3;
const POST_ROUTING = 4;
const TRIES = 10;

/** File descriptors of the programs that there are. */
export type NetfilterPrograms = Partial<Record<'arrival' | 'before' | 'after', number>>;

/** __NR_bpf */
const SYS_BPF: Partial<Record<NodeJS.Architecture, number>> = { x64: 321, arm64: 280 };

/**
 * Where the programs stand. Priorities (linux/netfilter_ipv4.h): defragmentation −400, conntrack
 * −200, mangle −150, destination NAT −100, source NAT 100. Two programs cannot share one: `step`
 * leads to the next free place that is still on the same side of those.
 */
const PLACES: readonly {
  hook: number;
  program: keyof NetfilterPrograms;
  priority: number;
  step: number;
}[] = [
  { hook: PRE_ROUTING, program: 'arrival', priority: -401, step: -1 },
  { hook: PRE_ROUTING, program: 'before', priority: -199, step: 1 },
  { hook: PRE_ROUTING, program: 'after', priority: -99, step: 1 },
  { hook: LOCAL_OUT, program: 'before', priority: -199, step: 1 },
  { hook: LOCAL_OUT, program: 'after', priority: -99, step: 1 },
  { hook: POST_ROUTING, program: 'before', priority: 99, step: -1 },
  { hook: POST_ROUTING, program: 'after', priority: 101, step: 1 },
];

/** Runs `work` in another network namespace; only this thread changes, and only meanwhile. */
function inside<T>(path: string, inode: number, work: () => T): T {
  const { libc } = native();
  const own = openSync('/proc/self/ns/net', 'r');
  const there = openSync(path, 'r');
  try {
    if (fstatSync(there).ino !== inode)
      throw new SkbwhyError('netns-missing', `the network namespace ${path} is another one now`);
    if (libc.setns(there, CLONE_NEWNET) !== 0)
      throw new SkbwhyError('kernel-refused', `cannot enter the network namespace ${path}`);
    try {
      return work();
    } finally {
      // in the wrong namespace everything that follows would be wrong
      if (libc.setns(own, CLONE_NEWNET) !== 0) process.abort();
    }
  } finally {
    closeSync(there);
    closeSync(own);
  }
}

function createLink(program: number, family: number, hook: number, priority: number): number {
  const { libc, ffi } = native();
  const attributes = Buffer.alloc(64);
  attributes.writeUInt32LE(program, 0);
  attributes.writeUInt32LE(BPF_NETFILTER, 8);
  attributes.writeUInt32LE(family, 16);
  attributes.writeUInt32LE(hook, 20);
  attributes.writeInt32LE(priority, 24);
  const result = Number(
    libc.syscall(SYS_BPF[process.arch] ?? 280, BPF_LINK_CREATE, attributes, attributes.length),
  );
  return result >= 0 ? result : -ffi.errno();
}

/**
 * The netfilter programs of one namespace. The links pin the namespace: close them when its last
 * process and name are gone.
 */
export class NetfilterLinks {
  private readonly links: number[] = [];

  /**
   * Attaches in the namespace with that inode number, which `path` must lead to.
   * @throws SkbwhyError 'netns-missing', 'kernel-refused'; nothing is attached then
   */
  constructor(path: string, inode: number, programs: NetfilterPrograms) {
    inside(path, inode, () => {
      try {
        for (const family of [NFPROTO_IPV4, NFPROTO_IPV6])
          for (const place of PLACES) {
            const program = programs[place.program];
            if (program !== undefined) this.attach(program, family, place);
          }
      } catch (error) {
        this.close();
        throw error;
      }
    });
  }

  private attach(program: number, family: number, place: (typeof PLACES)[number]): void {
    let result = -EBUSY;
    for (let i = 0; i < TRIES && result === -EBUSY; i++)
      result = createLink(program, family, place.hook, place.priority + i * place.step);
    if (result < 0)
      throw new SkbwhyError(
        'kernel-refused',
        `the kernel refuses a netfilter program at hook ${place.hook}: ${errnoName(result)}`,
      );
    this.links.push(result);
  }

  close(): void {
    for (const fd of this.links.splice(0)) native().libc.close(fd);
  }
}
