import type { Cursor } from '../../event/cursor.js';
import type { Headers } from '../../event/headers.js';
import type { Exchange } from './exchange.js';

/** What the explainer's loop hands to the trackers: one event, not yet copied. */
export interface Seen {
  /** stands on the event's record */
  readonly cursor: Cursor;
  /** its packet's headers; not to be looked at for socket events */
  readonly headers: Headers;
  /** index of its session */
  readonly session: number;
  /** CLOCK_MONOTONIC, ns */
  readonly time: number;
  readonly point: number;
  readonly tunnel: boolean;
}

/** Follows the exchanges of one kind: finds the one that an event belongs to, knows when it ends. */
export interface Tracker {
  /** A packet of its protocol was seen. */
  packet(seen: Seen): void;
  /** Time passed: exchanges that nobody will end are given up. */
  expire(now: number): void;
  /**
   * Nothing of it will be asked for again.
   * @param early before it ended: what follows of it belongs to nothing
   */
  forget(exchange: Exchange, early: boolean): void;
  /** It ended as it should, soon enough: nothing to explain. */
  isHealthy(exchange: Exchange): boolean;
}

/** What a tracker tells the explainer. */
export interface Registry {
  /**
   * A new exchange; another one is forgotten when there are too many.
   * @returns false: there is no room for it, it is not followed
   */
  begin(exchange: Exchange, tracker: Tracker): boolean;
  /** Something happened that may prove a cause: it is judged soon, once for all that happens until then. */
  judge(exchange: Exchange): void;
  /** Two exchanges under way turned out to be one: `part` is not followed any more. */
  unite(whole: Exchange, part: Exchange): void;
  /** @param time when it ended, CLOCK_MONOTONIC ns; 0: it did not, the session did */
  close(exchange: Exchange, time: number, outcome?: 'recovered' | 'failed'): void;
  readonly open: Iterable<Exchange>;
}
