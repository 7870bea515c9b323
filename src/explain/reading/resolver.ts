import { rcodeName, typeName } from '../../event/dns.js';
import { formatEndpoint } from '../../event/headers.js';
import { isRequest } from './attempts.js';
import type { Case } from '../diagnose.js';
import { duration, toMicroseconds } from '../wording.js';

/** One packet of a lookup on its way out of the client. */
export interface Send {
  /** attempt, from 1 */
  n: number;
  /** index of the query */
  message: number;
  /** `address:port`, as the client knows it; null when its packet was not seen there */
  server: string | null;
  port: number;
  /** ms after the lookup's start */
  atMs: number;
}

/** All that was asked for one name. */
export interface Step {
  name: string | null;
  /** `A`, `AAAA` */
  types: string[];
  /** indices of its queries */
  messages: number[];
  /** ms after the lookup's start */
  fromMs: number;
  /** null while a query of it has no answer */
  toMs: number | null;
  /** `NXDOMAIN` …, null without an answer */
  result: string | null;
}

/** What the resolver itself did: which server it asked when, and how long it waited in between. */
export interface ResolverTimeline {
  /**
   * whose ways they are: musl sends to all name servers at once from one socket and again after half
   * of its 5 s (src/network/res_msend.c, 1.2); glibc asks one after the other and waits 5 s for each
   * (resolv/res_send.c, 2.36). null: neither is to be recognised, or nothing was repeated
   */
  resolver: 'musl' | 'glibc' | null;
  sends: Send[];
  steps: Step[];
  /** name servers in the order in which they were asked */
  servers: string[];
  /** times it waited for nothing before it sent again, ms */
  waits: number[];
  /** one or two sentences for people; '' when nothing was repeated */
  text: string;
}

/** Sent together. */
const TOGETHER_MS = 60;

/** Reads a lookup's own schedule off its queries. */
export function resolverTimeline(exchange: Case): ResolverTimeline {
  const ms = (time: number): number => toMicroseconds((time - exchange.startedAt) / 1e6);
  const sends = exchange.attempts.map((attempt, i): Send => {
    const first = exchange.observations.find(
      (o) => o.attempt === i + 1 && o.netns === exchange.netns && o.dns !== null && isRequest(o),
    );
    const flow = first?.headers.flow;
    return {
      n: i + 1,
      message: attempt.message,
      server: first && flow ? formatEndpoint(flow.destination(first.record)) : null,
      port: flow?.sport ?? 0,
      atMs: ms(attempt.startedAt),
    };
  });
  const servers = [...new Set(sends.flatMap((send) => (send.server ? [send.server] : [])))];
  const waits: number[] = [];
  const ends: number[] = [];
  for (const send of sends) {
    const before = sends.findLast((s) => s.n < send.n && s.message === send.message);
    if (!before || send.atMs - before.atMs < TOGETHER_MS) continue;
    if (ends.some((at) => Math.abs(at - send.atMs) < TOGETHER_MS)) continue;
    ends.push(send.atMs);
    waits.push(send.atMs - before.atMs);
  }
  const resolver = recognise(sends, waits);
  return {
    resolver,
    sends,
    steps: stepsOf(exchange, ms),
    servers,
    waits,
    text: timelineText(resolver, waits, servers),
  };
}

function recognise(sends: readonly Send[], waits: readonly number[]): ResolverTimeline['resolver'] {
  const near = (ms: number, nominal: number) => ms > nominal * 0.97 && ms < nominal * 1.1;
  const onePort = new Set(sends.map((send) => send.port)).size === 1;
  const atOnce = sends.some((send) =>
    sends.some(
      (s) =>
        s.message === send.message &&
        s.server !== send.server &&
        s.port === send.port &&
        Math.abs(s.atMs - send.atMs) < TOGETHER_MS,
    ),
  );
  if (atOnce || (onePort && waits.length > 0 && waits.every((ms) => near(ms, 2500)))) return 'musl';
  if (waits.length > 0 && waits.every((ms) => near(ms, 5000))) return 'glibc';
  return null;
}

function timelineText(
  resolver: ResolverTimeline['resolver'],
  waits: readonly number[],
  servers: readonly string[],
): string {
  if (waits.length === 0) return '';
  const total = duration(waits.reduce((a, b) => a + b, 0));
  const list = waits.map((ms) => duration(ms)).join(' + ');
  const waited = `The resolver itself waited ${list}${waits.length > 1 ? ` = ${total}` : ''} before it asked again`;
  if (resolver === 'musl')
    return `${waited}: musl’s schedule, which asks ${servers.length > 1 ? `all ${servers.length} name servers at once` : 'its name server'} from one socket and repeats after 2.5 s.`;
  if (resolver === 'glibc')
    return `${waited}: glibc’s schedule, which gives each name server 5 s before it asks ${servers.length > 1 ? 'the next one' : 'again'} (options timeout:5).`;
  return `${waited}.`;
}

function stepsOf(exchange: Case, ms: (time: number) => number): Step[] {
  const steps = new Map<string, Step>();
  exchange.queries.forEach((query, message) => {
    const key = query.name ?? '';
    let step = steps.get(key);
    if (!step) {
      step = {
        name: query.name,
        types: [],
        messages: [],
        fromMs: ms(query.sentAt),
        toMs: 0,
        result: null,
      };
      steps.set(key, step);
    }
    step.types.push(typeName(query.type));
    step.messages.push(message);
    if (query.answeredAt === 0) step.toMs = null;
    else if (step.toMs !== null) step.toMs = Math.max(step.toMs, ms(query.answeredAt));
    if (query.answeredAt !== 0 && (step.result === null || query.answers > 0))
      step.result = rcodeName(query.rcode);
  });
  return [...steps.values()];
}
