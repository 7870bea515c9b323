import {
  collisionOf,
  insertFailedClaim,
  nodeOf,
  raceClaims,
  raceText,
  repeatedClaim,
  ruledOutByCollision,
  translatedClaim,
  verdictOf,
  WINNER_UNSEEN,
} from '../../explain/collision.js';
import { nameOf } from '../../explain/attempts.js';
import type { Diagnoser } from '../../explain/diagnose.js';
import { evidenceOf, outcomeText } from '../../explain/fates.js';
import { flowText, tupleText } from '../../explain/insertion.js';
import { attemptsUpToAnswer, repeatOf, repeatText } from '../../explain/repeats.js';
import { sourceNatRuleOf } from '../../explain/source-nat.js';
import { subjectOf } from '../../explain/subject.js';
import { count } from '../../explain/wording.js';
import { remedies } from './remedies.js';

const VERDICT = 'conntrack-reply-collision';

/**
 * Lookups of two clients at a Service are translated to one reply tuple at the same moment; the second
 * insertion fails. The same race of connects, or where only source NAT translates, and every
 * collision with an entry that was in the table before, is `snat-port-exhaustion`: see verdictOf.
 */
export const replyCollision: Diagnoser = {
  verdict: VERDICT,

  diagnose(exchange) {
    const collision = collisionOf(exchange);
    if (!collision || verdictOf(exchange, collision) !== VERDICT) return null;
    const { drop, drops, winner } = collision;
    const node = nodeOf(drop);
    const subject = subjectOf(exchange);
    const known = sourceNatRuleOf(drop);
    const what = count(drops.length, 'packet');
    const ct = drop.ct!;
    return {
      verdict: VERDICT,
      ...(winner ? { defect: 'race' } : {}),
      title: `${outcomeText(exchange, subject.service)}: conntrack dropped ${winner ? `${what} that collided with another client's` : `${what} that it could not insert`}`,
      summary:
        (winner
          ? raceText(collision, winner)
          : `On ${node}, the conntrack entry of ${nameOf(exchange, drop.attempt)} (${flowText(ct)}, translated to ${tupleText(ct)}) could not be inserted, and the packet was dropped: another entry has that tuple. Which one was not recorded.`) +
        ` ${repeatText(exchange, drop.attempt)}`,
      cause: `${VERDICT}/${winner ? 'race' : 'unknown'}/${node}`,
      confidence: winner ? 'proved' : 'likely',
      loweredFor: winner ? [] : [WINNER_UNSEEN],
      subject,
      attempts: attemptsUpToAnswer(exchange, drops),
      bypass: null,
      prediction: null,
      chain: [
        translatedClaim(exchange, collision),
        ...(winner ? raceClaims(exchange, collision, winner) : []),
        insertFailedClaim(exchange, drop),
        ...repeatedClaim(exchange, drop),
      ],
      ruledOut: [
        {
          verdict: 'snat-port-exhaustion',
          text: winner
            ? 'the other entry came into the table at the same moment: when NAT chose, the port was free'
            : repeatOf(exchange, drop.attempt)
              ? 'the repeat found a free port'
              : 'it was dropped once: that no port is free, a repeat would show',
          evidence: winner ? winner.inserted : evidenceOf(drop),
        },
        ...ruledOutByCollision(exchange, collision),
      ],
      remedies: remedies(known?.rule ?? null),
    };
  },
};
