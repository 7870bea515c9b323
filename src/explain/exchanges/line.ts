interface Place<T> {
  readonly member: T;
  before: Place<T> | null;
  after: Place<T> | null;
}

/**
 * Those who wait, the first to come being the first to go; anybody may leave before. Linked: a Set
 * walks over those who left to find its first, and an iterator that stays keeps them all in memory.
 */
export class Line<T> {
  private readonly places = new Map<T, Place<T>>();
  private first: Place<T> | null = null;
  private last: Place<T> | null = null;

  get size(): number {
    return this.places.size;
  }

  /** At its end, unless it stands in it already. */
  join(member: T): void {
    if (this.places.has(member)) return;
    const place = { member, before: this.last, after: null };
    if (this.last) this.last.after = place;
    else this.first = place;
    this.last = place;
    this.places.set(member, place);
  }

  /** @returns whether it stood in it */
  leave(member: T): boolean {
    const place = this.places.get(member);
    if (!place) return false;
    const { before, after } = place;
    if (before) before.after = after;
    else this.first = after;
    if (after) after.before = before;
    else this.last = before;
    return this.places.delete(member);
  }

  /** Takes the first out. */
  shift(): T | undefined {
    if (!this.first) return undefined;
    const { member } = this.first;
    this.leave(member);
    return member;
  }
}
