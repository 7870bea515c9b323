import type { Cursor } from '../event/cursor.js';
import type { Headers } from '../event/headers.js';
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
  /** Nothing of it will be asked for again. */
  forget(exchange: Exchange): void;
  /** It ended as it should, soon enough: nothing to explain. */
  isHealthy(exchange: Exchange): boolean;
}

/** What a tracker tells the explainer. */
export interface Registry {
  /** A new exchange; the oldest open one is forgotten when there are too many. */
  begin(exchange: Exchange, tracker: Tracker): void;
  /** Something happened that may prove a cause. */
  judge(exchange: Exchange): boolean;
  /** @param time when it ended, CLOCK_MONOTONIC ns; 0: it did not, the session did */
  close(exchange: Exchange, time: number, outcome?: 'recovered' | 'failed'): void;
  readonly open: Iterable<Exchange>;
}
