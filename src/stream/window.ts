import { recordSize } from '../session/records.js';

/** Records as they were packed for the clients. */
export interface Entry {
  firstSeq: number;
  count: number;
  /** the whole `records` message */
  message: Buffer;
  /** the records in it */
  records: Buffer;
}

/**
 * The latest records, once for all clients: each client has only a place in it. What is older than
 * the bound is gone.
 */
export class Window {
  private entries: Entry[] = [];
  private bytes = 0;
  /** number of the next record that will come */
  next = 0;

  /** @param maxBytes of messages that are kept */
  constructor(private readonly maxBytes: number) {}

  /** Number of the oldest record kept; `next` where there is none. */
  get oldest(): number {
    return this.entries[0]?.firstSeq ?? this.next;
  }

  push(entry: Entry): void {
    this.entries.push(entry);
    this.bytes += entry.message.length;
    this.next = entry.firstSeq + entry.count;
    while (this.bytes > this.maxBytes && this.entries.length > 1)
      this.bytes -= this.entries.shift()!.message.length;
  }

  clear(next: number): void {
    this.entries = [];
    this.bytes = 0;
    this.next = next;
  }

  /** The entry that holds record `seq`, or the first after it; null at the end. */
  at(seq: number): Entry | null {
    let low = 0;
    let high = this.entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const entry = this.entries[middle]!;
      if (entry.firstSeq + entry.count > seq) high = middle;
      else low = middle + 1;
    }
    return this.entries[low] ?? null;
  }

  /** The record itself, null where it is not kept. */
  record(seq: number): Buffer | null {
    const entry = this.at(seq);
    if (!entry || seq < entry.firstSeq) return null;
    const { records } = entry;
    let at = 0;
    for (let i = entry.firstSeq; i < seq; i++) at += recordSize(records, at);
    return records.subarray(at, at + recordSize(records, at));
  }
}
