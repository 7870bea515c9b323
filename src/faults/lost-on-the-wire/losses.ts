import { expectedOuterChecksum } from '../../event/checksum.js';
import { isAnswer, isRequest } from '../../explain/reading/attempts.js';
import type { Case } from '../../explain/diagnose.js';
import { CHECKSUM_PARTIAL, type Observation } from '../../explain/exchanges/observation.js';

/** A packet that left a traced namespace in good order and was not seen again. */
export interface Loss {
  /** attempt, from 1 */
  n: number;
  answer: boolean;
  /** its last event: it left here */
  left: Observation;
  /**
   * the same passage by another packet, that got through: it arrived in the other traced namespace,
   * or, at the edge of what was traced, was answered
   */
  through: { left: Observation; arrived: Observation };
  /** the passage leads to a traced namespace */
  traced: boolean;
}

/** A repeat proves that the one before it was waited for in vain, ns. */
const WAITED = 100e6;

/**
 * Packets of an exchange that got lost between two places of which the first is traced, where
 * another of its packets got through.
 */
export function lossesOf(exchange: Case): Loss[] {
  const losses: Loss[] = [];
  for (const answer of [false, true]) {
    const journeys = answer
      ? messagesOf(exchange).flatMap((message) =>
          journeysOf(exchange, (n) => (exchange.attempts[n - 1]?.message ?? 0) === message, answer),
        )
      : exchange.attempts.flatMap((_, i) => journeysOf(exchange, (n) => n === i + 1, answer));
    const passages = journeys.flatMap((journey) => passagesOf(journey.seen));
    for (const { n, seen, repeated } of journeys) {
      const left = seen.at(-1)!;
      if (!isLeaving(left) || broken(left) || !(repeated || wasMissed(exchange, n, left))) continue;
      if (exchange.observations.some((o) => o.point === 'packet.drop' && o.attempt === n)) continue;
      if (!answer && wasAnswered(exchange, n, left)) continue;
      const through = passages.find((passage) => samePlace(passage.left, left));
      if (through) losses.push({ n, answer, left, through, traced: true });
      else if (!answer) {
        const beyond = answeredBeyond(exchange, journeys, left);
        if (beyond) losses.push({ n, answer, left, through: beyond, traced: false });
      }
    }
  }
  return losses.sort((a, b) => a.left.time - b.left.time);
}

/** What was seen of one packet: an attempt's request, or an answer to it. */
interface Journey {
  n: number;
  seen: Observation[];
  /** the same was sent again later: a server repeats its SYN-ACK by itself */
  repeated: boolean;
}

function messagesOf(exchange: Case): number[] {
  return [...new Set(exchange.attempts.map((attempt) => attempt.message))];
}

/** @param mine which attempts; answers are told apart by time alone, so all of a message are one */
function journeysOf(exchange: Case, mine: (n: number) => boolean, answer: boolean): Journey[] {
  const journeys: Journey[] = [];
  for (const o of exchange.observations) {
    if (!mine(o.attempt) || o.point === 'packet.drop' || o.headers.flow.l4 < 0) continue;
    if (!(answer ? isAnswer(o) : isRequest(o))) continue;
    let journey = journeys.at(-1);
    // A packet passes a place once.
    const again = journey?.seen.some((p) => p.point === o.point && samePlace(p, o));
    if (!journey || again) {
      if (journey) journey.repeated = o.time > journey.seen.at(-1)!.time + WAITED;
      journeys.push((journey = { n: o.attempt, seen: [], repeated: false }));
    }
    journey.seen.push(o);
  }
  return journeys;
}

function passagesOf(journey: readonly Observation[]): Loss['through'][] {
  return journey.flatMap((left, i) => {
    const arrived = journey[i + 1];
    return arrived && isLeaving(left) && isArriving(arrived) && arrived.netns !== left.netns
      ? [{ left, arrived }]
      : [];
  });
}

/** Another request that was last seen leaving at the same place, and whose answer came in there. */
function answeredBeyond(
  exchange: Case,
  journeys: readonly Journey[],
  left: Observation,
): Loss['through'] | null {
  for (const { seen } of journeys) {
    const last = seen.at(-1)!;
    if (last === left || !samePlace(last, left)) continue;
    const arrived = exchange.observations.find(
      (o) =>
        o.time > last.time &&
        o.netns === last.netns &&
        o.attempt === last.attempt &&
        isArriving(o) &&
        isAnswer(o),
    );
    if (arrived) return { left: last, arrived };
  }
  return null;
}

/** Did the client send the same again, or give up? */
function wasMissed(exchange: Case, n: number, left: Observation): boolean {
  const { message } = exchange.attempts[n - 1]!;
  const again = exchange.attempts.some(
    (a, i) => i >= n && a.message === message && a.startedAt > left.time + WAITED,
  );
  return again || (exchange.outcome === 'failed' && exchange.endedAt > left.time + WAITED);
}

/** An answered request was not lost: glibc repeats A and AAAA when either has no answer. */
function wasAnswered(exchange: Case, n: number, left: Observation): boolean {
  return exchange.observations.some((o) => o.attempt === n && o.time > left.time && isAnswer(o));
}

/** A wrong checksum explains the loss: the receiver drops it, in sight or not. */
function broken(o: Observation): boolean {
  if (!o.tunnel || o.ipSummed === CHECKSUM_PARTIAL) return false;
  const check = o.headers.outer.check(o.record);
  const expected = expectedOuterChecksum(o.headers, o.record);
  return check !== 0 && expected !== null && check !== expected;
}

function isLeaving(o: Observation): boolean {
  return o.point === 'device.transmit';
}

function isArriving(o: Observation): boolean {
  return o.point === 'device.receive';
}

function samePlace(a: Observation, b: Observation): boolean {
  return a.netns === b.netns && a.ifindex === b.ifindex && a.tunnel === b.tunnel;
}
