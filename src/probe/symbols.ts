import { readFile } from 'node:fs/promises';

const NEWLINE = 10;

/** Kernel addresses have their upper 16 bits set: without them they are exact as numbers. */
const BASE = 0xffff000000000000n;

/** Names of kernel addresses, modules included, from /proc/kallsyms; read when first asked. */
export class Symbols {
  private readonly names = new Map<string, string>();
  private table: { text: Buffer; addresses: Float64Array; lines: Uint32Array } | undefined;

  constructor(private readonly path = '/proc/kallsyms') {}

  /**
   * What stands at an address (hexadecimal with 0x): `function+0x1eb [module]`, or the address
   * itself when the kernel does not tell (kptr_restrict).
   */
  async name(address: string): Promise<string> {
    const known = this.names.get(address);
    if (known !== undefined) return known;
    const name = this.find(address, await this.load());
    this.names.set(address, name);
    return name;
  }

  private find(
    address: string,
    { text, addresses, lines }: NonNullable<typeof this.table>,
  ): string {
    const value = Number(BigInt(address) - BASE);
    let low = 0;
    let high = addresses.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((addresses[middle] as number) <= value) low = middle + 1;
      else high = middle;
    }
    const line = lines[low - 1];
    if (line === undefined) return address;
    // ffffffff81000000 T name<tab>[module]
    const [name = '', module] = text
      .toString('latin1', line + 19, text.indexOf(NEWLINE, line))
      .split('\t');
    const offset = value - (addresses[low - 1] as number);
    return `${name}+0x${offset.toString(16)}${module ? ` ${module}` : ''}`;
  }

  private async load(): Promise<NonNullable<typeof this.table>> {
    if (this.table) return this.table;
    const text = await readFile(this.path);
    const found: { address: number; line: number }[] = [];
    for (let at = 0; at < text.length;) {
      const type = (text[at + 17] as number) | 0x20;
      if (type === 0x74 || type === 0x77) {
        // text, or a weak one
        const high = parseInt(text.toString('latin1', at, at + 8), 16);
        const low = parseInt(text.toString('latin1', at + 8, at + 16), 16);
        if (high >= 0xffff0000)
          found.push({ address: (high - 0xffff0000) * 0x100000000 + low, line: at });
      }
      const end = text.indexOf(NEWLINE, at);
      at = end < 0 ? text.length : end + 1;
    }
    found.sort((a, b) => a.address - b.address);
    this.table = {
      text,
      addresses: Float64Array.from(found, ({ address }) => address),
      lines: Uint32Array.from(found, ({ line }) => line),
    };
    return this.table;
  }
}
