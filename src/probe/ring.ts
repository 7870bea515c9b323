import { SkbwhyError } from '../event/errors.js';
import { native, type Pointer } from './libbpf.js';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const SC_PAGESIZE = 30;
/** Bits of a record's first word; BUSY is its sign. */
const DISCARDED = 0x40000000;
const LENGTH = 0x3fffffff;
const HEADER_BYTES = 8;
const NOTHING = Buffer.alloc(0);

/**
 * The BPF ring buffer, mapped once and read without a call or an object per event.
 *
 * The kernel maps a page with the consumer's position (writable), one with the producer's, then the
 * data (kernel/bpf/ringbuf.c). A record: u32 length with two flag bits, u32 offset, the bytes, at
 * multiples of 8. The data is mapped once, not twice as libbpf does, since both would count as this
 * process's memory: a record that crosses the end is copied in two parts.
 */
export class Ring {
  /** the data, for headers and sizes */
  private readonly words: Int32Array;
  /** the data, for copying: twice as fast as by words; compiled code makes no BigInt of them */
  private readonly quads: BigInt64Array;
  private readonly consumed: BigUint64Array;
  private readonly produced: BigUint64Array;
  private readonly mappings: [Pointer, number][];
  private open = true;

  /**
   * @param fd file descriptor of the ring buffer map
   * @param bytes its size
   * @throws SkbwhyError 'kernel-refused' when it cannot be mapped
   */
  constructor(
    fd: number,
    private readonly bytes: number,
  ) {
    const { libc, ref } = native();
    const page = Number(libc.sysconf(SC_PAGESIZE));
    const map = (size: number, protection: number, offset: number) => {
      const at = libc.mmap(ref.NULL, size, protection, MAP_SHARED, fd, offset);
      // MAP_FAILED is the address -1
      if (/^f+$/i.test(ref.hexAddress(at)))
        throw new SkbwhyError('kernel-refused', 'the ring buffer cannot be mapped');
      this.mappings.push([at, size]);
      return ref.reinterpret(at, size);
    };
    this.mappings = [];
    const consumer = map(page, PROT_READ | PROT_WRITE, 0);
    const producer = map(page + bytes, PROT_READ, page);
    this.consumed = new BigUint64Array(consumer.buffer, consumer.byteOffset, 1);
    this.produced = new BigUint64Array(producer.buffer, producer.byteOffset, 1);
    this.words = new Int32Array(producer.buffer, producer.byteOffset + page, bytes / 4);
    this.quads = new BigInt64Array(producer.buffer, producer.byteOffset + page, bytes / 8);
  }

  /**
   * Moves whole records out of the ring, until it is empty or the next one might not fit.
   * @param most bytes, at least those of one record as it was reserved
   * @param memory so many bytes to put them, an ArrayBuffer's first; new memory where there is none
   * @returns how many records, and their bytes
   */
  take(most: number, memory?: Buffer): { count: number; bytes: Buffer } {
    const { words, quads } = this;
    const mask = words.length - 1;
    const position = Number(this.consumed[0]);
    let left = Number(Atomics.load(this.produced, 0)) - position;
    if (left === 0) return { count: 0, bytes: NOTHING };
    const bytes = memory ?? Buffer.allocUnsafeSlow(Math.min(left, most));
    const target = new BigInt64Array(bytes.buffer, 0, bytes.length >>> 3);
    let at = (position % this.bytes) >>> 2;
    let moved = position;
    let to = 0;
    let count = 0;
    while (left > 0) {
      const header = Atomics.load(words, at);
      if (header < 0) break;
      if ((header & DISCARDED) === 0) {
        // the record's first word is its own size: what the program filled of what it reserved
        const from = (at + 2) & mask;
        const size = (words[from] as number) >>> 3;
        if (to + size > target.length) break;
        if ((from >>> 1) + size <= quads.length) copy(quads, from >>> 1, target, to, size);
        else copyAcross(quads, from >>> 1, target, to, size);
        to += size;
        count++;
      }
      const step = ((header & LENGTH) + HEADER_BYTES + 7) & ~7;
      left -= step;
      moved += step;
      at = (at + (step >>> 2)) & mask;
    }
    if (moved !== position) Atomics.store(this.consumed, 0, BigInt(moved));
    return { count, bytes: bytes.subarray(0, to * 8) };
  }

  /** Bytes of the ring that wait to be read. */
  get waiting(): number {
    return this.open ? Number(Atomics.load(this.produced, 0) - this.consumed[0]!) : 0;
  }

  close(): void {
    if (!this.open) return;
    this.open = false;
    for (const [at, size] of this.mappings) native().libc.munmap(at, size);
  }
}

/**
 * A record is too short for TypedArray.set, which costs more than the copying. Eight at a time, and
 * indices kept in 32 bits, spare most checks.
 */
function copy(
  source: BigInt64Array,
  from: number,
  target: BigInt64Array,
  to: number,
  count: number,
): void {
  const end = (to + count) | 0;
  let s = from | 0;
  let t = to | 0;
  for (; t < end - 7; t = (t + 8) | 0, s = (s + 8) | 0) {
    target[t] = source[s]!;
    target[(t + 1) | 0] = source[(s + 1) | 0]!;
    target[(t + 2) | 0] = source[(s + 2) | 0]!;
    target[(t + 3) | 0] = source[(s + 3) | 0]!;
    target[(t + 4) | 0] = source[(s + 4) | 0]!;
    target[(t + 5) | 0] = source[(s + 5) | 0]!;
    target[(t + 6) | 0] = source[(s + 6) | 0]!;
    target[(t + 7) | 0] = source[(s + 7) | 0]!;
  }
  for (; t < end; t = (t + 1) | 0, s = (s + 1) | 0) target[t] = source[s]!;
}

/** The same for a record that crosses the ring's end. */
function copyAcross(
  ring: BigInt64Array,
  from: number,
  target: BigInt64Array,
  to: number,
  count: number,
): void {
  for (let i = 0; i < count; i++) target[to + i] = ring[(from + i) & (ring.length - 1)]!;
}
