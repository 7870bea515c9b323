import { Line } from './exchanges/line.js';

/** A map that forgets what was set longest ago when there is more than `most`. */
export class BoundedMap<K, V> {
  private readonly values = new Map<K, V>();
  private readonly ages = new Line<K>();

  constructor(private readonly most: number) {}

  get(key: K): V | undefined {
    return this.values.get(key);
  }

  has(key: K): boolean {
    return this.values.has(key);
  }

  set(key: K, value: V): void {
    this.ages.leave(key);
    this.ages.join(key);
    this.values.set(key, value);
    if (this.values.size > this.most) this.values.delete(this.ages.shift()!);
  }

  delete(key: K): void {
    this.ages.leave(key);
    this.values.delete(key);
  }
}
