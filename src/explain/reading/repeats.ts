import type { Case } from '../diagnose.js';
import { attemptsOf } from './fates.js';
import type { FindingAttempt } from '../finding.js';
import type { Observation } from '../exchanges/observation.js';
import { duration } from '../wording.js';

/** The next attempt (from 1) that sends the same message as attempt `n`, and how long after it; null: none. */
export function repeatOf(exchange: Case, n: number): { n: number; afterMs: number } | null {
  const { attempts } = exchange;
  const lost = attempts[n - 1];
  if (!lost) return null;
  const index = attempts.findIndex((a, i) => i >= n && a.message === lost.message);
  const again = attempts[index];
  return again ? { n: index + 1, afterMs: (again.startedAt - lost.startedAt) / 1e6 } : null;
}

/**
 * What a client does about the loss of attempt `n`, of which nobody tells it.
 * @param drop where netfilter dropped it: a program on that very node may be told
 */
export function repeatText(exchange: Case, n: number, drop?: Observation): string {
  const told = drop !== undefined && senderIsTold(exchange, drop);
  const who = told
    ? 'The program that sent it is told (send() fails with EPERM)'
    : 'Nobody tells the client';
  const again = repeatOf(exchange, n);
  if (again)
    return `${who}: it repeated after ${duration(again.afterMs)}${exchange.outcome === 'recovered' ? ', which is the delay' : ''}.`;
  return exchange.outcome === 'failed'
    ? `${who}, and it did not repeat.`
    : `${who}: it waits until it repeats.`;
}

/**
 * A UDP socket of the namespace that dropped its packet gets -EPERM from nf_hook_slow, by way of
 * ip_send_skb (measured on 6.18, with Ip.OutDiscards); TCP takes it for a loss, and from a pod on a
 * cable it has come too far.
 */
function senderIsTold(exchange: Case, { netns, attempt, time }: Observation): boolean {
  return (
    exchange.kind === 'dns-lookup' &&
    exchange.attached('device.receive') &&
    !exchange.observations.some(
      (o) =>
        o.point === 'device.receive' &&
        o.netns === netns &&
        o.attempt === attempt &&
        o.time <= time,
    )
  );
}

/** As `attemptsOf`; the last attempt of a query that was answered is delivered. */
export function attemptsUpToAnswer(
  exchange: Case,
  drops: readonly Observation[],
): FindingAttempt[] {
  return attemptsOf(exchange, drops).map((attempt, i) => {
    const { message } = exchange.attempts[i]!;
    const last = exchange.attempts.findLastIndex((a) => a.message === message) === i;
    const answered = last && (exchange.queries[message]?.answeredAt ?? 0) !== 0;
    return attempt.fate === 'unknown' && answered ? { ...attempt, fate: 'delivered' } : attempt;
  });
}
