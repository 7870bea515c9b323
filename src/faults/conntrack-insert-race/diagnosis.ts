import { isRequest, nameOf } from '../../explain/reading/attempts.js';
import { insertFailedClaim, sameFlowWinner } from '../../explain/reading/collision.js';
import type { Case, Diagnoser, Entry } from '../../explain/diagnose.js';
import { evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim, Diagnosis, RuledOut } from '../../explain/finding.js';
import { failedInsertions, flowText, tupleText } from '../../explain/reading/insertion.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { passageOf } from '../../explain/reading/passage.js';
import { attemptsUpToAnswer, repeatOf, repeatText } from '../../explain/reading/repeats.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { count, duration, passageText, shortDuration } from '../../explain/wording.js';
import { formatEndpoint } from '../../event/headers.js';
import { remedies, type Clash } from './remedies.js';

/**
 * Two packets of one flow make an entry each, because neither finds one; the second insertion fails,
 * and its packet is dropped. Kernels from 5.7 on merge the two or keep both (nf_ct_resolve_clash,
 * net/netfilter/nf_conntrack_core.c): no packet is dropped then, and there is nothing to find.
 */
export const insertRace: Diagnoser = {
  verdict: 'conntrack-insert-race',

  diagnose(exchange) {
    const drops = failedInsertions(exchange);
    for (const drop of drops) {
      const winner = sameFlowWinner(exchange, drop);
      if (winner) return diagnosis(exchange, drops, drop, winner);
    }
    return null;
  },
};

function clashOf({ ct }: Observation, { reply }: Entry): Clash {
  const loser = ct!.reply;
  if (formatEndpoint(loser.source) !== formatEndpoint(reply.source)) return 'different-backends';
  return formatEndpoint(loser.destination) === formatEndpoint(reply.destination)
    ? 'same-tuple'
    : 'different-ports';
}

function diagnosis(
  exchange: Case,
  drops: readonly Observation[],
  drop: Observation,
  winner: Entry,
): Diagnosis {
  const { world, netns } = drop;
  const ct = drop.ct!;
  const node = world.netnsName(netns);
  const clash = clashOf(drop, winner);
  const loser = nameOf(exchange, drop.attempt);
  // the winner's packet: of this exchange in all but odd cases
  const first = [...exchange.observations, ...exchange.atFunctions].find(
    (o) => isRequest(o) && o.attempt !== drop.attempt && evidenceIs(o, winner),
  );
  const other = first ? nameOf(exchange, first.attempt) : 'another packet of the flow';
  const apart = shortDuration(Math.max(drop.time - winner.insertedAt, 0) / 1e6);
  const translated = exchange.observations.findLast(
    (o) => o.point === 'nat.setup' && o.attempt === drop.attempt && o.ct?.replyKey === ct.replyKey,
  );
  const chain: Claim[] = [
    {
      claim: 'two-entries',
      text:
        `${other} and ${loser} leave one socket at the same moment. On ${node} neither finds an entry for ${flowText(ct)}, and each makes one` +
        (clash !== 'same-tuple'
          ? `: one is translated to ${tupleText(winner)}, the other to ${tupleText(ct)}.`
          : tupleText(ct) === flowText(ct)
            ? '.'
            : `: both are translated to ${tupleText(ct)}.`),
      evidence: [...winner.translated, ...evidenceOf(translated ?? drop)],
    },
    {
      claim: 'winner-inserted',
      text: `That of ${other} is in the table first, ${apart} before the other.`,
      evidence: winner.inserted,
    },
    insertFailedClaim(exchange, drop),
  ];
  const again = repeatOf(exchange, drop.attempt);
  if (again)
    chain.push({
      claim: 'repeated',
      text: `${nameOf(exchange, again.n)} is the same again after ${duration(again.afterMs)}: by now it finds the winner's entry.`,
      evidence: evidenceOf(exchange.observations.find((o) => o.attempt === again.n)),
    });
  const subject = subjectOf(exchange);
  return {
    verdict: 'conntrack-insert-race',
    defect: clash,
    title: `${outcomeText(exchange, subject.service)}: conntrack dropped ${count(drops.length, 'packet')} of a flow that made two entries at once`,
    summary:
      `${other} and ${loser} left one socket at the same moment, and on ${node} each made a conntrack entry for ${flowText(ct)}. ` +
      `The first to be inserted won; this kernel cannot resolve such a clash, and dropped the other packet${passageText(passageOf(exchange, drop))}. ${repeatText(exchange, drop.attempt, drop)}`,
    cause: `conntrack-insert-race/${clash}/${node}`,
    confidence: 'proved',
    loweredFor: [],
    subject,
    attempts: attemptsUpToAnswer(exchange, drops),
    bypass: null,
    prediction: null,
    chain,
    ruledOut: ruledOut(drop, winner),
    remedies: remedies(clash),
  };
}

const evidenceIs = (o: Observation, { translated, inserted }: Entry): boolean =>
  [...translated, ...inserted].some(
    ({ session, seq }) => session === o.evidence.session && seq === o.evidence.seq,
  );

function ruledOut(drop: Observation, winner: Entry): RuledOut[] {
  return [
    {
      verdict: 'conntrack-reply-collision',
      text: 'the two entries are of one flow: the originals are the same',
      evidence: [...winner.translated, ...evidenceOf(drop)],
    },
    {
      verdict: 'snat-port-exhaustion',
      text: 'the two entries are of one flow: no other has the port',
      evidence: [...winner.translated, ...evidenceOf(drop)],
    },
    {
      verdict: 'conntrack-late-answer',
      text: 'the query was dropped, not its answer',
      evidence: evidenceOf(drop),
    },
    {
      verdict: 'policy-drop',
      text: 'the drop comes after the last NAT hook, of a packet whose entry is not in the table: no rule stands there',
      evidence: evidenceOf(drop),
    },
    {
      verdict: 'lost-on-the-wire',
      text: 'the packet was dropped before it left the node',
      evidence: evidenceOf(drop),
    },
  ];
}
