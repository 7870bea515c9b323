import type { Case } from './diagnose.js';
import { attemptsOf } from './fates.js';
import type { FindingAttempt } from './finding.js';
import type { Observation } from './observation.js';
import { duration } from './wording.js';

/** The next attempt (from 1) that sends the same message as attempt `n`, and how long after it; null: none. */
export function repeatOf(exchange: Case, n: number): { n: number; afterMs: number } | null {
  const { attempts } = exchange;
  const lost = attempts[n - 1];
  if (!lost) return null;
  const index = attempts.findIndex((a, i) => i >= n && a.message === lost.message);
  const again = attempts[index];
  return again ? { n: index + 1, afterMs: (again.startedAt - lost.startedAt) / 1e6 } : null;
}

/** What a client does about the loss of attempt `n`, of which nobody tells it. */
export function repeatText(exchange: Case, n: number): string {
  const again = repeatOf(exchange, n);
  if (again)
    return `Nobody tells the client: it repeated after ${duration(again.afterMs)}${exchange.outcome === 'recovered' ? ', which is the delay' : ''}.`;
  return exchange.outcome === 'failed'
    ? 'Nobody tells the client, and it did not repeat.'
    : 'Nobody tells the client: it waits until it repeats.';
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
