import { TCP_ACK, TCP_RST, TCP_SYN } from '../event/headers.js';
import type { Case } from './diagnose.js';
import type { Unexplained } from './finding.js';
import type { Observation } from './observation.js';
import { tcpSubject } from './subject.js';
import { count, duration, toMicroseconds } from './wording.js';

/**
 * The entry of an exchange that failed or was slow and has no verdict: where each attempt was last
 * seen, what is excluded, what to trace next. Nothing stays unsaid.
 *
 * @returns null when it neither failed nor was slow
 */
export function unexplained(exchange: Case, id: string, startedAt: string): Unexplained | null {
  const { observations, outcome } = exchange;
  const end = exchange.endedAt || observations.at(-1)?.time || exchange.startedAt;
  const subject = tcpSubject(exchange);
  const syns = observations.filter((o) => isSyn(o));
  const answers = observations.filter((o) => isAnswer(o));
  const reset = observations.some((o) => (o.headers.flow.flags & TCP_RST) !== 0);
  const attempts = exchange.attempts.map((attempt, i) => {
    const seen = syns.filter((o) => o.attempt === i + 1);
    const drop = seen.filter((o) => o.point === 'packet.drop').at(-1);
    const last = seen.filter((o) => o.point !== 'packet.drop').at(-1) ?? drop;
    return {
      n: i + 1,
      atMs: toMicroseconds((attempt.startedAt - exchange.startedAt) / 1e6),
      lastSeen: last ? place(last) : 'nowhere',
      drop: drop
        ? `${exchange.reasonName(drop)} at ${drop.world.symbol(drop.location)} in ${drop.world.netnsName(drop.netns)}`
        : null,
      evidence: [last, drop].flatMap((o) => (o ? [o.evidence] : [])),
    };
  });
  const dropped = attempts.find((a) => a.drop !== null);
  const target = subject.service ?? subject.backend ?? 'its destination';
  const title = reset
    ? `${subject.client} → ${target}: refused by a RST`
    : dropped
      ? `${subject.client} → ${target}: ${outcome === 'recovered' ? 'slow' : 'no connection'}, a SYN was dropped (${dropped.drop})`
      : outcome === 'recovered'
        ? `${subject.client} → ${target}: answered after ${duration((end - exchange.startedAt) / 1e6)}`
        : `${subject.client} → ${target}: ${answers.length > 0 ? 'an answer was seen, but no connection' : 'no answer'} to ${count(attempts.length, 'SYN')}`;

  const excluded: string[] = [];
  if (!dropped && exchange.attached('packet.drop') && exchange.lostEvents === 0)
    excluded.push(
      'no traced namespace dropped a SYN of it (packet.drop was attached, no event was lost)',
    );
  if (subject.tunnel === null && syns.length > 0)
    excluded.push('double-snat: none of its SYNs entered a tunnel');

  const next: string[] = [];
  const last = syns.findLast((o) => o.point !== 'packet.drop');
  const lastPlace = attempts.at(-1)?.lastSeen;
  if (dropped) next.push(`look at what drops it: ${dropped.drop}`);
  else if (reset)
    next.push('look for the process that should listen there, or the rule that rejects');
  else if (answers.length > 0)
    next.push('trace the client’s side too: the answer was seen, the end of the handshake was not');
  else if (last && last.world.owns(last.netns, last.headers.flow.destination(last.record).address))
    next.push(
      `the SYN reached ${last.world.netnsName(last.netns)}, whose address it is for, and was not answered: look there at the listening socket and its accept queue (ss -ltn), and at rules that consume packets`,
    );
  else if (lastPlace)
    next.push(
      `trace the next hop after ${lastPlace}: record there at the same time, then explain both files together`,
    );
  else next.push('no SYN was seen: check the route of the client and the filter of the recording');

  return {
    id,
    subject,
    startedAt,
    delayMs: toMicroseconds((end - exchange.startedAt) / 1e6),
    outcome,
    title,
    attempts,
    excluded,
    next,
    lostEvents: exchange.lostEvents,
  };
}

/** Where an observation was made, in words. */
export function place(o: Observation): string {
  const device = o.ifindex ? ` ${o.world.deviceName(o.netns, o.ifindex)}` : '';
  return `${o.point}${device} in ${o.world.netnsName(o.netns)}`;
}

export function isSyn(o: Observation): boolean {
  return (o.headers.flow.flags & (TCP_SYN | TCP_ACK)) === TCP_SYN;
}

function isAnswer(o: Observation): boolean {
  return (o.headers.flow.flags & (TCP_SYN | TCP_ACK)) === (TCP_SYN | TCP_ACK);
}
