import { open } from 'node:fs/promises';

const NEWLINE = 10;
/** Kernel addresses have their upper 16 bits set: without them they are exact as numbers. */
const BASE = 0xffff000000000000n;
const DIGITS = 12;
/** No function is longer: an address so far behind a symbol belongs to a module loaded later. */
const LONGEST = 1 << 20;
/** Most tables fit. */
const TEXT_BYTES = 8 << 20;

interface Table {
  text: Buffer;
  /** addresses without their upper 16 bits, in the order of the file */
  addresses: Float64Array;
  /** where each one's line starts */
  lines: Uint32Array;
}

/** Names of kernel addresses, modules included, from /proc/kallsyms. */
export class Symbols {
  private readonly names = new Map<string, string>();
  private table: Promise<Table> | undefined;

  constructor(private readonly path = '/proc/kallsyms') {}

  /**
   * Reads the table ahead of the first name(): it has some hundred thousand lines, and who drains a
   * ring cannot wait for it.
   */
  async load(): Promise<void> {
    await (this.table ??= readTable(this.path));
  }

  /**
   * What stands at an address (hexadecimal with 0x): `function+0x1eb [module]`, or the address
   * itself when the kernel does not tell (kptr_restrict).
   */
  async name(address: string): Promise<string> {
    const known = this.names.get(address);
    if (known !== undefined) return known;
    let name = nameIn(await (this.table ??= readTable(this.path)), address);
    if (name === null) {
      this.table = readTable(this.path);
      name = nameIn(await this.table, address) ?? address;
    }
    this.names.set(address, name);
    return name;
  }
}

function nameIn({ text, addresses, lines }: Table, address: string): string | null {
  const value = Number(BigInt(address) - BASE);
  let best = -1;
  let start = -1;
  for (let i = 0; i < addresses.length; i++) {
    const at = addresses[i]!;
    if (at <= value && at > start) {
      start = at;
      best = lines[i]!;
    }
  }
  if (best < 0 || value - start > LONGEST) return null;
  // ffffffff81000000 T name<tab>[module]
  const [name = '', module] = text
    .toString('latin1', best + 19, text.indexOf(NEWLINE, best))
    .split('\t');
  return `${name}+0x${(value - start).toString(16)}${module ? ` ${module}` : ''}`;
}

async function readTable(path: string): Promise<Table> {
  const text = await readPieces(path).catch(() => Buffer.alloc(0));
  let lines = 0;
  for (let at = text.indexOf(NEWLINE); at >= 0; at = text.indexOf(NEWLINE, at + 1)) lines++;
  const table = { text, addresses: new Float64Array(lines), lines: new Uint32Array(lines) };
  let count = 0;
  for (let at = 0; at < text.length;) {
    const type = text[at + 17]! | 0x20;
    // text, or a weak one; addresses are all zero where they are not told
    if ((type === 0x74 || type === 0x77) && text[at] === 0x66) {
      let address = 0;
      for (let i = 16 - DIGITS; i < 16; i++) {
        const digit = text[at + i]!;
        address = address * 16 + (digit > 0x39 ? digit - 0x57 : digit - 0x30);
      }
      table.addresses[count] = address;
      table.lines[count++] = at;
    }
    const end = text.indexOf(NEWLINE, at);
    at = end < 0 ? text.length : end + 1;
  }
  table.addresses = table.addresses.slice(0, count);
  table.lines = table.lines.slice(0, count);
  return table;
}

/** The kernel gives a page at a time; readFile would allocate sixteen for each. */
async function readPieces(path: string): Promise<Buffer> {
  const file = await open(path);
  try {
    let text = Buffer.allocUnsafeSlow(TEXT_BYTES);
    let used = 0;
    for (;;) {
      const { bytesRead } = await file.read(text, used, text.length - used);
      if (bytesRead === 0) return text.subarray(0, used);
      used += bytesRead;
      if (used === text.length) text = Buffer.concat([text], 2 * used);
    }
  } finally {
    await file.close();
  }
}
