import { AT } from '../../event/cursor.js';
import { questionKey, readDns, type DnsMessage } from '../../event/dns.js';
import {
  formatEndpoint,
  keyEndpoints,
  reverseKey,
  sourceKey,
  TCP_ACK,
  TCP_SYN,
  tupleKey,
  type Layer,
} from '../../event/headers.js';
import { Point } from '../../event/point.js';
import { BoundedMap } from '../bounded-map.js';
import { Exchange, netnsOfPlace, placeOf } from './exchange.js';
import { IPS_DST_NAT, IPS_SRC_NAT } from './observation.js';
import { RecentKeys } from './recent-keys.js';
import type { Registry, Seen, Tracker } from './tracker.js';

/** How long an answer that has arrived may still be refused by its socket, ns. */
const TAKING = 20e6;
/** How long a packet that was repeated may be on its way, ns. */
const LIFETIME = 5e9;
/** How much later than its time an event may come, ns; the same question may be asked again soon. */
const OUT_OF_ORDER = 50e6;
/** How soon after a name that does not exist the next one of the search list is asked for, ns. */
const NEXT_STEP = 250e6;
/** Longer than any resolver waits before it repeats (glibc 5 s, options timeout up to 30), ns. */
const PATIENCE = 31e9;
/** A resolver that has repeated waits as long again, and a bit, ns. */
const MARGIN = 1e9;

/** Questions that leave within so long, ms, were not waited for in between. */
const TOGETHER_MS = 100;

/** Lookups of one client at once. */
const MAX_RECENT = 256;
/** Name servers, and Services' addresses, remembered; the oldest is forgotten first. */
const MAX_SERVERS = 4096;

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
  /** the flows it was sent in, as the client's own namespace knows them */
  sentIn: Set<string>;
  /** skb of the packet that answered it, while it is on its way to the socket */
  answeredBy: number;
}

/** How often a name server was asked and answered so far, in this recording. */
export interface NameServerTally {
  asked: number;
  answered: number;
}

/** Where new conntrack entries take a Service's queries. */
export interface Translation {
  backend: string;
  /** CLOCK_MONOTONIC ns */
  time: number;
  session: number;
  seq: number;
}

/** The TCP connection over which a truncated answer is asked for again. */
export interface Retry {
  /** client to server, as first seen */
  flow: string;
  isn: number;
  /** CLOCK_MONOTONIC ns */
  startedAt: number;
  /** when the SYN-ACK was back; 0: not yet */
  openedAt: number;
}

/** A DNS lookup: what one client asks for one name, over all name servers and search-list steps. */
export class Lookup extends Exchange {
  readonly queries: Query[] = [];
  /** over TCP, after an answer was truncated */
  retry: Retry | null = null;
  /** what the server asked another one for its sake: the same question, from where it was delivered */
  upstream: Lookup | null = null;

  constructor(
    netns: number,
    startedAt: number,
    /** the client's address, as its own flow bears it */
    readonly client: string,
  ) {
    super('dns-lookup', 0, netns, startedAt);
  }

  /** The number here of a query of a lookup that turned out to be a part of this one. */
  take(query: Query): number {
    const known = this.queries.findIndex(
      ({ id, name, type }) => id === query.id && name === query.name && type === query.type,
    );
    return known >= 0 ? known : this.queries.push({ ...query, sentIn: new Set() }) - 1;
  }

  get answered(): boolean {
    // Once it asks over TCP it does not listen to UDP any more.
    if (this.retry) return this.retry.openedAt !== 0;
    return this.queries.every((query) => query.answeredAt !== 0);
  }

  /** CLOCK_MONOTONIC ns; of the last answer */
  get answeredAt(): number {
    const last = Math.max(...this.queries.map((query) => query.answeredAt));
    return Math.max(last, this.retry?.openedAt ?? 0);
  }
}

interface Known {
  lookup: Lookup;
  /** index of the query */
  query: number;
}

/**
 * DNS over UDP: queries tied by flow (in every shape NAT gives it), id and question, or by client,
 * id and question alone: an answer may come from another address than the query went to.
 */
export class DnsLookups implements Tracker {
  /** by address and port of the server, as the client knows it */
  readonly nameServers = new BoundedMap<string, NameServerTally>(MAX_SERVERS);
  /** by address and port of a Service: the latest new entry's */
  readonly translations = new BoundedMap<string, Translation>(MAX_SERVERS);
  private readonly byKey = new Map<string, Known>();
  /** by client address: the lookups that a further query may belong to, the latest last */
  private readonly recent = new Map<string, Lookup[]>();
  /** answered lookups whose socket may still refuse the last answer */
  private readonly ending = new Set<Lookup>();
  private readonly done = new RecentKeys();
  /** by type and name: the latest one without an answer */
  private readonly waiting = new Map<string, Known>();

  constructor(
    private readonly registry: Registry,
    /** a lookup that took longer than this, or needed a repeat, is looked into, ms */
    private readonly slowMs: number,
  ) {}

  packet(seen: Seen): void {
    const { cursor, headers, tunnel } = seen;
    this.settle(seen.time - TAKING);
    const { flow } = headers;
    const at = flow.l4 + 8;
    const end = cursor.base + AT.packet + cursor.packetLength;
    if (flow.sport !== DNS_PORT && flow.dport !== DNS_PORT && (tunnel || cursor.ct === 0)) return;
    if (at + 12 > end) return;
    if ((cursor.bytes[at + 2]! & 0x80) === 0) this.query(seen, flow, at, end);
    else this.answer(seen, flow, at, end);
  }

  /** What a function did to a packet: belongs to its exchange, begins none and is no new attempt. */
  witness({ cursor, headers, session, time, tunnel }: Seen): void {
    const { flow } = headers;
    const { bytes, base } = cursor;
    const at = flow.l4 + 8;
    const end = base + AT.packet + cursor.packetLength;
    if (at + 12 > end) return;
    const response = (bytes[at + 2]! & 0x80) !== 0;
    const own = response ? flow.reverseKey(bytes) : flow.key(bytes);
    const original = tunnel || cursor.ct === 0 ? own : tupleKey(bytes, base + AT.original);
    const question = questionKey(bytes, at, end);
    const known = this.byKey.get(own + question) ?? this.byKey.get(original + question);
    if (!known) return;
    const ipId = response ? 0 : flow.identification(bytes);
    known.lookup.add(cursor, session, time, known.lookup.attemptOf(ipId, known.query));
  }

  isHealthy(exchange: Exchange): boolean {
    const lookup = exchange as Lookup;
    return (
      lookup.outcome === 'recovered' &&
      // What was repeated sooner than anybody waits had only left late.
      (lookup.attempts.length === lookup.queries.length || lookup.delayMs < TOGETHER_MS) &&
      !lookup.dropped &&
      lookup.delayMs < this.slowMs
    );
  }

  forget(exchange: Exchange, early: boolean): void {
    const lookup = exchange as Lookup;
    this.leave(lookup);
    // What is still on its way, or comes out of order, belongs to nothing any more.
    const repeated = early || lookup.attempts.length > lookup.queries.length;
    this.done.add(lookup.keys, lookup.lastTime + (repeated ? LIFETIME : OUT_OF_ORDER));
  }

  private leave(lookup: Lookup): void {
    this.ending.delete(lookup);
    for (const query of lookup.queries)
      if (this.waiting.get(subjectKey(query))?.lookup === lookup)
        this.waiting.delete(subjectKey(query));
    for (const key of lookup.keys)
      if (this.byKey.get(key)?.lookup === lookup) this.byKey.delete(key);
    const recent = this.recent.get(lookup.client)?.filter((other) => other !== lookup) ?? [];
    if (recent.length > 0) this.recent.set(lookup.client, recent);
    else this.recent.delete(lookup.client);
  }

  /** Ends the lookups whose last answer came before `time`, CLOCK_MONOTONIC ns. */
  settle(time = Infinity): void {
    for (const lookup of this.ending) {
      if (lookup.answeredAt > time) break;
      this.ending.delete(lookup);
      if (lookup.answered) this.end(lookup);
    }
  }

  /** A SYN or its answer on port 53: the same question again, after an answer was truncated. */
  retried({ cursor, headers, session, time, point }: Seen): void {
    // What becomes of the connection is a matter of the exchange that it is itself.
    if (point === Point['packet.drop']) return;
    const { flow } = headers;
    const { bytes } = cursor;
    const handshake = flow.flags & (TCP_SYN | TCP_ACK);
    if (handshake === TCP_SYN) {
      const key = flow.key(bytes);
      const lookup = this.recent
        .get(addressOf(key))
        ?.findLast((other) => other.queries.some((q) => q.truncated) && asks(other, key));
      if (!lookup) return;
      const isn = flow.seq(bytes);
      lookup.retry ??= { flow: key, isn, startedAt: time, openedAt: 0 };
      if (lookup.retry.isn === isn) lookup.add(cursor, session, time);
    } else if (handshake !== 0) {
      const key = flow.reverseKey(bytes);
      const isn = (flow.ack(bytes) - 1) >>> 0;
      const lookup = this.recent
        .get(addressOf(key))
        ?.findLast(({ retry }) => retry?.flow === key && retry.isn === isn);
      if (!lookup?.retry) return;
      lookup.add(cursor, session, time);
      if (cursor.netns !== lookup.netns) return;
      lookup.retry.openedAt ||= time;
      if (lookup.answered) this.ending.add(lookup);
    }
  }

  /** An ICMP error about a query; what it quotes ends before the question. */
  error({ cursor, headers, session, time, tunnel }: Seen): void {
    const { bytes, base } = cursor;
    const flows = [headers.quoted.key(bytes)];
    if (!tunnel && cursor.ct !== 0) flows.push(tupleKey(bytes, base + AT.original));
    for (const flow of flows)
      for (const lookup of this.recent.get(addressOf(flow)) ?? []) {
        const key = lookup.keys.find((each) => each.startsWith(flow));
        const known = key === undefined ? undefined : this.byKey.get(key);
        if (!known) continue;
        lookup.add(cursor, session, time, lookup.attemptOf(0, known.query));
        return;
      }
  }

  expire(now: number): void {
    this.settle(now - TAKING);
    for (const exchange of this.registry.open) {
      if (exchange.kind !== 'dns-lookup') continue;
      const lookup = exchange as Lookup;
      if (lookup.answered) {
        if (now - lookup.lastTime > NEXT_STEP) this.end(lookup);
      } else if (now - (lookup.attempts.at(-1)?.startedAt ?? lookup.startedAt) > patience(lookup))
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
    const own = flow.key(bytes);
    const key = own + question;
    const client = sourceKey(own) + question;
    const translated = !tunnel && (cursor.ctStatus & (IPS_SRC_NAT | IPS_DST_NAT)) !== 0;
    const original = translated ? tupleKey(bytes, base + AT.original) : own;
    const before = original + question;
    const after = translated ? reverseKey(tupleKey(bytes, base + AT.reply)) + question : key;
    let known = this.byKey.get(before) ?? this.byKey.get(key) ?? this.byKey.get(client);
    known ??= this.byKey.get(after);
    if (!known && this.done.have([before, key, client, after], time)) return;
    if (translated && point === Point['nat.setup'] && (cursor.ctStatus & IPS_DST_NAT) !== 0)
      this.translations.set(
        formatEndpoint(keyEndpoints(tupleKey(bytes, base + AT.original)).destination),
        {
          backend: formatEndpoint(keyEndpoints(tupleKey(bytes, base + AT.reply)).source),
          time,
          session,
          seq: cursor.seq,
        },
      );
    known ??= this.ask(original, cursor.netns, time, readDns(bytes, at, end)!);
    if (!known) return;
    const { lookup, query } = known;
    this.alias(key, known);
    this.alias(client, known);
    if (translated) {
      this.alias(before, known);
      this.alias(after, known);
    }
    const drop = point === Point['packet.drop'];
    const { netns } = lookup;
    // Only the client's own flows are those it sent in.
    if (lookup.beganAt(cursor, session, time) && lookup.netns !== netns)
      for (const { sentIn } of lookup.queries) sentIn.clear();
    const ipId = headers.flow.identification(bytes);
    const asked = lookup.attempts.some((attempt) => attempt.message === query);
    if (!drop || !asked) {
      const again = lookup.arrive(placeOf(cursor), ipId, time, query);
      const { sentIn } = lookup.queries[query]!;
      if (cursor.netns === lookup.netns && (again || sentIn.size === 0)) {
        sentIn.add(own);
        this.tally(own).asked++;
      }
      if (again && asked) this.registry.judge(lookup);
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
    const asked = reverseKey(flow.key(bytes));
    const known = this.byKey.get(asked + question) ?? this.byKey.get(sourceKey(asked) + question);
    if (!known) return;
    const { lookup } = known;
    const query = lookup.queries[known.query]!;
    lookup.add(cursor, session, time, lookup.attemptOf(0, known.query));
    if (point === Point['packet.drop']) {
      // After its answer a socket is gone, and what comes to it late does no harm.
      if (query.answeredAt !== 0 && query.answeredBy !== cursor.skb) return;
      query.answeredAt = 0;
      this.ending.delete(lookup);
      lookup.dropped = true;
      this.registry.judge(lookup);
    } else if (cursor.netns === lookup.netns && query.answeredAt === 0) {
      // Another address than the one that was asked is no answer, unless NAT will mend that.
      const original = cursor.ct ? tupleKey(bytes, cursor.base + AT.original) : '';
      if (!query.sentIn.has(asked) && this.byKey.get(original + question) !== known) return;
      const { rcode, truncated, answers } = readDns(bytes, at, end)!;
      Object.assign(query, { answeredAt: time, answeredBy: cursor.skb, rcode, truncated, answers });
      if (query.sentIn.has(asked)) this.tally(asked).answered++;
      if (lookup.answered && !mayGoOn(lookup)) this.ending.add(lookup);
    }
  }

  private tally(flow: string): NameServerTally {
    const server = formatEndpoint(keyEndpoints(flow).destination);
    let tally = this.nameServers.get(server);
    if (!tally) this.nameServers.set(server, (tally = { asked: 0, answered: 0 }));
    return tally;
  }

  /** The lookup that a new question belongs to: A with AAAA, another server, the next search-list step, or a new one. */
  private ask(flow: string, netns: number, time: number, message: DnsMessage): Known | undefined {
    const client = addressOf(flow);
    const { port } = keyEndpoints(flow).source;
    const recent = this.recent.get(client) ?? [];
    let lookup = recent.findLast((other) => continues(other, message, port, time));
    if (!lookup) {
      lookup = new Lookup(netns, time, client);
      if (!this.registry.begin(lookup, this)) return undefined;
      recent.push(lookup);
      this.recent.set(client, recent);
      if (recent.length > MAX_RECENT) recent.shift();
    }
    const asked = lookup.queries.findIndex((query) => isRepeat(query, message));
    if (asked >= 0) return { lookup, query: asked };
    lookup.queries.push({
      id: message.id,
      port,
      name: message.name,
      type: message.type,
      sentAt: time,
      answeredAt: 0,
      rcode: 0,
      truncated: false,
      answers: 0,
      sentIn: new Set(),
      answeredBy: 0,
    });
    const known = { lookup, query: lookup.queries.length - 1 };
    const downstream = this.waiting.get(subjectKey(message));
    if (downstream && waitsIn(downstream, netns)) downstream.lookup.upstream = lookup;
    else this.waiting.set(subjectKey(message), known);
    return known;
  }

  private alias(key: string, known: Known): void {
    const other = this.byKey.get(key);
    if (other?.lookup === known.lookup) return;
    this.byKey.set(key, known);
    known.lookup.keys.push(key);
    // Behind NAT it was seen first: in another session, or out of order.
    if (other?.lookup.keys[0] === key) this.unite(known.lookup, other.lookup);
  }

  private unite(whole: Lookup, part: Lookup): void {
    const queries = part.queries.map((query) => whole.take(query));
    whole.absorb(part, (message) => queries[message]!);
    for (const key of part.keys) {
      const known = this.byKey.get(key);
      if (known?.lookup === part) this.alias(key, { lookup: whole, query: queries[known.query]! });
    }
    this.leave(part);
    this.registry.unite(whole, part);
  }

  private end(lookup: Lookup): void {
    this.registry.close(lookup, lookup.answeredAt, 'recovered');
  }
}

/** The source address of a flow's key. */
function addressOf(key: string): string {
  return key.slice(0, key.length === 12 ? 4 : 16);
}

function subjectKey({ type, name }: { type: number; name: string | null }): string {
  return `${type} ${name ?? ''}`;
}

/** Was the question delivered to this namespace, from another, and not answered yet? */
function waitsIn({ lookup, query }: Known, netns: number): boolean {
  return (
    lookup.netns !== netns &&
    lookup.queries[query]?.answeredAt === 0 &&
    lookup.attempts.some(
      (attempt) =>
        attempt.message === query && attempt.places.some((place) => netnsOfPlace(place) === netns),
    )
  );
}

/** Was the flow's destination address asked by the lookup? */
function asks(lookup: Lookup, flow: string): boolean {
  const n = addressOf(flow).length;
  const server = flow.slice(n, 2 * n);
  return lookup.queries.some((q) => [...q.sentIn].some((key) => key.slice(n, 2 * n) === server));
}

/**
 * How long after its last question an unanswered lookup may still go on, ns. Resolvers wait equally
 * long each time, or less (musl 2.5 s and 2.5 s, glibc 5 s for each server).
 */
function patience({ attempts }: Lookup): number {
  const before = new Map<number, number>();
  let longest = 0;
  for (const { message, startedAt } of attempts) {
    longest = Math.max(longest, startedAt - (before.get(message) ?? startedAt));
    before.set(message, startedAt);
  }
  return longest > TOGETHER_MS * 1e6 ? Math.min(longest * 1.2 + MARGIN, PATIENCE) : PATIENCE;
}

/** Another search-list step may follow a name that does not exist, TCP a truncated answer. */
function mayGoOn(lookup: Lookup): boolean {
  return lookup.queries.some((query) => query.rcode === NXDOMAIN || query.truncated);
}

/** The same question again, perhaps to another server or from another socket: it keeps its id. */
function isRepeat(query: Query, message: DnsMessage): boolean {
  return (
    query.id === message.id &&
    query.name === message.name &&
    query.type === message.type &&
    query.answeredAt === 0
  );
}

/**
 * Does a question go on with a lookup? A and AAAA leave one socket; a repeat to another server keeps
 * its id (glibc, musl and c-ares send the same bytes again); the next step of a search list follows
 * soon after the answer that there is no such name.
 */
function continues(lookup: Lookup, message: DnsMessage, port: number, time: number): boolean {
  const { queries, answered } = lookup;
  if (queries.some((query) => isRepeat(query, message))) return true;
  if (queries.some((query) => query.name === message.name && query.type === message.type))
    return false;
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
