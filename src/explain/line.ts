/**
 * Those who wait, the first to come being the first to go; anybody may leave before. The first is
 * found without walking over those who left: a Set's own iterator goes on where it stood.
 */
export class Line<T> {
  private readonly members = new Set<T>();
  private next = this.members.values();

  get size(): number {
    return this.members.size;
  }

  /** At its end, unless it stands in it already. */
  join(member: T): void {
    this.members.add(member);
  }

  /** @returns whether it stood in it */
  leave(member: T): boolean {
    return this.members.delete(member);
  }

  /** Takes the first out. */
  shift(): T | undefined {
    let first = this.next.next();
    if (first.done) {
      this.next = this.members.values();
      first = this.next.next();
      if (first.done) return undefined;
    }
    this.members.delete(first.value);
    return first.value;
  }
}
