import { SkbwhyError } from '../event/errors.js';
import { native, type Pointer } from './libbpf.js';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const SC_PAGESIZE = 30;
const BUSY = 0x80000000;
const DISCARDED = 0x40000000;
const LENGTH = 0x3fffffff;
const HEADER_BYTES = 8;

/**
 * The BPF ring buffer, mapped once and read without a call or an object per event.
 *
 * The kernel maps a page with the consumer's position (writable), one with the producer's, then the
 * data (kernel/bpf/ringbuf.c). A record: u32 length with two flag bits, u32 offset, the bytes, at
 * multiples of 8. The data is mapped once, not twice as libbpf does: a record that crosses the end
 * is read in two parts.
 */
export class Ring {
  private readonly words: Int32Array;
  private readonly consumed: BigUint64Array;
  private readonly produced: BigUint64Array;
  private readonly mappings: [Pointer, number][];
  private position: number;
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
    this.position = Number(this.consumed[0]);
  }

  /**
   * Moves whole records into `target` until the ring is empty or the next one might not fit.
   * @returns how many records, and how many bytes they take
   */
  drain(target: Int32Array): { count: number; bytes: number } {
    const { words } = this;
    const mask = words.length - 1;
    const end = Number(Atomics.load(this.produced, 0));
    let at = this.position;
    let to = 0;
    let count = 0;
    while (at < end) {
      let from = (at % this.bytes) >>> 2;
      const header = Atomics.load(words, from) >>> 0;
      if (header >= BUSY) break;
      const length = header & LENGTH;
      if (header < DISCARDED) {
        // the record's first word is its own size: what the program filled of what it reserved
        from = (from + 2) & mask;
        const size = (words[from] as number) >>> 2;
        if (to + size > target.length) break;
        if (from + size <= words.length) {
          for (let i = 0; i < size; i++) target[to + i] = words[from + i] as number;
        } else {
          for (let i = 0; i < size; i++) target[to + i] = words[(from + i) & mask] as number;
        }
        to += size;
        count++;
      }
      at += (length + HEADER_BYTES + 7) & ~7;
    }
    if (at !== this.position) {
      this.position = at;
      Atomics.store(this.consumed, 0, BigInt(at));
    }
    return { count, bytes: to * 4 };
  }

  /** Bytes of the ring that wait to be read. */
  get waiting(): number {
    return this.open ? Number(Atomics.load(this.produced, 0)) - this.position : 0;
  }

  close(): void {
    if (!this.open) return;
    this.open = false;
    for (const [at, size] of this.mappings) native().libc.munmap(at, size);
  }
}
