import {
  collisionOf,
  commonOf,
  insertFailedClaim,
  nodeOf,
  raceClaims,
  raceText,
  repeatedClaim,
  ruledOutByCollision,
  translatedClaim,
  unknownWinnerText,
  verdictOf,
} from '../../explain/reading/collision.js';
import type { Diagnoser } from '../../explain/diagnose.js';
import { evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import { repeatOf, repeatText } from '../../explain/reading/repeats.js';
import { sourceNatRuleOf } from '../../explain/reading/source-nat.js';
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
    const common = commonOf(exchange, VERDICT, collision);
    const what = count(drops.length, 'packet');
    return {
      ...common,
      ...(winner ? { defect: 'race' } : {}),
      title: `${outcomeText(exchange, common.subject.service)}: conntrack dropped ${winner ? `${what} that collided with another client's` : `${what} that it could not insert`}`,
      summary: `${winner ? raceText(collision, winner) : unknownWinnerText(exchange, collision)} ${repeatText(exchange, drop.attempt, drop)}`,
      cause: `${VERDICT}/${winner ? 'race' : 'unknown'}/${nodeOf(drop)}`,
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
      remedies: remedies(sourceNatRuleOf(drop)?.rule ?? null),
    };
  },
};
