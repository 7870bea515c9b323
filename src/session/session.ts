import type { Layout } from '../event/layout.js';
import type { PlanEntry } from '../event/point.js';

/** What a session says of itself before its first record; JSON, at the head of a file and a stream. */
export interface SessionHeader {
  format: 1;
  /** stable identity: evidence names it */
  id: string;
  /** host name */
  node: string;
  /** /proc/sys/kernel/random/boot_id: monotonic times of equal boots are one clock */
  boot: string;
  /** ISO 8601 */
  startedAt: string;
  kernel: { release: string; version: string; machine: string; hz: number };
  clock: {
    /** CLOCK_MONOTONIC at the start, ns */
    startNs: number;
    /** CLOCK_REALTIME − CLOCK_MONOTONIC, µs */
    realtimeOffsetUs: number;
  };
  filter: string | null;
  /** names given with --netns; null: every namespace */
  netns: string[] | null;
  plan: PlanEntry[];
  layout: Layout;
  /** names of drop reasons by number, from this kernel's BTF */
  reasons: Record<string, string>;
}

/** A run of whole records as they stand in memory, file and stream. */
export interface Batch {
  /** running number of the first record in its session, from 0 */
  firstSeq: number;
  count: number;
  bytes: Buffer;
}

/** Live, from a file or over the network: the same thing. Ends when the source ends. */
export interface Session extends AsyncIterable<Batch> {
  readonly header: SessionHeader;
  /** Stops the source; the iteration ends after the records already taken. */
  close(): Promise<void>;
}
