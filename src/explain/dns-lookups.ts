import { AT } from '../event/cursor.js';
import { questionKey, readDns, type DnsMessage } from '../event/dns.js';
import { reverseKey, tupleKey, type Layer } from '../event/headers.js';
import { Point } from '../event/point.js';
import { Exchange, placeOf } from './exchange.js';
import { IPS_DST_NAT, IPS_SRC_NAT } from './observation.js';
import type { Registry, Seen, Tracker } from './tracker.js';

/** A lookup that took longer than this, or needed a repeat, is looked into. */
const SLOW_MS = 500;
/** How soon after a name that does not exist the next one of the search list is asked for, ns. */
const NEXT_STEP = 250e6;
/** Longer than any resolver waits before it repeats (glibc 5 s, options timeout up to 30), ns. */
const PATIENCE = 31e9;

/** Lookups of one client at once. */
const MAX_RECENT = 256;

const DNS_PORT = 53;
const NXDOMAIN = 3;

/** One question a resolver asks: its packets bear one id, name and type. */
export interface Query {
  /** as in the DNS header */
  id: number;
  /** the client's, where it was first seen */
  port: number;
  name: string | null;
  type: number;
  /** CLOCK_MONOTONIC ns */
  sentAt: number;
  /** when the answer was back where the question came from; 0: not yet */
  answeredAt: number;
  rcode: number;
  truncated: boolean;
  /** answer records */
  answers: number;
}

/** A DNS lookup: what one client asks for one name, over all name servers and search-list steps. */
export class Lookup extends Exchange {
  readonly queries: Query[] = [];

  constructor(
    netns: number,
    startedAt: number,
    /** the client's address, as its own flow bears it */
    readonly client: string,
  ) {
    super('dns-lookup', 0, netns, startedAt);
  }

  get answered(): boolean {
    return this.queries.every((query) => query.answeredAt !== 0);
  }
}

interface Known {
  lookup: Lookup;
  /** index of the query */
  query: number;
}

/** DNS over UDP: queries tied by flow (in every shape NAT gives it), id and question. */
export class DnsLookups implements Tracker {
  private readonly byKey = new Map<string, Known>();
  /** by client address: the lookups that a further query may belong to, the latest last */
  private readonly recent = new Map<string, Lookup[]>();

  constructor(private readonly registry: Registry) {}

  packet(seen: Seen): void {
    const { cursor, headers, tunnel } = seen;
    const { flow } = headers;
    const at = flow.l4 + 8;
    const end = cursor.base + AT.packet + cursor.packetLength;
    if (flow.sport !== DNS_PORT && flow.dport !== DNS_PORT && (tunnel || cursor.ct === 0)) return;
    if (at + 12 > end) return;
    if ((cursor.bytes[at + 2]! & 0x80) === 0) this.query(seen, flow, at, end);
    else this.answer(seen, flow, at, end);
  }

  isHealthy(exchange: Exchange): boolean {
    const lookup = exchange as Lookup;
    return (
      lookup.outcome === 'recovered' &&
      lookup.attempts.length === lookup.queries.length &&
      !lookup.dropped &&
      lookup.delayMs < SLOW_MS
    );
  }

  forget(exchange: Exchange): void {
    const lookup = exchange as Lookup;
    for (const key of lookup.keys)
      if (this.byKey.get(key)?.lookup === lookup) this.byKey.delete(key);
    const recent = this.recent.get(lookup.client)?.filter((other) => other !== lookup) ?? [];
    if (recent.length > 0) this.recent.set(lookup.client, recent);
    else this.recent.delete(lookup.client);
  }

  expire(now: number): void {
    for (const exchange of this.registry.open) {
      if (exchange.kind !== 'dns-lookup') continue;
      const lookup = exchange as Lookup;
      if (lookup.answered) {
        if (now - lookup.lastTime > NEXT_STEP) this.end(lookup);
      } else if (now - (lookup.attempts.at(-1)?.startedAt ?? lookup.startedAt) > PATIENCE)
        this.registry.close(lookup, lookup.lastTime, 'failed');
    }
  }

  private query(
    { cursor, headers, session, time, point, tunnel }: Seen,
    flow: Layer,
    at: number,
    end: number,
  ): void {
    const { bytes, base } = cursor;
    const question = questionKey(bytes, at, end);
    const key = flow.key(bytes) + question;
    let known = this.byKey.get(key);
    let original = '';
    let translated = '';
    if (!tunnel && (cursor.ctStatus & (IPS_SRC_NAT | IPS_DST_NAT)) !== 0) {
      original = tupleKey(bytes, base + AT.original) + question;
      translated = reverseKey(tupleKey(bytes, base + AT.reply)) + question;
      known ??= this.byKey.get(original) ?? this.byKey.get(translated);
    }
    known ??= this.ask(flow, bytes, cursor.netns, time, readDns(bytes, at, end)!);
    const { lookup, query } = known;
    this.alias(key, known);
    if (original) {
      this.alias(original, known);
      this.alias(translated, known);
    }
    const drop = point === Point['packet.drop'];
    const ipId = headers.flow.identification(bytes);
    const previous = lookup.attempts.length;
    if (!drop || !lookup.attempts.some((attempt) => attempt.message === query)) {
      const again = lookup.arrive(placeOf(cursor), ipId, time, query);
      if (again && previous > 0) this.registry.judge(lookup);
    }
    if (lookup.sock === 0) lookup.sock = cursor.sock;
    lookup.add(cursor, session, time, lookup.attemptOf(ipId, query));
    if (drop) {
      lookup.dropped = true;
      this.registry.judge(lookup);
    }
  }

  private answer(
    { cursor, session, time, point }: Seen,
    flow: Layer,
    at: number,
    end: number,
  ): void {
    const { bytes } = cursor;
    const question = questionKey(bytes, at, end);
    const known = this.byKey.get(reverseKey(flow.key(bytes)) + question);
    if (!known) return;
    const { lookup } = known;
    const query = lookup.queries[known.query]!;
    lookup.add(cursor, session, time, lookup.attemptOf(0, known.query));
    if (point === Point['packet.drop']) {
      lookup.dropped = true;
      this.registry.judge(lookup);
    } else if (cursor.netns === lookup.netns && query.answeredAt === 0) {
      const { rcode, truncated, answers } = readDns(bytes, at, end)!;
      Object.assign(query, { answeredAt: time, rcode, truncated, answers });
      if (lookup.answered && !mayGoOn(lookup)) this.end(lookup);
    }
  }

  /** The lookup that a new question belongs to: A with AAAA, another server, the next search-list step, or a new one. */
  private ask(flow: Layer, bytes: Buffer, netns: number, time: number, message: DnsMessage): Known {
    const client = flow.key(bytes).slice(0, flow.version === 4 ? 4 : 16);
    const recent = this.recent.get(client) ?? [];
    let lookup = recent.findLast((other) => continues(other, message, flow.sport, time));
    if (!lookup) {
      lookup = new Lookup(netns, time, client);
      this.registry.begin(lookup, this);
      recent.push(lookup);
      this.recent.set(client, recent);
      if (recent.length > MAX_RECENT) recent.shift();
    }
    lookup.queries.push({
      id: message.id,
      port: flow.sport,
      name: message.name,
      type: message.type,
      sentAt: time,
      answeredAt: 0,
      rcode: 0,
      truncated: false,
      answers: 0,
    });
    return { lookup, query: lookup.queries.length - 1 };
  }

  private alias(key: string, known: Known): void {
    if (this.byKey.get(key)?.lookup === known.lookup) return;
    this.byKey.set(key, known);
    known.lookup.keys.push(key);
  }

  private end(lookup: Lookup): void {
    const last = Math.max(...lookup.queries.map((query) => query.answeredAt));
    this.registry.close(lookup, last, 'recovered');
  }
}

/** Another search-list step may follow a name that does not exist, TCP a truncated answer. */
function mayGoOn(lookup: Lookup): boolean {
  return lookup.queries.some((query) => query.rcode === NXDOMAIN || query.truncated);
}

/**
 * Does a question go on with a lookup? A and AAAA leave one socket; a repeat to another server keeps
 * its id (glibc, musl and c-ares send the same bytes again); the next step of a search list follows
 * soon after the answer that there is no such name.
 */
function continues(lookup: Lookup, message: DnsMessage, port: number, time: number): boolean {
  const { queries, answered } = lookup;
  const same = queries.find((query) => query.name === message.name && query.type === message.type);
  if (same) return same.id === message.id && same.answeredAt === 0;
  if (queries.some((query) => query.name === message.name && query.port === port)) return true;
  const last = queries.at(-1)!;
  return (
    answered &&
    last.rcode === NXDOMAIN &&
    time - lookup.lastTime < NEXT_STEP &&
    message.name !== null &&
    message.name.split('.')[0] === last.name?.split('.')[0]
  );
}
