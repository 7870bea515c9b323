import { BoundedMap } from './bounded-map.js';

/** How long a packet may be on its way, ns. */
const LIFETIME = 5e9;
const MAX_KEYS = 16_384;

/** Keys of exchanges that ended a moment ago: later packets of theirs begin nothing new. */
export class RecentKeys {
  private readonly times = new BoundedMap<string, number>(MAX_KEYS);

  /** @param time when the exchange was last heard of, CLOCK_MONOTONIC ns */
  add(keys: readonly string[], time: number): void {
    for (const key of keys) this.times.set(key, time);
  }

  has(key: string, time: number): boolean {
    const last = this.times.get(key);
    return last !== undefined && time - last < LIFETIME;
  }
}
