import type { Exchange } from './exchange.js';
import { Line } from './line.js';
import type { Tracker } from './tracker.js';

/**
 * The exchanges in memory: those under way, and those that ended and wait for their judgement.
 * Never more than a budget: the oldest one that nothing ailed so far is forgotten first, then the
 * oldest without a finding, never one with a finding.
 */
export class HeldExchanges {
  /** of those under way, in the order in which they began */
  private readonly trackers = new Map<Exchange, Tracker>();
  private readonly ended = new Set<Exchange>();
  private readonly healthy = new Line<Exchange>();
  private readonly suspects = new Line<Exchange>();

  /** @param budget how many at most */
  constructor(private readonly budget: number) {}

  /** Those under way. */
  get open(): Iterable<Exchange> {
    return this.trackers.keys();
  }

  get full(): boolean {
    return this.trackers.size + this.ended.size >= this.budget;
  }

  add(exchange: Exchange, tracker: Tracker): void {
    this.trackers.set(exchange, tracker);
    this.healthy.join(exchange);
  }

  /** Who follows it; undefined: it is not under way any more. */
  trackerOf(exchange: Exchange): Tracker | undefined {
    return this.trackers.get(exchange);
  }

  /** It ended, and is to be judged. */
  end(exchange: Exchange): void {
    if (this.trackers.delete(exchange)) this.ended.add(exchange);
  }

  /** Something is wrong with it. */
  suspect(exchange: Exchange): void {
    if (this.healthy.leave(exchange)) this.suspects.join(exchange);
  }

  /** It has a finding: it stays until it is over. */
  keep(exchange: Exchange): void {
    this.healthy.leave(exchange);
    this.suspects.leave(exchange);
  }

  remove(exchange: Exchange): void {
    this.trackers.delete(exchange);
    this.ended.delete(exchange);
    this.keep(exchange);
  }

  /** The one to forget for another's sake; undefined: each of them has a finding. */
  first(): Exchange | undefined {
    return this.healthy.shift() ?? this.suspects.shift();
  }
}
