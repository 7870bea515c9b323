import { TCP_RST } from '../../event/headers.js';
import { isAnswer, isRequest, nounOf, whatOf } from './attempts.js';
import type { Case } from '../diagnose.js';
import type { Evidence, FindingAttempt } from '../finding.js';
import type { Observation } from '../exchanges/observation.js';
import { passageOf } from './passage.js';
import { place } from '../unexplained.js';
import { duration, toMicroseconds } from '../wording.js';

/** The drops of an exchange's packets (requests, answers, RSTs, data; no ICMP) whose reason's name matches. */
export function dropsOf(exchange: Case, reason: RegExp): Observation[] {
  return exchange.observations.filter(
    (o) =>
      o.point === 'packet.drop' &&
      (exchange.kind === 'tcp-transfer'
        ? o.headers.flow.l4 >= 0
        : isRequest(o) || isAnswer(o) || isReset(o)) &&
      reason.test(exchange.reasonName(o)),
  );
}

export function isReset(o: Observation): boolean {
  return (o.headers.flow.flags & TCP_RST) !== 0;
}

/** `SYN`, `SYN-ACK`, `RST`, `segment`, `query`, `answer`: what an event's packet is, for a text. */
export function packetNoun(exchange: Case, o: Observation): string {
  if (isReset(o)) return 'RST';
  if (isAnswer(o)) return exchange.kind === 'dns-lookup' ? 'answer' : 'SYN-ACK';
  return nounOf(exchange);
}

/** `NETFILTER_DROP at nft_do_chain+0x1 [nf_tables] (packet.drop eth0 in node)` */
export function dropText(exchange: Case, drop: Observation): string {
  return `${exchange.reasonName(drop)} at ${drop.world.symbol(drop.location)} (${place(drop)})`;
}

/**
 * What became of each attempt: dropped by one of `drops`, delivered when it is the one that was
 * answered, else not known. Nothing is said of tunnels and NAT.
 */
export function attemptsOf(exchange: Case, drops: readonly Observation[]): FindingAttempt[] {
  return exchange.attempts.map((attempt, i) => {
    const drop = drops.find((o) => o.attempt === i + 1);
    const first = exchange.observations.find((o) => o.attempt === i + 1 && isRequest(o));
    const last = i === exchange.attempts.length - 1;
    const passage = drop ? passageOf(exchange, drop) : null;
    return {
      n: i + 1,
      what: whatOf(exchange, i + 1),
      atMs: toMicroseconds((attempt.startedAt - exchange.startedAt) / 1e6),
      mark: first?.mark ?? null,
      hash: first?.hash ?? null,
      outerPort: null,
      outerConntrack: null,
      checksum: null,
      fate: drop
        ? 'dropped'
        : exchange.outcome === 'recovered' && last && exchange.kind !== 'dns-lookup'
          ? 'delivered'
          : 'unknown',
      dropReason: drop ? exchange.reasonName(drop) : null,
      dropLocation: drop ? drop.world.symbol(drop.location) : null,
      ...(passage ? { dropBetween: passage } : {}),
    };
  });
}

/** `connect to 10.0.0.1:80 failed after 1.02 s`, `lookup of a.b took 5 s`, `… is waiting`. */
export function outcomeText(exchange: Case, target: string | null): string {
  if (exchange.kind === 'tcp-transfer') return stallText(exchange, target);
  const act =
    exchange.kind === 'dns-lookup'
      ? `lookup of ${exchange.queries[0]?.name ?? 'a name'}`
      : `connect to ${target ?? 'its destination'}`;
  const took = duration((exchange.endedAt - exchange.startedAt) / 1e6);
  if (exchange.outcome === 'recovered') return `${act} took ${took}`;
  if (exchange.outcome === 'failed') return `${act} failed after ${took}`;
  return `${act} is waiting`;
}

function stallText(exchange: Case, target: string | null): string {
  const connection = `connection to ${target ?? 'its peer'}`;
  const last = exchange.endedAt || exchange.observations.at(-1)?.time || exchange.startedAt;
  const stood = duration((last - exchange.startedAt) / 1e6);
  if (exchange.outcome === 'recovered') return `${connection} stalled for ${stood}`;
  if (exchange.outcome === 'failed') return `${connection} was given up after a stall of ${stood}`;
  return `${connection} stalls`;
}

export function evidenceOf(...observations: (Observation | null | undefined)[]): Evidence[] {
  return observations.flatMap((o) => (o ? [o.evidence] : []));
}
