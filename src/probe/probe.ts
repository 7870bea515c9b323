import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { release } from 'node:os';
import { SkbwhyError } from '../event/errors.js';
import { MECHANISMS, type Mechanism, type PlanEntry } from '../event/point.js';
import { hasCapabilities } from '../host/capabilities.js';
import { dropReasons } from './btf.js';
import { compileFilter } from './filter.js';
import { KernelTypes } from './kernel-types.js';
import { native } from './libbpf.js';
import { NetfilterLinks, type NetfilterPrograms } from './netfilter-links.js';
import {
  loadObject,
  NO_PRIVILEGE,
  prepareObject,
  readObject,
  type LoadedObject,
} from './object.js';
import { leaveOut, planPoints, programsOf } from './plan.js';
import { FUNCTION_PROGRAMS } from './points.js';
import { Ring } from './ring.js';

const RING_BYTES = 32 << 20;
const TUNNEL_KINDS = { vxlan: 1, geneve: 2 } as const;
const USUAL_TUNNEL_PORTS = [
  ['vxlan', 4789],
  ['vxlan', 8472],
  ['geneve', 6081],
] as const;

export interface ProbeOptions {
  /** pcap-filter expression; absent: everything of interest */
  filter?: string | undefined;
  /** only events of namespaces given to allowNetns() */
  netnsOnly?: boolean;
  /** only hooks of these kinds; absent: any */
  mechanisms?: readonly Mechanism[];
  /** size of the ring, a power of two; 32 MiB by default */
  ringBytes?: number;
}

/** Events lost since the probe was opened. */
export interface Losses {
  /** ring reservations that failed, by CPU */
  ring: number[];
  /** runs that the kernel skipped because the program was running already, by program */
  missed: Map<string, number>;
}

/** What a program has cost, where the kernel counts it (kernel.bpf_stats_enabled). */
export interface ProgramCost {
  program: string;
  runs: number;
  seconds: number;
}

/**
 * Has the kernel count the runs and the run time of programs until the returned function is called
 * (Linux 5.8).
 * @throws SkbwhyError 'no-privilege', 'kernel-refused'
 */
export function countRunTime(): () => void {
  requirePrivilege();
  const { bpf, libc } = native();
  const fd = bpf.bpf_enable_stats(BPF_STATS_RUN_TIME);
  if (fd < 0)
    throw new SkbwhyError('kernel-refused', 'the kernel does not count the run time of programs');
  return () => libc.close(fd);
}

/** CONFIG_HZ of the running kernel; 0 when its configuration is not readable. */
export function kernelHz(): number {
  const read = [
    () => gunzipSync(readFileSync('/proc/config.gz')).toString('latin1'),
    () => readFileSync(`/boot/config-${release()}`, 'latin1'),
    // in a container that sees the node's processes
    () => readFileSync(`/proc/1/root/boot/config-${release()}`, 'latin1'),
  ];
  for (const config of read)
    try {
      const match = /^CONFIG_HZ=(\d+)$/m.exec(config());
      if (match) return Number(match[1]);
    } catch {
      // not there
    }
  return 0;
}

/**
 * The attach plan as this kernel's type information allows it; loads nothing, needs no privilege.
 * @throws SkbwhyError 'no-btf'
 */
export function possiblePoints(): PlanEntry[] {
  return planPoints(KernelTypes.read()).entries;
}

/**
 * Loads the programs without attaching any, to learn what the kernel really takes.
 * @throws SkbwhyError 'no-btf', 'no-privilege', 'library-missing', 'nothing-attached'
 */
export function checkedPoints(): PlanEntry[] {
  const kernel = KernelTypes.read();
  const bytes = readObject();
  prepareObject(bytes, { hz: 0, netnsOnly: false, filter: null }, kernel.btf);
  const object = loadObject(bytes, kernel, 4096);
  object.close();
  return object.plan;
}

/**
 * Whether this machine can trace at all, and whether the filter is one; loads nothing.
 * @throws SkbwhyError 'no-btf', 'no-privilege', 'library-missing', 'bad-filter'
 */
export function checkTracing(filter?: string): void {
  KernelTypes.read();
  requirePrivilege();
  native();
  if (filter !== undefined) compileFilter(filter);
}

/** CAP_SYS_ADMIN, without which namespaces cannot be entered; it has CAP_BPF and CAP_PERFMON in it. */
function requirePrivilege(): void {
  if (!hasCapabilities('CAP_SYS_ADMIN')) throw new SkbwhyError('no-privilege', NO_PRIVILEGE);
}

/** The programs in the kernel and the ring they write to. */
export class Probe {
  readonly plan: PlanEntry[];
  /** names of drop reasons by number */
  readonly reasons: Record<string, string>;
  readonly hz: number;
  readonly ring: Ring;
  private readonly object: LoadedObject;
  private readonly links = new Map<number, NetfilterLinks>();
  private readonly tunnelPorts = Buffer.alloc(65536);
  private open = true;

  /**
   * Loads the programs; start() attaches them.
   * @throws SkbwhyError 'no-privilege', 'no-btf', 'library-missing', 'bad-filter', 'kernel-refused',
   *   'nothing-attached'
   */
  constructor(options: ProbeOptions = {}) {
    const kernel = KernelTypes.read();
    requirePrivilege();
    native();
    const bytes = readObject();
    const ringBytes = options.ringBytes ?? RING_BYTES;
    this.hz = kernelHz();
    this.reasons = dropReasons(kernel.btf);
    prepareObject(
      bytes,
      {
        hz: this.hz,
        netnsOnly: options.netnsOnly ?? false,
        filter: options.filter === undefined ? null : compileFilter(options.filter),
      },
      kernel.btf,
    );
    this.object = loadObject(bytes, kernel, ringBytes, options.mechanisms ?? MECHANISMS);
    this.plan = this.object.plan;
    try {
      this.ring = new Ring(this.object.map('ring'), ringBytes);
      for (const [kind, port] of USUAL_TUNNEL_PORTS) this.tunnelPorts[port] = TUNNEL_KINDS[kind];
      this.writeTunnelPorts();
    } catch (error) {
      this.object.close();
      throw error;
    }
  }

  /**
   * Attaches the programs at tracepoints and functions: from now on events come. A function that
   * somebody else holds is done without, and the plan says so.
   * @throws SkbwhyError 'kernel-refused'
   */
  start(): void {
    for (const program of this.object.programs.keys()) {
      if (program.startsWith('netfilter_')) continue;
      try {
        this.object.attach(program);
      } catch (error) {
        if (!FUNCTION_PROGRAMS.includes(program)) throw error;
        leaveOut(this.plan, program, (error as Error).message);
      }
    }
    // the other half of a pair would run for nothing
    this.object.detach(programsOf(this.plan));
  }

  /** Lets events of this namespace through; only with netnsOnly. */
  allowNetns(inode: number): void {
    const value = Buffer.from([1]);
    native().bpf.bpf_map_update_elem(this.object.map('netns_wanted'), u32(inode), value, 0);
  }

  disallowNetns(inode: number): void {
    native().bpf.bpf_map_delete_elem(this.object.map('netns_wanted'), u32(inode));
  }

  /** Attaches the netfilter programs in a namespace; once. @throws SkbwhyError as NetfilterLinks */
  attachNetns(path: string, inode: number): void {
    if (this.links.has(inode)) return;
    const programs: NetfilterPrograms = {};
    for (const name of ['arrival', 'before', 'after'] as const) {
      const program = this.object.programs.get(`netfilter_${name}`);
      if (program !== undefined) programs[name] = program;
    }
    if (Object.keys(programs).length > 0)
      this.links.set(inode, new NetfilterLinks(path, inode, programs));
  }

  /** Closes the links of a namespace, so that it is not pinned. */
  detachNetns(inode: number): void {
    this.links.get(inode)?.close();
    this.links.delete(inode);
  }

  /** Packets to this UDP port carry a tunnel of that kind. */
  addTunnelPort(kind: 'vxlan' | 'geneve', port: number): void {
    if (this.tunnelPorts[port] === TUNNEL_KINDS[kind]) return;
    this.tunnelPorts[port] = TUNNEL_KINDS[kind];
    if (this.open) this.writeTunnelPorts();
  }

  losses(): Losses {
    const { bpf } = native();
    const cpus = bpf.libbpf_num_possible_cpus();
    const values = Buffer.alloc(8 * cpus);
    bpf.bpf_map_lookup_elem(this.object.map('lost'), u32(0), values);
    const ring = Array.from({ length: cpus }, (_, cpu) => Number(values.readBigUInt64LE(cpu * 8)));
    const missed = new Map<string, number>();
    for (const [name, fd] of this.object.programs) missed.set(name, recursionMisses(fd));
    return { ring, missed };
  }

  /** What the programs have cost since they were loaded; zeros unless the kernel counts it. */
  costs(): ProgramCost[] {
    if (!this.open) return [];
    return [...this.object.programs].map(([program, fd]) => {
      const info = programInfo(fd);
      return { program, runs: number(info, RUN_CNT), seconds: number(info, RUN_TIME_NS) / 1e9 };
    });
  }

  /** Detaches everything; what is in the ring can still be drained until close(). */
  stop(): void {
    for (const inode of [...this.links.keys()]) this.detachNetns(inode);
    this.object.detach();
  }

  /** Detaches and unloads everything. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.stop();
    this.ring.close();
    this.object.close();
  }

  private writeTunnelPorts(): void {
    const { bpf } = native();
    bpf.bpf_map_update_elem(this.object.map('tunnel_ports'), u32(0), this.tunnelPorts, 0);
  }
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

const BPF_STATS_RUN_TIME = 0;

// struct bpf_prog_info (include/uapi/linux/bpf.h)
const PROG_INFO_BYTES = 232;
const RUN_TIME_NS = 192;
const RUN_CNT = 200;
const RECURSION_MISSES = 208;

/** bpf_prog_info.recursion_misses (Linux 5.12). */
function recursionMisses(fd: number): number {
  return number(programInfo(fd), RECURSION_MISSES);
}

/** As much of bpf_prog_info as this kernel has; empty where it is refused. */
function programInfo(fd: number): Buffer {
  const info = Buffer.alloc(PROG_INFO_BYTES);
  const length = u32(PROG_INFO_BYTES);
  if (native().bpf.bpf_obj_get_info_by_fd(fd, info, length) !== 0) return Buffer.alloc(0);
  return info.subarray(0, length.readUInt32LE(0));
}

function number(info: Buffer, at: number): number {
  return info.length >= at + 8 ? Number(info.readBigUInt64LE(at)) : 0;
}
