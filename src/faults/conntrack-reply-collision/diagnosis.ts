import { isRequest, nameOf } from '../../explain/attempts.js';
import type { Case, Diagnoser, Rival } from '../../explain/diagnose.js';
import { dropText, evidenceOf, outcomeText } from '../../explain/fates.js';
import type { Claim, Diagnosis, RuledOut } from '../../explain/finding.js';
import { enteredAt, failedInsertions, flowText, tupleText } from '../../explain/insertion.js';
import type { Observation } from '../../explain/observation.js';
import { attemptsUpToAnswer, repeatOf, repeatText } from '../../explain/repeats.js';
import { subjectOf } from '../../explain/subject.js';
import { count, duration, shortDuration } from '../../explain/wording.js';
import { formatEndpoint } from '../../event/headers.js';
import { remedies } from './remedies.js';

/** How long after the drop the winner's packet may show that its entry is in the table, ns. */
const SHOWN = 10e6;

/**
 * Two flows of different clients are translated to one reply tuple. NAT looks for a free one among
 * the entries that are in the table; two that are made at the same moment do not see each other, and
 * the second insertion fails. TCP and UDP, every kernel up to 6.18 at least: a clash is resolved only
 * where both tuples are alike, or where the replies differ (nf_ct_resolve_clash).
 */
export const replyCollision: Diagnoser = {
  verdict: 'conntrack-reply-collision',

  diagnose(exchange) {
    const drops = failedInsertions(exchange);
    for (const drop of drops) {
      const winner = winnerOf(exchange, drop);
      if (winner) return withWinner(exchange, drops, drop, winner);
    }
    const [drop] = drops;
    if (!drop || exchange.outcome === 'pending' || !mayHaveCollided(exchange, drop)) return null;
    return withoutWinner(exchange, drops, drop);
  },
};

/** The entry that has the tuple which the dropped packet's was to get. */
function winnerOf(exchange: Case, drop: Observation): Rival | null {
  return (
    exchange
      .rivals(drop, 'reply')
      .filter(
        ({ insertedAt, firstSeen }) =>
          insertedAt !== 0 && insertedAt <= drop.time + SHOWN && firstSeen < drop.time,
      )
      .at(-1) ?? null
  );
}

/** Another client's entry may have had the tuple, if no entry of the same flow was there to clash with. */
function mayHaveCollided(exchange: Case, drop: Observation): boolean {
  return !exchange
    .rivals(drop, 'original')
    .some((rival) => rival.insertedAt !== 0 && rival.firstSeen < drop.time);
}

function withWinner(
  exchange: Case,
  drops: readonly Observation[],
  drop: Observation,
  winner: Rival,
): Diagnosis {
  const { world, netns } = drop;
  const ct = drop.ct!;
  const node = world.netnsName(netns);
  const race = winner.insertedAt >= enteredAt(exchange, drop);
  const age = age_(winner, drop);
  const loser = flowText(ct);
  const other = flowText(winner);
  const tuple = tupleText(ct);
  const chosen = translation(exchange, drop);
  const noun = nameOf(exchange, drop.attempt);
  const chain: Claim[] = [
    {
      claim: 'translated',
      text: `On ${node}, ${noun} from ${loser} is translated to ${tuple}.`,
      evidence: evidenceOf(chosen ?? drop),
    },
    {
      claim: 'same-tuple',
      text: `Another flow, ${other}, is translated to the very same: answers to both would come from ${formatEndpoint(ct.reply.source)} to ${formatEndpoint(ct.reply.destination)}, and could not be told apart.`,
      evidence: winner.translated,
    },
    {
      claim: 'winner-inserted',
      text: race
        ? `That one is in the table first. It was ${age} old when the other came to be inserted, and not there yet when ${noun} entered ${node} ${shortDuration((drop.time - enteredAt(exchange, drop)) / 1e6)} before: NAT looks for a free tuple among the entries in the table, and neither saw the other. A race.`
        : `That one was in the table when ${noun} came: it is ${age} old. NAT found no free tuple for a second one: exhaustion, no race.`,
      evidence: winner.inserted,
    },
    insertFailed(exchange, drop),
    ...recovery(exchange, drop),
  ];
  const subject = subjectOf(exchange);
  return {
    verdict: 'conntrack-reply-collision',
    defect: race ? 'race' : 'no-free-tuple',
    title: `${outcomeText(exchange, subject.service)}: conntrack dropped ${count(drops.length, 'packet')} that collided with another client's`,
    summary:
      `On ${node}, ${loser} and ${other} were both translated to ${tuple}` +
      (race ? ', at the same moment. ' : '. ') +
      (race
        ? `NAT looks for a free tuple among the entries that are in the table already, and neither was: the first to be inserted, ${age} earlier, won, the other packet was dropped. `
        : `The first has held that tuple for ${age}, NAT found no other for the second, and its packet was dropped. `) +
      repeatText(exchange, drop.attempt),
    cause: `conntrack-reply-collision/${race ? 'race' : 'no-free-tuple'}/${node}`,
    confidence: 'proved',
    loweredFor: [],
    subject,
    attempts: attemptsUpToAnswer(exchange, drops),
    bypass: null,
    prediction: null,
    chain,
    ruledOut: ruledOut(exchange, drop, winner),
    remedies: remedies(world.rules(netns, drop.time)?.fact ?? null, exchange.kind, race),
  };
}

/** The insertion failed, that is certain; whom it collided with was not recorded. */
function withoutWinner(
  exchange: Case,
  drops: readonly Observation[],
  drop: Observation,
): Diagnosis {
  const { world, netns } = drop;
  const ct = drop.ct!;
  const node = world.netnsName(netns);
  const noun = nameOf(exchange, drop.attempt);
  const subject = subjectOf(exchange);
  return {
    verdict: 'conntrack-reply-collision',
    title: `${outcomeText(exchange, subject.service)}: conntrack dropped ${count(drops.length, 'packet')} that it could not insert`,
    summary: `On ${node}, the conntrack entry of ${noun} (${flowText(ct)}, translated to ${tupleText(ct)}) could not be inserted, and the packet was dropped: another entry has that tuple. Which one was not recorded. ${repeatText(exchange, drop.attempt)}`,
    cause: `conntrack-reply-collision/unknown/${node}`,
    confidence: 'likely',
    loweredFor: [
      'the entry that it collided with was not seen: it is older than the recording, or of traffic that is not recorded',
    ],
    subject,
    attempts: attemptsUpToAnswer(exchange, drops),
    bypass: null,
    prediction: null,
    chain: [
      {
        claim: 'translated',
        text: `On ${node}, ${noun} from ${flowText(ct)} is translated to ${tupleText(ct)}.`,
        evidence: evidenceOf(translation(exchange, drop) ?? drop),
      },
      insertFailed(exchange, drop),
      ...recovery(exchange, drop),
    ],
    ruledOut: ruledOut(exchange, drop, null),
    remedies: remedies(world.rules(netns, drop.time)?.fact ?? null, exchange.kind, true),
  };
}

function insertFailed(exchange: Case, drop: Observation): Claim {
  const { world, netns } = drop;
  const rise = world.rise(netns, 'conntrack.drop', drop.time, drop.time);
  return {
    claim: 'insert-failed',
    text:
      `The entry of ${nameOf(exchange, drop.attempt)} cannot be inserted, and the packet is dropped: ${dropText(exchange, drop)}, NAT done, not confirmed (__nf_conntrack_confirm).` +
      (rise && rise.fact > 0
        ? ` conntrack's counter of such drops rose by ${rise.fact} meanwhile.`
        : ''),
    evidence: [...evidenceOf(drop), ...(rise && rise.fact > 0 ? [rise.evidence] : [])],
  };
}

/** What got through in the end, and by which tuple. */
function recovery(exchange: Case, drop: Observation): Claim[] {
  const again = repeatOf(exchange, drop.attempt);
  if (!again) return [];
  const later = exchange.observations.findLast(
    (o) => o.attempt === again.n && isRequest(o) && o.netns === drop.netns && o.ct !== null,
  );
  const answered = exchange.outcome === 'recovered' && again.n === exchange.attempts.length;
  return [
    {
      claim: 'repeated',
      text:
        `${nameOf(exchange, again.n)} is the same again after ${duration(again.afterMs)}` +
        (later?.ct ? `, and is translated to ${tupleText(later.ct)}` : '') +
        (answered
          ? `: it is answered ${shortDuration((exchange.endedAt - exchange.attempts[again.n - 1]!.startedAt) / 1e6)} later.`
          : '.'),
      evidence: evidenceOf(later ?? exchange.observations.find((o) => o.attempt === again.n)),
    },
  ];
}

function ruledOut(exchange: Case, drop: Observation, winner: Rival | null): RuledOut[] {
  return [
    {
      verdict: 'policy-drop',
      text: 'the drop comes after the last NAT hook, of a packet whose entry is not in the table: no rule stands there',
      evidence: evidenceOf(drop),
    },
    ...(winner
      ? [
          {
            verdict: 'conntrack-insert-race',
            text: 'the two originals differ: it is not one flow whose two packets made an entry each',
            evidence: [...evidenceOf(drop), ...winner.translated],
          },
        ]
      : []),
    {
      verdict: 'conntrack-table-full',
      text: 'a full table drops a packet before it has an entry; this one has one',
      evidence: evidenceOf(drop),
    },
    ...(exchange.lostEvents === 0
      ? [
          {
            verdict: 'lost-on-the-wire',
            text: 'the packet was dropped before it left the node',
            evidence: evidenceOf(drop),
          },
        ]
      : []),
  ];
}

/** Where the packet got its last translation. */
function translation(exchange: Case, drop: Observation): Observation | undefined {
  return exchange.observations.findLast(
    (o) =>
      o.point === 'nat.setup' && o.attempt === drop.attempt && o.ct?.replyKey === drop.ct?.replyKey,
  );
}

function age_(winner: Rival, drop: Observation): string {
  return shortDuration(Math.max(drop.time - winner.insertedAt, 0) / 1e6);
}
