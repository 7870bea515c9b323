import { SkbwhyError } from '../event/errors.js';

const SHT_SYMTAB = 2;
const SECTION_BYTES = 64;
const SYMBOL_BYTES = 24;

interface Section {
  name: string;
  type: number;
  offset: number;
  size: number;
  link: number;
}

/** Where something stands in the bytes of an object file. */
export interface Place {
  offset: number;
  size: number;
}

/** A 64-bit little-endian ELF object in memory: its sections, and where its symbols' bytes stand. */
export class Elf {
  private readonly sections: Section[] = [];

  /** @throws SkbwhyError 'file-unreadable' when the bytes are no such object */
  constructor(readonly bytes: Buffer) {
    if (bytes.length < 64 || bytes.toString('latin1', 0, 6) !== '\x7fELF\x02\x01')
      throw new SkbwhyError('file-unreadable', 'the eBPF object is damaged: install skbwhy again');
    const table = Number(bytes.readBigUInt64LE(40));
    const count = bytes.readUInt16LE(60);
    const names: number[] = [];
    for (let at = table; at < table + count * SECTION_BYTES; at += SECTION_BYTES) {
      names.push(bytes.readUInt32LE(at));
      this.sections.push({
        name: '',
        type: bytes.readUInt32LE(at + 4),
        offset: Number(bytes.readBigUInt64LE(at + 24)),
        size: Number(bytes.readBigUInt64LE(at + 32)),
        link: bytes.readUInt32LE(at + 40),
      });
    }
    const strings = this.sections[bytes.readUInt16LE(62)];
    this.sections.forEach((section, i) => {
      section.name = this.string((strings?.offset ?? 0) + (names[i] ?? 0));
    });
  }

  section(name: string): Place | undefined {
    return this.sections.find((section) => section.name === name);
  }

  /** The bytes of a function or variable. */
  symbol(name: string): Place | undefined {
    for (const table of this.sections) {
      if (table.type !== SHT_SYMTAB) continue;
      const strings = this.sections[table.link]?.offset ?? 0;
      for (let at = table.offset; at < table.offset + table.size; at += SYMBOL_BYTES) {
        if (this.string(strings + this.bytes.readUInt32LE(at)) !== name) continue;
        const section = this.sections[this.bytes.readUInt16LE(at + 6)];
        if (!section) continue;
        return {
          offset: section.offset + Number(this.bytes.readBigUInt64LE(at + 8)),
          size: Number(this.bytes.readBigUInt64LE(at + 16)),
        };
      }
    }
    return undefined;
  }

  private string(offset: number): string {
    return this.bytes.toString('latin1', offset, this.bytes.indexOf(0, offset));
  }
}
