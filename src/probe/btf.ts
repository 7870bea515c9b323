import { readFileSync } from 'node:fs';
import { SkbwhyError } from '../event/errors.js';

/** Kinds of BTF types (Documentation/bpf/btf.rst). */
export const BTF_KIND = {
  INT: 1,
  PTR: 2,
  ARRAY: 3,
  STRUCT: 4,
  UNION: 5,
  ENUM: 6,
  FWD: 7,
  TYPEDEF: 8,
  VOLATILE: 9,
  CONST: 10,
  RESTRICT: 11,
  FUNC: 12,
  FUNC_PROTO: 13,
  VAR: 14,
  DATASEC: 15,
  FLOAT: 16,
  DECL_TAG: 17,
  TYPE_TAG: 18,
  ENUM64: 19,
} as const;

export interface BtfMember {
  name: string;
  type: number;
  /** from the start of the structure, bytes; bit fields: of the byte that holds the first bit */
  offset: number;
}

/** BTF type information: of this kernel, or of an object. */
export class Btf {
  /** offset of each type's record, by type id; 0 is void */
  private readonly types: number[] = [0];
  private readonly strings: number;
  private readonly stringBytes: number;

  /**
   * @param base the kernel's own, for a module's: its strings go on where those end. Types are numbered
   *   from 1 there too: only find() and hasFunction() are of use.
   * @throws SkbwhyError 'no-btf' when the bytes are no BTF
   */
  constructor(
    private readonly bytes: Buffer,
    private readonly base: Btf | null = null,
  ) {
    if (bytes.length < 24 || bytes.readUInt16LE(0) !== 0xeb9f)
      throw new SkbwhyError('no-btf', 'the BTF type information is not readable');
    const header = bytes.readUInt32LE(4);
    const start = header + bytes.readUInt32LE(8);
    const end = start + bytes.readUInt32LE(12);
    this.strings = header + bytes.readUInt32LE(16);
    this.stringBytes = bytes.readUInt32LE(20);
    for (let at = start; at < end; at += this.length(at)) this.types.push(at);
  }

  /**
   * The running kernel's types.
   * @throws SkbwhyError 'no-btf' when it was built without CONFIG_DEBUG_INFO_BTF
   */
  static ofKernel(path = '/sys/kernel/btf/vmlinux'): Btf {
    try {
      return new Btf(readFileSync(path));
    } catch (error) {
      if (error instanceof SkbwhyError) throw error;
      throw new SkbwhyError(
        'no-btf',
        `this kernel has no BTF type information (${path}): a kernel built with CONFIG_DEBUG_INFO_BTF is needed`,
        { cause: error },
      );
    }
  }

  /** The id of the type of that kind and name; undefined when there is none. */
  find(kind: number, name: string): number | undefined {
    const wanted = Buffer.from(name + '\0', 'latin1');
    for (let id = 1; id < this.types.length; id++) {
      if (this.kind(id) !== kind) continue;
      if (this.isString(this.bytes.readUInt32LE(this.at(id)), wanted)) return id;
    }
    return undefined;
  }

  private isString(offset: number, wanted: Buffer): boolean {
    const before = this.base?.stringBytes ?? 0;
    if (offset < before) return this.base!.isString(offset, wanted);
    const at = this.strings + offset - before;
    return this.bytes[at] === wanted[0] && wanted.compare(this.bytes, at, at + wanted.length) === 0;
  }

  /** The names of an enumeration's values by number; empty when this kernel does not have it. */
  enumerators(name: string): Map<number, string> {
    const values = new Map<number, string>();
    const small = this.find(BTF_KIND.ENUM, name);
    const large = small === undefined ? this.find(BTF_KIND.ENUM64, name) : undefined;
    const id = small ?? large;
    if (id === undefined) return values;
    const width = small === undefined ? 12 : 8;
    const at = this.at(id) + 12;
    for (let i = 0; i < this.count(id); i++) {
      const value = at + i * width;
      values.set(this.bytes.readInt32LE(value + 4), this.string(this.bytes.readUInt32LE(value)));
    }
    return values;
  }

  /** How many arguments a typedef'd tracepoint handler has besides its context; 0: not there. */
  tracepointArguments(name: string): number {
    const typedef = this.find(BTF_KIND.TYPEDEF, `btf_trace_${name}`);
    if (typedef === undefined) return 0;
    const prototype = this.target(this.target(typedef));
    return Math.max(0, this.count(prototype) - 1);
  }

  hasFunction(name: string): boolean {
    return this.find(BTF_KIND.FUNC, name) !== undefined;
  }

  /** Makes a function static: the linkage stands where others have their count. */
  makeStatic(name: string): void {
    const id = this.find(BTF_KIND.FUNC, name);
    if (id === undefined) return;
    const at = this.at(id) + 4;
    this.bytes.writeUInt32LE((this.bytes.readUInt32LE(at) & 0xffff0000) >>> 0, at);
  }

  members(id: number): BtfMember[] {
    const members: BtfMember[] = [];
    const bitFields = this.bytes.readUInt32LE(this.at(id) + 4) >>> 31;
    for (let i = 0; i < this.count(id); i++) {
      const at = this.at(id) + 12 + i * 12;
      const bits = this.bytes.readUInt32LE(at + 8) & (bitFields ? 0xffffff : -1);
      members.push({
        name: this.string(this.bytes.readUInt32LE(at)),
        type: this.bytes.readUInt32LE(at + 4),
        offset: bits >>> 3,
      });
    }
    return members;
  }

  kind(id: number): number {
    return (this.bytes.readUInt32LE(this.at(id) + 4) >>> 24) & 31;
  }

  /** The type that a pointer, typedef, qualifier, function or variable refers to. */
  target(id: number): number {
    return this.bytes.readUInt32LE(this.at(id) + 8);
  }

  /** Size of a type in bytes. */
  size(id: number): number {
    switch (this.kind(id)) {
      case BTF_KIND.PTR:
        return 8;
      case BTF_KIND.ARRAY: {
        const at = this.at(id) + 12;
        return this.size(this.bytes.readUInt32LE(at)) * this.bytes.readUInt32LE(at + 8);
      }
      case BTF_KIND.TYPEDEF:
      case BTF_KIND.VOLATILE:
      case BTF_KIND.CONST:
      case BTF_KIND.RESTRICT:
        return this.size(this.target(id));
      default:
        return this.bytes.readUInt32LE(this.at(id) + 8);
    }
  }

  private at(id: number): number {
    const at = this.types[id];
    if (!at) throw new RangeError(`BTF has no type ${id}`);
    return at;
  }

  private count(id: number): number {
    return this.bytes.readUInt32LE(this.at(id) + 4) & 0xffff;
  }

  private string(offset: number): string {
    const at = this.strings + offset;
    return this.bytes.toString('latin1', at, this.bytes.indexOf(0, at));
  }

  private length(at: number): number {
    const info = this.bytes.readUInt32LE(at + 4);
    const count = info & 0xffff;
    switch ((info >>> 24) & 31) {
      case BTF_KIND.INT:
      case BTF_KIND.VAR:
      case BTF_KIND.DECL_TAG:
        return 16;
      case BTF_KIND.ARRAY:
        return 24;
      case BTF_KIND.STRUCT:
      case BTF_KIND.UNION:
      case BTF_KIND.DATASEC:
      case BTF_KIND.ENUM64:
        return 12 + count * 12;
      case BTF_KIND.ENUM:
      case BTF_KIND.FUNC_PROTO:
        return 12 + count * 8;
      default:
        return 12;
    }
  }
}

/** Names of drop reasons by number: `enum skb_drop_reason`, whose numbers move between kernels. */
export function dropReasons(btf: Btf): Record<string, string> {
  const reasons: Record<string, string> = {};
  for (const [value, name] of btf.enumerators('skb_drop_reason'))
    reasons[value] = name.replace(/^SKB_(DROP_REASON_)?/, '');
  return reasons;
}
