/** Keys of one generation: as many again are kept while the next one fills. */
const MAX_KEYS = 16_384;

/** Keys of exchanges that ended a moment ago: later packets of theirs begin nothing new. */
export class RecentKeys {
  private young = new Map<string, number>();
  private old = new Map<string, number>();

  /** @param until when a packet of it is another exchange's, CLOCK_MONOTONIC ns */
  add(keys: readonly string[], until: number): void {
    if (this.young.size + keys.length > MAX_KEYS) {
      this.old = this.young;
      this.young = new Map();
    }
    for (const key of keys) this.young.set(key, until);
  }

  /** Is one of a packet's keys such a key? Then its others are, too. */
  have(keys: readonly string[], time: number): boolean {
    let latest = 0;
    for (const key of keys) latest = Math.max(latest, this.until(key));
    if (latest <= time) return false;
    this.add(
      keys.filter((key) => this.until(key) === 0),
      latest,
    );
    return true;
  }

  private until(key: string): number {
    return this.young.get(key) ?? this.old.get(key) ?? 0;
  }
}
