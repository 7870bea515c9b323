import { rcodeName } from '../event/dns.js';
import { TCP_RST } from '../event/headers.js';
import { isAnswer, isRequest, nounOf, whatOf } from './reading/attempts.js';
import { blindSpots } from './blindness.js';
import { passedBy } from './counters.js';
import type { Case } from './diagnose.js';
import type { Unexplained } from './finding.js';
import type { Observation } from './exchanges/observation.js';
import { subjectOf } from './reading/subject.js';
import { count, duration, toMicroseconds } from './wording.js';

/**
 * The entry of an exchange that failed or was slow and has no verdict: where each attempt was last
 * seen, what is excluded, what to trace next. Nothing stays unsaid.
 *
 * @returns null when it neither failed nor was slow
 */
export function unexplained(exchange: Case, id: string, startedAt: string): Unexplained | null {
  const { observations, outcome } = exchange;
  // of a stalled connection what is recorded besides drops is that data was sent again
  const stalled = exchange.kind === 'tcp-transfer';
  const last = stalled ? exchange.attempts.at(-1)?.startedAt : observations.at(-1)?.time;
  const end = exchange.endedAt || last || exchange.startedAt;
  const subject = subjectOf(exchange);
  const noun = nounOf(exchange);
  const isSent = (o: Observation): boolean =>
    stalled ? o.point === 'tcp.retransmit' : isRequest(o) && o.headers.outer.version !== 0;
  const requests = observations.filter((o) => isRequest(o));
  const answers = observations.filter((o) => isAnswer(o));
  const reset =
    outcome !== 'recovered' && observations.some((o) => (o.headers.flow.flags & TCP_RST) !== 0);
  const attempts = exchange.attempts.map((attempt, i) => {
    const mine = observations.filter((o) => o.attempt === i + 1);
    const drop = mine.findLast((o) => o.point === 'packet.drop');
    const alive = mine.filter((o) => o.point !== 'packet.drop');
    const sent = alive.findLast(isSent) ?? drop;
    const answer = alive.findLast((o) => isAnswer(o) && o.headers.outer.version !== 0);
    return {
      n: i + 1,
      what: whatOf(exchange, i + 1),
      atMs: toMicroseconds((attempt.startedAt - exchange.startedAt) / 1e6),
      lastSeen:
        (sent ? place(sent) : 'nowhere') +
        (answer ? `, its answer${rcodeText(answer)} at ${place(answer)}` : ''),
      drop: drop
        ? `${isAnswer(drop) ? 'the answer, ' : ''}${exchange.reasonName(drop)} at ${drop.world.symbol(drop.location)} in ${drop.world.netnsName(drop.netns)}`
        : null,
      evidence: [sent, answer, drop].flatMap((o) => (o ? [o.evidence] : [])),
    };
  });
  const dropped = attempts.find((a) => a.drop !== null);
  const target = subject.service ?? subject.backend ?? 'its destination';
  const who =
    subject.name === null
      ? `${subject.client} → ${target}`
      : `lookup of ${subject.name} by ${subject.client} at ${target}`;
  const took = duration((end - exchange.startedAt) / 1e6);
  const title = reset
    ? `${who}: refused by a RST`
    : stalled && !dropped
      ? `${who}: stalled for ${took}, data was sent again ${count(attempts.length, 'time')}${outcome === 'failed' ? ' and not acknowledged' : ''}`
      : dropped
        ? `${who}: ${outcome === 'recovered' ? `took ${took}` : 'failed'}, a packet was dropped (${dropped.drop})`
        : outcome === 'recovered'
          ? `${who}: answered after ${took}`
          : `${who}: ${answers.length > 0 ? 'an answer was seen, but not taken' : 'no answer'} to ${count(attempts.length, noun)}`;

  const excluded: string[] = [];
  // of drops of data only some are told
  if (!dropped && !stalled && exchange.attached('packet.drop') && exchange.lostEvents === 0)
    excluded.push(
      `no traced namespace dropped a packet of it (packet.drop was attached, no event was lost)`,
    );
  if (
    subject.tunnel === null &&
    !stalled &&
    requests.length > 0 &&
    !requests.some((o) => o.point === 'tunnel.transmit')
  )
    excluded.push(`double-snat: no ${noun} of it entered a tunnel`);

  const next: string[] = [];
  const request = requests.findLast((o) => o.point !== 'packet.drop');
  const lastPlace = attempts.at(-1)?.lastSeen;
  if (dropped) next.push(`look at what drops it: ${dropped.drop}`);
  else if (stalled)
    next.push(
      `what became of the data after ${lastPlace} was not seen: record where it goes at the same time, then explain both files together`,
    );
  else if (reset)
    next.push('look for the process that should listen there, or the rule that rejects');
  else if (outcome === 'recovered' && noun === 'query')
    next.push(
      'no packet of it was lost in what was traced: the time went by at the server, or beyond',
    );
  else if (answers.length > 0)
    next.push('trace the client’s side too: an answer was seen, that it was taken was not');
  else if (
    request?.world.owns(request.netns, request.headers.flow.destination(request.record).address)
  )
    next.push(
      `the ${noun} reached ${request.world.netnsName(request.netns)}, whose address it is for, and was not answered: look there at the listening socket and its queue (ss -lntu), and at rules that consume packets`,
    );
  else if (lastPlace)
    next.push(
      `trace the next hop after ${lastPlace}: record there at the same time, then explain both files together`,
    );
  else next.push(`no ${noun} was seen: check the client’s route and the filter of the recording`);
  for (const { world, netns } of passedBy(observations))
    for (const { text, unseen } of blindSpots(world, netns, end))
      if (unseen) next.push(`not all can be seen in ${world.netnsName(netns)}: ${text}`);

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

/** ` NXDOMAIN` for an answer that is no plain success, else nothing. */
function rcodeText(answer: Observation): string {
  const rcode = answer.dns?.rcode ?? 0;
  return rcode === 0 ? '' : ` (${rcodeName(rcode)})`;
}

/** Where an observation was made, in words. */
export function place(o: Observation): string {
  const device = o.ifindex ? ` ${o.world.deviceName(o.netns, o.ifindex)}` : '';
  return `${o.point}${device} in ${o.world.netnsName(o.netns)}`;
}
