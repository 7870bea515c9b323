/**
 * Runs the subset of eBPF that the filter's translation uses, as the kernel would: for comparing it
 * with libpcap on many packets without loading anything.
 */
const ARGUMENT = 1 << 20;
const STACK = 2 << 20;

/**
 * What `expression(layer, captured, length)` returns. Throws on any access outside the layer.
 * @param captured bytes of the layer that the packet has
 */
export function runExpression(code: Buffer, packet: Buffer, captured = packet.length): number {
  const registers = new Array<bigint>(11).fill(0n);
  registers[1] = BigInt(ARGUMENT);
  registers[2] = BigInt(captured);
  registers[3] = BigInt(captured);
  registers[10] = BigInt(STACK);
  const stack = Buffer.alloc(512);
  const get = (i: number) => registers[i] as bigint;
  const low = (i: number) => Number(BigInt.asUintN(32, get(i)));
  const set32 = (i: number, value: number) => (registers[i] = BigInt(value >>> 0));
  const load = (address: bigint, size: number): bigint => {
    const at = Number(address);
    const [memory, offset] = at > STACK - 512 ? [stack, at - STACK + 512] : [packet, at - ARGUMENT];
    if (offset < 0 || offset + size > memory.length) throw new RangeError(`load at ${offset}`);
    return BigInt(memory.readUIntLE(offset, size));
  };
  for (let at = 0, steps = 0; ; at++) {
    if (++steps > 100_000) throw new Error('endless');
    const op = code[at * 8] as number;
    const dst = (code[at * 8 + 1] as number) & 15;
    const src = (code[at * 8 + 1] as number) >> 4;
    const offset = code.readInt16LE(at * 8 + 2);
    const imm = code.readInt32LE(at * 8 + 4);
    const size = op & 0x10 ? 1 : op & 0x08 ? 2 : 4;
    switch (op & 7) {
      case 1: // load
        registers[dst] = load(get(src) + BigInt(offset), size);
        break;
      case 2: // store an immediate
        stack.writeInt32LE(imm, Number(get(dst)) + offset - STACK + 512);
        break;
      case 3: // store a register
        stack.writeUInt32LE(low(src), Number(get(dst)) + offset - STACK + 512);
        break;
      case 4: {
        if (op === 0xdc) {
          const bytes = Buffer.alloc(8);
          bytes.writeBigUInt64LE(get(dst));
          set32(dst, bytes.readUIntBE(0, imm / 8));
          break;
        }
        const value = op & 8 ? low(src) : imm >>> 0;
        set32(dst, alu(op & 0xf0, low(dst), value));
        break;
      }
      case 7: {
        const value = op & 8 ? get(src) : BigInt(imm);
        if ((op & 0xf0) === 0xb0) registers[dst] = value;
        else if ((op & 0xf0) === 0) registers[dst] = get(dst) + value;
        else throw new Error(`operation ${op}`);
        break;
      }
      case 5:
      case 6: {
        if (op === 0x95) return low(0);
        const wide = (op & 7) === 5;
        const left = wide ? get(dst) : BigInt(low(dst));
        const right = op & 8 ? (wide ? get(src) : BigInt(low(src))) : BigInt(imm >>> 0);
        if (jumps(op & 0xf0, left, right)) at += offset;
        break;
      }
      default:
        throw new Error(`operation ${op}`);
    }
  }
}

function alu(operation: number, a: number, b: number): number {
  switch (operation) {
    case 0x00:
      return a + b;
    case 0x10:
      return a - b;
    case 0x20:
      return Math.imul(a, b);
    case 0x30:
      return b === 0 ? 0 : Math.floor(a / b);
    case 0x40:
      return a | b;
    case 0x50:
      return a & b;
    case 0x60:
      return a << (b & 31);
    case 0x70:
      return a >>> (b & 31);
    case 0x80:
      return -a;
    case 0x90:
      return b === 0 ? a : a % b;
    case 0xa0:
      return a ^ b;
    case 0xb0:
      return b;
    default:
      throw new Error(`operation ${operation}`);
  }
}

function jumps(operation: number, a: bigint, b: bigint): boolean {
  switch (operation) {
    case 0x00:
      return true;
    case 0x10:
      return a === b;
    case 0x20:
      return a > b;
    case 0x30:
      return a >= b;
    case 0x40:
      return (a & b) !== 0n;
    case 0xa0:
      return a < b;
    default:
      throw new Error(`jump ${operation}`);
  }
}
