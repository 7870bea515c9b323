/** A map that forgets what was set longest ago when there is more than `most`. */
export class BoundedMap<K, V> extends Map<K, V> {
  /** stands before the oldest: a new one would walk over all that were forgotten */
  private readonly oldest = this.keys();

  constructor(private readonly most: number) {
    super();
  }

  override set(key: K, value: V): this {
    this.delete(key);
    super.set(key, value);
    if (this.size > this.most) this.delete(this.oldest.next().value!);
    return this;
  }
}
