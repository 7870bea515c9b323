import { isAnswer, isRequest } from './attempts.js';
import { isAcceptable } from './checksums.js';
import type { Case } from '../diagnose.js';
import type { Observation } from '../exchanges/observation.js';

/** One question's way to the server that answers it and back, as far as it was seen. */
export interface Trip {
  /** index of the query; 0 for TCP */
  message: number;
  /** its first packet */
  sent: Observation;
  /** the first of its packets to arrive in the namespace that has the address it is for */
  delivered: Observation | null;
  /** the first answer on its way out of that namespace */
  left: Observation | null;
  /** the first answer back in the client's own namespace */
  back: Observation | null;
}

/** The ways of an exchange's questions; a question of which no packet was seen has none. */
export function tripsOf(exchange: Case): Trip[] {
  const messages = Math.max(exchange.queries.length, 1);
  return Array.from({ length: messages }, (_, message) => tripOf(exchange, message)).filter(
    (trip) => trip !== null,
  );
}

function tripOf(exchange: Case, message: number): Trip | null {
  const mine = exchange.observations.filter(
    (o) =>
      (exchange.attempts[o.attempt - 1]?.message ?? 0) === message &&
      o.headers.flow.l4 >= 0 &&
      o.point !== 'packet.drop',
  );
  const requests = mine.filter((o) => isRequest(o));
  const answers = mine.filter((o) => isAnswer(o));
  const sent = requests[0];
  if (!sent) return null;
  const arrivals = requests.filter(isArrival);
  const leaving = (arrival: Observation): Observation | null =>
    answers.find((o) => o.netns === arrival.netns && o.time >= arrival.time) ?? null;
  const delivered = arrivals.find((o) => leaving(o) !== null) ?? arrivals[0] ?? null;
  return {
    message,
    sent,
    delivered,
    left: delivered && leaving(delivered),
    back: answers.find((o) => o.netns === exchange.netns) ?? null,
  };
}

/** The attempts (from 1) whose packet arrived in the namespace that has the address it is for. */
export function deliveredAttempts(exchange: Case): Set<number> {
  const arrived = exchange.observations.filter(
    (o) => o.headers.flow.l4 >= 0 && isRequest(o) && isArrival(o),
  );
  return new Set(arrived.map((o) => o.attempt));
}

/** Did a packet arrive here that the stack may take? */
function isArrival(o: Observation): boolean {
  return o.point === 'device.receive' && isForUs(o) && isAcceptable(o);
}

/** Does the packet’s destination belong to the namespace it was seen in? */
export function isForUs(o: Observation): boolean {
  return !o.tunnel && o.world.owns(o.netns, o.headers.flow.destination(o.record).address);
}
