import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { SkbwhyError } from '../event/errors.js';
import { MECHANISMS, type Mechanism, type PlanEntry } from '../event/point.js';
import { Btf } from './btf.js';
import { Elf } from './elf.js';
import type { KernelTypes } from './kernel-types.js';
import { errnoName, native, type Pointer } from './libbpf.js';
import { planPoints, type Plan } from './plan.js';
import { FUNCTION_PROGRAMS, PROGRAMS, type ProgramName } from './points.js';

const BPF_PROG_TYPE_NETFILTER = 32;
const BPF_NETFILTER = 45;
const EPERM = 1;
/** what says nothing about a program: the verifier was interrupted by a signal, or had no memory */
const PASSING = new Set([constants.errno.EINTR, constants.errno.EAGAIN, constants.errno.ENOMEM]);
/** libbpf itself tries five times */
const TRIES = 3;
/** the function that is a filter's place */
const SLOT = 'expression';
/** functions with pointer arguments that are not static, which only Linux 5.13 takes; all for the filter */
const GLOBAL_FUNCTIONS = [SLOT, 'select_packet', 'select_socket'];
const LOG_BYTES = 1 << 20;
/** message of 'no-privilege' */
export const NO_PRIVILEGE =
  'tracing needs root, in a container with the capabilities CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN';
const OBJECT_NAMES: Partial<Record<NodeJS.Architecture, string>> = {
  x64: 'skbwhy.x86-64.o',
  arm64: 'skbwhy.arm64.o',
};

/** What is written into the object's bytes before it is opened. */
export interface Constants {
  /** CONFIG_HZ; 0: not known */
  hz: number;
  /** only the namespaces in the map netns_wanted */
  netnsOnly: boolean;
  /** eBPF code for the filter's slot; null: everything is wanted */
  filter: Buffer | null;
}

/** The object, loaded into the kernel; nothing is attached yet. */
export interface LoadedObject {
  plan: PlanEntry[];
  /** file descriptors of the programs that were loaded */
  programs: ReadonlyMap<ProgramName, number>;
  /** File descriptor of a map. */
  map(name: string): number;
  /** Attaches a program at a tracepoint or a function. @throws SkbwhyError 'kernel-refused' */
  attach(program: ProgramName): void;
  /** Detaches those programs, or all but some. */
  detach(except?: ReadonlySet<ProgramName>): void;
  /** Detaches and unloads everything. */
  close(): void;
}

/** The committed object for this machine, a fresh copy. */
export function readObject(): Buffer {
  const name = OBJECT_NAMES[process.arch];
  if (!name) throw new SkbwhyError('kernel-refused', `there is no eBPF object for ${process.arch}`);
  const url = new URL(`../../../bpf/${name}`, import.meta.url);
  try {
    return readFileSync(url);
  } catch (error) {
    throw new SkbwhyError('file-unreadable', `${url.pathname} is missing: install skbwhy again`, {
      cause: error,
    });
  }
}

/** Puts the constants and the filter's code where the object has room for them. */
export function prepareObject(bytes: Buffer, constants: Constants, btf: Btf): void {
  const elf = new Elf(bytes);
  const place = (name: string) => {
    const found = elf.symbol(name);
    if (!found) throw new SkbwhyError('file-unreadable', `the eBPF object has no ${name}`);
    return found.offset;
  };
  bytes.writeUInt32LE(constants.hz, place('hz'));
  bytes[place('netns_only')] = constants.netnsOnly ? 1 : 0;
  bytes[place('filtering')] = constants.filter ? 1 : 0;
  bytes[place('kfree_skb_arguments')] = btf.tracepointArguments('kfree_skb');
  if (constants.filter) {
    patchFilter(elf, constants.filter);
    return;
  }
  const types = elf.section('.BTF');
  if (!types) return;
  const own = new Btf(bytes.subarray(types.offset, types.offset + types.size));
  for (const name of GLOBAL_FUNCTIONS) own.makeStatic(name);
}

/** Fills the slot of expression(): no-ops (goto +0), then the code, so that it ends the function. */
function patchFilter(elf: Elf, code: Buffer): void {
  const slot = elf.symbol(SLOT);
  if (!slot) throw new SkbwhyError('file-unreadable', 'the eBPF object has no filter slot');
  if (code.length > slot.size)
    throw new SkbwhyError(
      'bad-filter',
      `the filter is too long: ${code.length / 8} instructions, ${slot.size / 8} are possible`,
    );
  const { bytes } = elf;
  for (let at = slot.offset; at < slot.offset + slot.size; at += 8) bytes.writeBigUInt64LE(5n, at);
  code.copy(bytes, slot.offset + slot.size - code.length);
}

/** The verifier's last words, in one line. */
function lastWords(log: Buffer): string {
  const end = log.indexOf(0);
  // kernels before 6.4 stop writing when it is full
  if (end < 0 || end >= log.length - 1) return '';
  const lines = log
    .toString('latin1', 0, end)
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !/^(processed|verification time|stack depth)/.test(line));
  return lines.at(-1) ?? '';
}

/**
 * Loads the object. A program that the kernel refuses is left out, and the plan says why.
 * @param bytes as prepared by prepareObject
 * @param ringBytes size of the ring, a power of two
 * @param mechanisms only hooks of these kinds
 * @throws SkbwhyError 'no-privilege', 'kernel-refused'
 */
export function loadObject(
  bytes: Buffer,
  kernel: KernelTypes,
  ringBytes: number,
  mechanisms: readonly Mechanism[] = MECHANISMS,
): LoadedObject {
  const refused = new Map<ProgramName, string>();
  for (let tries = 1; ; tries++) {
    const plan = planPoints(kernel, mechanisms, refused);
    if (plan.programs.size === 0)
      throw new SkbwhyError('nothing-attached', nothingAttached(refused));
    let attempt = tryLoad(bytes, plan, ringBytes, false);
    if ('programs' in attempt) return attempt;
    // once more, to learn which program it is and why
    if (attempt.errno !== EPERM) attempt = tryLoad(bytes, plan, ringBytes, true);
    if ('programs' in attempt) return attempt;
    const passing = PASSING.has(attempt.errno);
    if (passing && tries < TRIES) continue;
    const atFunctions = FUNCTION_PROGRAMS.filter((program) => plan.programs.has(program));
    if (atFunctions.length > 0 && (attempt.errno === EPERM || !attempt.culprit)) {
      for (const program of atFunctions)
        refused.set(
          program,
          `the kernel refuses programs at functions: ${errnoName(attempt.errno)}`,
        );
      continue;
    }
    if (attempt.errno === EPERM) throw new SkbwhyError('no-privilege', NO_PRIVILEGE);
    if (passing || !attempt.culprit)
      throw new SkbwhyError(
        'kernel-refused',
        `the kernel refuses the eBPF object: ${errnoName(attempt.errno)}`,
      );
    refused.set(attempt.culprit, attempt.reason);
  }
}

/** Why no program is left, and what helps where that is known. */
function nothingAttached(refused: ReadonlyMap<ProgramName, string>): string {
  let lockdown = '';
  try {
    lockdown = readFileSync('/sys/kernel/security/lockdown', 'latin1');
  } catch {
    // not built in, or securityfs is not mounted
  }
  if (lockdown.includes('[confidentiality]'))
    return 'this kernel is locked down (confidentiality), and lets no program read its memory: boot it with lockdown=integrity or none';
  const [why] = refused.values();
  return `this kernel allows none of the programs${why === undefined ? '' : ` (${why})`}`;
}

interface Refusal {
  errno: number;
  culprit: ProgramName | undefined;
  reason: string;
}

function tryLoad(
  bytes: Buffer,
  { programs: wanted, entries: plan }: Plan,
  ringBytes: number,
  explain: boolean,
): LoadedObject | Refusal {
  const { bpf, ref } = native();
  const object = bpf.bpf_object__open_mem(bytes, bytes.length, ref.NULL);
  if (ref.isNull(object))
    throw new SkbwhyError('file-unreadable', 'libbpf does not take the eBPF object');
  const all = new Map<ProgramName, Pointer>();
  const logs = new Map<ProgramName, Buffer>();
  for (const name of PROGRAMS) {
    const program = bpf.bpf_object__find_program_by_name(object, name);
    if (ref.isNull(program)) continue;
    all.set(name, program);
    if (name.startsWith('netfilter_')) {
      // libbpf 1.1 does not know the section name yet
      bpf.bpf_program__set_type(program, BPF_PROG_TYPE_NETFILTER);
      bpf.bpf_program__set_expected_attach_type(program, BPF_NETFILTER);
    }
    bpf.bpf_program__set_autoload(program, wanted.has(name));
    if (!explain || !wanted.has(name)) continue;
    const log = Buffer.alloc(LOG_BYTES);
    logs.set(name, log);
    bpf.bpf_program__set_log_buf(program, log, log.length);
  }
  bpf.bpf_map__set_max_entries(bpf.bpf_object__find_map_by_name(object, 'ring'), ringBytes);
  const result = bpf.bpf_object__load(object);
  if (result < 0) {
    bpf.bpf_object__close(object);
    const culprit = [...logs].find(([, log]) => log[0] !== 0);
    const words = culprit ? lastWords(culprit[1]) : '';
    return {
      errno: -result,
      culprit: culprit?.[0],
      reason: `the kernel refuses the program: ${words || errnoName(result)}`,
    };
  }
  const programs = new Map<ProgramName, number>();
  for (const name of wanted) {
    const program = all.get(name);
    if (program) programs.set(name, bpf.bpf_program__fd(program));
  }
  const links = new Map<ProgramName, Pointer>();
  const detach = (except?: ReadonlySet<ProgramName>): void => {
    for (const [name, link] of links) {
      if (except?.has(name)) continue;
      links.delete(name);
      bpf.bpf_link__destroy(link);
    }
  };
  return {
    plan,
    programs,
    map: (name) => {
      const map = bpf.bpf_object__find_map_by_name(object, name);
      if (ref.isNull(map))
        throw new SkbwhyError('file-unreadable', `the eBPF object has no map ${name}`);
      return bpf.bpf_map__fd(map);
    },
    attach: (name) => {
      const program = all.get(name);
      const link = program && bpf.bpf_program__attach(program);
      if (!link || ref.isNull(link))
        throw new SkbwhyError('kernel-refused', `the kernel does not attach ${name}`);
      links.set(name, link);
    },
    detach,
    close: () => {
      detach();
      bpf.bpf_object__close(object);
    },
  };
}
