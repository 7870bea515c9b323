import { BoundedMap } from '../bounded-map.js';

const MAX_KEYS = 16_384;

/** Keys of exchanges that ended a moment ago: later packets of theirs begin nothing new. */
export class RecentKeys {
  private readonly untils = new BoundedMap<string, number>(MAX_KEYS);

  /** @param until when a packet of it is another exchange's, CLOCK_MONOTONIC ns */
  add(keys: readonly string[], until: number): void {
    for (const key of keys) this.untils.set(key, until);
  }

  /** Is one of a packet's keys such a key? Then its others are, too. */
  have(keys: readonly string[], time: number): boolean {
    let latest = 0;
    for (const key of keys) latest = Math.max(latest, this.untils.get(key) ?? 0);
    if (latest <= time) return false;
    for (const key of keys) if (!this.untils.has(key)) this.untils.set(key, latest);
    return true;
  }
}
