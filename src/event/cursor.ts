import { LAYOUT } from './layout.js';
import { decodeFact, RECORD_EVENT, RECORD_FACT, type Fact } from './fact.js';

const at = Object.fromEntries(Object.entries(LAYOUT).map(([name, [offset]]) => [name, offset])) as {
  readonly [name in keyof typeof LAYOUT]: number;
};

// Constants, so that the compiler sees numbers on the hot path.
const KIND = at.kind;
const POINT = at.point;
const HOOK = at.hook;
const FLAGS = at.flags;
const TIME = at.time;
const SKB = at.skb;
const SOCK = at.sock;
const NETNS = at.netns;
const IFINDEX = at.ifindex;
const MARK = at.mark;
const PACKET_LENGTH = at.packet_length;
const CT = at.ct;
const CT_STATUS = at.ct_status;
const H = 4294967296;
/** Of an address's upper half: with the lower one it makes the 53 bits that a double holds. */
const ADDRESS_HIGH = 2 ** 21 - 1;

/** An address as the cursor gives it. */
export const addressNumber = (address: bigint): number => Number(BigInt.asUintN(53, address));

/** Where things stand in a record, from its first byte. */
export const AT = at;

/**
 * A flyweight over the records of a batch: no object per record. 64-bit values come as doubles:
 * exact for times (2^53 ns are 104 days of uptime, then to 2 ns). Addresses come without their first
 * bits, which are the same for the whole kernel: what is left is exact, and tells neighbours apart.
 */
export class Cursor {
  bytes: Buffer = Buffer.alloc(0);
  /** start of the current record */
  base = 0;
  /** running number of the current record in its session */
  seq = -1;
  private view: DataView = new DataView(new ArrayBuffer(0));
  private next_ = 0;

  /** Points before the first record of `bytes`, whose number is `firstSeq`. */
  reset(bytes: Buffer, firstSeq: number): this {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.base = 0;
    this.next_ = 0;
    this.seq = firstSeq - 1;
    return this;
  }

  /** Steps to the next record; false at the end. Trusts sizes: sources validate them. */
  next(): boolean {
    if (this.next_ >= this.bytes.length) return false;
    this.base = this.next_;
    this.next_ += this.view.getUint32(this.base, true);
    this.seq++;
    return true;
  }

  /** Bytes of the current record. */
  get size(): number {
    return this.next_ - this.base;
  }
  /** Neither for records of a kind that only later versions know. */
  get isEvent(): boolean {
    return this.bytes[this.base + KIND] === RECORD_EVENT;
  }
  get isFact(): boolean {
    return this.bytes[this.base + KIND] === RECORD_FACT;
  }
  /** Decodes the current record as a fact. */
  fact(): Fact {
    return decodeFact(this.bytes, this.base);
  }
  get point(): number {
    return this.bytes[this.base + POINT]!;
  }
  get hook(): number {
    return this.bytes[this.base + HOOK]!;
  }
  get flags(): number {
    return this.bytes[this.base + FLAGS]!;
  }
  /** CLOCK_MONOTONIC, ns */
  get time(): number {
    return this.u64(TIME);
  }
  get skb(): number {
    return this.address(SKB);
  }
  get sock(): number {
    return this.address(SOCK);
  }
  get netns(): number {
    return this.u32(NETNS);
  }
  get ifindex(): number {
    return this.u32(IFINDEX);
  }
  get mark(): number {
    return this.u32(MARK);
  }
  get packetLength(): number {
    return this.bytes[this.base + PACKET_LENGTH]!;
  }
  get ct(): number {
    return this.address(CT);
  }
  get ctStatus(): number {
    return this.u32(CT_STATUS);
  }

  u8(offset: number): number {
    return this.bytes[this.base + offset]!;
  }
  u16(offset: number): number {
    return this.view.getUint16(this.base + offset, true);
  }
  u32(offset: number): number {
    return this.view.getUint32(this.base + offset, true);
  }
  address(offset: number): number {
    const i = this.base + offset;
    return this.view.getUint32(i, true) + (this.view.getUint32(i + 4, true) & ADDRESS_HIGH) * H;
  }
  u64(offset: number): number {
    const i = this.base + offset;
    return this.view.getUint32(i, true) + this.view.getUint32(i + 4, true) * H;
  }
}
