/**
 * --filter: pcap-filter text → classic BPF (libpcap's own compiler) → eBPF for the slot of
 * expression(layer, captured, length) in bpf/filter.h.
 */
import { SkbwhyError } from '../event/errors.js';
import { loadFfi, openLibrary, type Pointer, type Ref } from './libbpf.js';

/** One instruction of classic BPF (struct bpf_insn of <pcap/bpf.h>). */
export interface ClassicInstruction {
  code: number;
  jt: number;
  jf: number;
  k: number;
}

/** Bytes of `struct layer` that a filter can look at: an IPv6 and a TCP header without options. */
export const FILTER_BYTES = 60;

const DLT_RAW = 12;
const NETMASK_UNKNOWN = 0xffffffff;

interface Libpcap {
  pcap_open_dead(linkType: number, snapLength: number): Pointer;
  pcap_compile(
    handle: Pointer,
    program: Buffer,
    text: string,
    optimize: number,
    mask: number,
  ): number;
  pcap_geterr(handle: Pointer): string;
  pcap_freecode(program: Buffer): void;
  pcap_close(handle: Pointer): void;
  pcap_offline_filter(program: Buffer, header: Buffer, packet: Buffer): number;
}

let loaded: { pcap: Libpcap; ref: Ref } | undefined;

function libpcap(): { pcap: Libpcap; ref: Ref } {
  if (loaded) return loaded;
  const { ffi, ref } = loadFfi();
  const P = 'pointer';
  const functions: Record<keyof Libpcap, [string, string[]]> = {
    pcap_open_dead: [P, ['int', 'int']],
    pcap_compile: ['int', [P, P, 'string', 'int', 'uint32']],
    pcap_geterr: ['string', [P]],
    pcap_freecode: ['void', [P]],
    pcap_close: ['void', [P]],
    pcap_offline_filter: ['int', [P, P, P]],
  };
  const open = (name: string) => openLibrary<Libpcap>(ffi, name, functions, 'libpcap0.8');
  let pcap: Libpcap;
  try {
    pcap = open('libpcap.so.1'); // where it is not Debian
  } catch {
    pcap = open('libpcap.so.0.8');
  }
  loaded = { pcap, ref };
  return loaded;
}

/** Words of the language (pcap-filter(7)) that matter on IP packets, or get libpcap's own answer. */
const WORDS = new Set(
  (
    'dst src host net mask port portrange proto protochain gateway less greater byte broadcast ' +
    'multicast and or not len length inbound outbound ip ip6 ipv6 arp rarp tcp udp icmp icmp6 sctp ' +
    'igmp igrp pim vrrp carp ah esp ether link fddi tr wlan ppp slip vlan mpls pppoed pppoes geneve ' +
    'atalk aarp decnet iso stp ipx netbeui llc ifname on type subtype dir direction tcpflags ' +
    'icmptype icmpcode icmp6type icmp6code'
  ).split(' '),
);

/** Names of hosts would be looked up in the DNS, while we may be tracing why the DNS does not answer. */
function refuseHostNames(expression: string): void {
  let port = false;
  for (const [token] of expression.matchAll(/\\?[\w.:/-]+/g)) {
    const word = token.toLowerCase();
    if (/^(port|portrange|proto|protochain)$/.test(word)) port = true;
    else if (/^(host|net|gateway|src|dst)$/.test(word)) port = false;
    if (WORDS.has(word) || port || !/^[a-z]/.test(word)) continue;
    if (word.includes(':') || /^(tcp|icmp|icmp6)-/.test(word)) continue;
    throw new SkbwhyError(
      'bad-filter',
      `the filter names ${token}: names are not looked up, give the address`,
    );
  }
}

/** Runs `use` with the compiled program; frees it afterwards. */
function withProgram<T>(expression: string, use: (program: Buffer) => T): T {
  const { pcap } = libpcap();
  refuseHostNames(expression);
  const handle = pcap.pcap_open_dead(DLT_RAW, 65535);
  const program = Buffer.alloc(16);
  try {
    if (pcap.pcap_compile(handle, program, expression, 1, NETMASK_UNKNOWN) !== 0) {
      const message = pcap.pcap_geterr(handle).replaceAll(/\s+/g, ' ').trim();
      throw new SkbwhyError('bad-filter', `the filter is not understood: ${message}`);
    }
    try {
      return use(program);
    } finally {
      pcap.pcap_freecode(program);
    }
  } finally {
    pcap.pcap_close(handle);
  }
}

/**
 * Compiles a filter expression with libpcap, for raw IP packets.
 * @throws SkbwhyError 'bad-filter', 'library-missing'
 */
export function compileClassic(expression: string): ClassicInstruction[] {
  return withProgram(expression, (program) => {
    const { ref } = libpcap();
    const count = program.readUInt32LE(0);
    const bytes = ref.readPointer(program, 8, count * 8);
    return Array.from({ length: count }, (_, i) => ({
      code: bytes.readUInt16LE(i * 8),
      jt: bytes[i * 8 + 2] as number,
      jf: bytes[i * 8 + 3] as number,
      k: bytes.readUInt32LE(i * 8 + 4),
    }));
  });
}

/** What libpcap itself says of a packet; for comparison in tests. */
export function offlineFilter(expression: string, packets: readonly Buffer[]): boolean[] {
  return withProgram(expression, (program) =>
    packets.map((packet) => {
      const header = Buffer.alloc(24); // struct pcap_pkthdr: timeval, caplen, len
      header.writeUInt32LE(packet.length, 16);
      header.writeUInt32LE(packet.length, 20);
      return libpcap().pcap.pcap_offline_filter(program, header, packet) !== 0;
    }),
  );
}

// Classes, modes and operations are numbered alike in classic BPF and eBPF (linux/bpf_common.h).
const LD = 0;
const LDX = 1;
const ST = 2;
const STX = 3;
const ALU = 4;
const JMP = 5;
const RET = 6;
const IMM = 0x00;
const ABS = 0x20;
const IND = 0x40;
const MEM = 0x60;
const LEN = 0x80;
const MSH = 0xa0;
const SOURCE_X = 0x08;
const DIV = 0x30;
const LSH = 0x60;
const RSH = 0x70;
const MOD = 0x90;

// eBPF operations used below
const MOV32_IMM = 0xb4;
const MOV32 = 0xbc;
const MOV64 = 0xbf;
const ADD64_IMM = 0x07;
const ADD64 = 0x0f;
const AND32_IMM = 0x54;
const LSH32_IMM = 0x64;
const BIG_ENDIAN = 0xdc;
const LOAD = { 1: 0x71, 2: 0x69, 4: 0x61 } as const;
const STORE32 = 0x63;
const STORE32_IMM = 0x62;
const JA = 0x05;
const JEQ_IMM = 0x15;
const JLT_IMM = 0xa5;
const JGT_IMM = 0x25;
const JGT = 0x2d;
const JEQ32_IMM = 0x16;
const JLT32_IMM = 0xa6;
const JMP32 = 6;
const EXIT = 0x95;

// registers: the arguments stay where they are passed
const A = 0;
const LAYER = 1;
const CAPTURED = 2;
const LENGTH = 3;
const X = 4;
const AT = 5;
const END = 6;
const FRAME = 10;

const scratch = (k: number) => -4 - 4 * k;

function width(code: number): 1 | 2 | 4 {
  return (code & 0x18) === 0x10 ? 1 : (code & 0x18) === 0x08 ? 2 : 4;
}

/** Packet loads beyond what the slot is shown can never succeed: the filter then says no. */
function neverLoads({ code, k }: ClassicInstruction, readable: number): boolean {
  const mode = code & 0xe0;
  if ((code & 7) === LDX) return mode === MSH && k + 1 > readable;
  return (code & 7) === LD && (mode === ABS || mode === IND) && k + width(code) > readable;
}

/** Which instructions can run: the verifier refuses code that cannot. */
function reachable(program: readonly ClassicInstruction[], readable: number): boolean[] {
  const seen = program.map(() => false);
  const pending = [0];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    const instruction = program[at];
    if (!instruction)
      throw new SkbwhyError('bad-filter', 'the filter needs a loop, which cannot be translated');
    if (seen[at]) continue;
    seen[at] = true;
    if ((instruction.code & 7) === RET || neverLoads(instruction, readable)) continue;
    if ((instruction.code & 7) !== JMP) pending.push(at + 1);
    else if ((instruction.code & 0xf0) === 0) pending.push(at + 1 + instruction.k);
    else pending.push(at + 1 + instruction.jt, at + 1 + instruction.jf);
  }
  return seen;
}

/**
 * Translates classic BPF into eBPF for `int expression(layer, captured, length)`.
 * @param readable bytes at `layer` that are certain to be there, captured or not
 * @throws SkbwhyError 'bad-filter' for what has no translation
 */
export function translate(
  program: readonly ClassicInstruction[],
  readable: number = FILTER_BYTES,
): Buffer {
  const out: [code: number, dst: number, src: number, offset: number, imm: number][] = [];
  const starts: number[] = [];
  const fixes: [instruction: number, target: number][] = [];
  const no = program.length; // jump target of its own: return 0
  const emit = (code: number, dst = 0, src = 0, offset = 0, imm = 0) => {
    out.push([code, dst, src, offset, imm | 0]);
  };
  const jump = (code: number, dst: number, src: number, imm: number, target: number) => {
    fixes.push([out.length, target]);
    emit(code, dst, src, 0, imm);
  };
  /** A = size bytes at base + offset, from network order */
  const loadA = (base: number, offset: number, size: 1 | 2 | 4) => {
    emit(LOAD[size], A, base, offset);
    if (size > 1) emit(BIG_ENDIAN, A, 0, 0, size * 8);
  };

  // the verifier takes the argument of a function that is not static for a pointer or NULL
  jump(JEQ_IMM, LAYER, 0, 0, no);
  emit(MOV32_IMM, A);
  emit(MOV32_IMM, X);
  const cells = program.filter(
    ({ code }) =>
      (code & 7) === ST || (code & 7) === STX || ((code & 7) < ST && (code & 0xe0) === MEM),
  );
  const highest = Math.max(-1, ...cells.map(({ k }) => k));
  for (let k = 0; k <= highest; k++) emit(STORE32_IMM, FRAME, 0, scratch(k));

  const live = reachable(program, readable);
  const accepts = ({ code, k }: ClassicInstruction) =>
    (code & 7) === RET && ((code & 0x18) !== 0 || k !== 0);
  if (!program.some((instruction, n) => live[n] && accepts(instruction)))
    throw new SkbwhyError(
      'bad-filter',
      'the filter can match nothing: it looks behind the headers, or at what only a device knows',
    );
  program.forEach((instruction, n) => {
    starts[n] = out.length;
    if (!live[n]) return;
    const { code, jt, jf, k } = instruction;
    if (neverLoads(instruction, readable)) {
      jump(JA, 0, 0, 0, no);
      return;
    }
    const mode = code & 0xe0;
    const operation = code & 0xf0;
    switch (code & 7) {
      case LD:
      case LDX: {
        const register = (code & 7) === LD ? A : X;
        const size = width(code);
        if (mode === IMM) emit(MOV32_IMM, register, 0, 0, k);
        else if (mode === LEN) emit(MOV32, register, LENGTH);
        else if (mode === MEM) emit(LOAD[4], register, FRAME, scratch(k));
        else if (mode === MSH) {
          jump(JLT_IMM, CAPTURED, 0, k + 1, no);
          emit(LOAD[1], X, LAYER, k);
          emit(AND32_IMM, X, 0, 0, 15);
          emit(LSH32_IMM, X, 0, 0, 2);
        } else if (mode === ABS) {
          jump(JLT_IMM, CAPTURED, 0, k + size, no);
          loadA(LAYER, k, size);
        } else if (mode === IND) {
          emit(MOV32, AT, X);
          emit(ADD64_IMM, AT, 0, 0, k);
          jump(JGT_IMM, AT, 0, readable - size, no);
          emit(MOV64, END, AT);
          emit(ADD64_IMM, END, 0, 0, size);
          jump(JGT, END, CAPTURED, 0, no);
          emit(ADD64, AT, LAYER);
          loadA(AT, 0, size);
        } else throw new SkbwhyError('bad-filter', 'the filter reads what only a device knows');
        break;
      }
      case ST:
        emit(STORE32, FRAME, A, scratch(k));
        break;
      case STX:
        emit(STORE32, FRAME, X, scratch(k));
        break;
      case ALU: {
        const byX = (code & SOURCE_X) !== 0;
        if (operation === LSH || operation === RSH) {
          // eBPF takes shifts modulo 32, classic BPF (libpcap) shifts everything out
          if (byX) {
            emit(JLT32_IMM, X, 0, 2, 32);
            emit(MOV32_IMM, A);
            emit(JA, 0, 0, 1);
            emit(code, A, X);
          } else if (k < 32) emit(code, A, 0, 0, k);
          else emit(MOV32_IMM, A);
          break;
        }
        if (byX && (operation === DIV || operation === MOD)) jump(JEQ32_IMM, X, 0, 0, no);
        emit(code, A, byX ? X : 0, 0, byX ? 0 : k);
        break;
      }
      case JMP: {
        if (operation === 0) jump(JA, 0, 0, 0, n + 1 + k);
        else if (jt === jf) jump(JA, 0, 0, 0, n + 1 + jt);
        else {
          const byX = (code & SOURCE_X) !== 0;
          const test = JMP32 | operation | (code & SOURCE_X);
          jump(test, A, byX ? X : 0, byX ? 0 : k, n + 1 + jt);
          jump(JA, 0, 0, 0, n + 1 + jf);
        }
        break;
      }
      case RET:
        if ((code & 0x18) === 0) emit(MOV32_IMM, A, 0, 0, k === 0 ? 0 : 1);
        emit(EXIT);
        break;
      default:
        if (code & 0x80) emit(MOV32, A, X);
        else emit(MOV32, X, A);
    }
  });
  starts[no] = out.length;
  emit(MOV32_IMM, A);
  emit(EXIT);
  for (const [at, target] of fixes) {
    const instruction = out[at];
    if (instruction) instruction[3] = (starts[target] as number) - at - 1;
  }
  const bytes = Buffer.alloc(out.length * 8);
  out.forEach(([code, dst, src, offset, imm], i) => {
    bytes[i * 8] = code;
    bytes[i * 8 + 1] = dst | (src << 4);
    bytes.writeInt16LE(offset, i * 8 + 2);
    bytes.writeInt32LE(imm, i * 8 + 4);
  });
  return bytes;
}

/**
 * eBPF code for a pcap-filter expression. The filter sees an IP packet whose header has no options
 * or extension headers, and 20 bytes after that.
 * @throws SkbwhyError 'bad-filter', 'library-missing'
 */
export function compileFilter(expression: string): Buffer {
  return translate(compileClassic(expression));
}
