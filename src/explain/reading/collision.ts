import { formatEndpoint } from '../../event/headers.js';
import { isRequest, nameOf } from './attempts.js';
import type { Case, Entry } from '../diagnose.js';
import { dropText, evidenceOf } from './fates.js';
import type { Claim, Diagnosis, RuledOut } from '../finding.js';
import { refusedInsertion } from './functions.js';
import { enteredAt, failedInsertions, flowText, tupleText } from './insertion.js';
import { IPS_DST_NAT, type Observation } from '../exchanges/observation.js';
import { passageOf } from './passage.js';
import { attemptsUpToAnswer, repeatOf } from './repeats.js';
import { subjectOf } from './subject.js';
import { duration, passageText, shortDuration } from '../wording.js';

/** How long after the drop the winner's packet may show that its entry is in the table, ns. */
const SHOWN = 10e6;

/** A packet passes a namespace in less, unless somebody holds it (NFQUEUE), ns: taken where its coming was not seen. */
const PASSAGE = 10e6;

/** Entries of one flow that clash are made at the same moment, ns; what comes later finds the first. */
const SAME_MOMENT = 1e9;

/**
 * A packet that was dropped because its conntrack entry could not be inserted: another flow has the
 * tuple that its answers would have. NAT looks for a free one among the entries that are in the table
 * (nf_nat_used_tuple, net/netfilter/nf_nat_core.c); TCP and UDP, every kernel up to 6.18 at least: a
 * clash is resolved only where both tuples are alike, or where the replies differ (nf_ct_resolve_clash).
 */
export interface Collision {
  drop: Observation;
  /** every packet of the exchange that was dropped so */
  drops: readonly Observation[];
  /** the entry that has the tuple; null: it was not seen */
  winner: Entry | null;
  /**
   * `race`: the two were made at the same moment, and neither was in the table when NAT chose.
   * `taken`: the winner was there, and NAT found no other tuple. null: not known
   */
  how: 'race' | 'taken' | null;
  /** when the packet came into the namespace, CLOCK_MONOTONIC ns; null: not seen */
  entered: number | null;
}

/** @returns null when no packet of the exchange was dropped so, or that cannot be told yet */
export function collisionOf(exchange: Case): Collision | null {
  const drops = failedInsertions(exchange);
  for (const drop of drops) {
    const winner = winnerOf(exchange, drop);
    if (!winner) continue;
    const entered = enteredAt(exchange, drop);
    const how = winner.insertedAt >= (entered ?? drop.time - PASSAGE) ? 'race' : 'taken';
    return { drop, drops, winner, how, entered };
  }
  const [drop] = drops;
  if (!drop || !mayHaveCollided(exchange, drop)) return null;
  // twice in a row nobody races by chance
  const next = repeatOf(exchange, drop.attempt)?.n;
  const again = drops.some(({ attempt }) => attempt === next);
  if (exchange.outcome === 'pending' && !again) return null;
  return { drop, drops, winner: null, how: again ? 'taken' : null, entered: null };
}

/**
 * Whose collision it is, of two verdicts that exclude each other: `conntrack-reply-collision` is a
 * lookup at a Service (DNAT and source NAT) that lost a race; whatever else is for want of a source
 * port: no free one, or a race of connects, or of lookups that only source NAT translates.
 */
export function verdictOf(
  exchange: Case,
  { drop, how }: Collision,
): 'conntrack-reply-collision' | 'snat-port-exhaustion' {
  const service = (drop.ct!.status & IPS_DST_NAT) !== 0;
  return exchange.kind === 'dns-lookup' && service && how !== 'taken'
    ? 'conntrack-reply-collision'
    : 'snat-port-exhaustion';
}

/** The entry that has the tuple which the dropped packet's was to get. */
function winnerOf(exchange: Case, drop: Observation): Entry | null {
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

/** The entry of the same flow that was made at the same moment as the dropped packet's, and is in the table. */
export function sameFlowWinner(exchange: Case, drop: Observation): Entry | null {
  return (
    exchange
      .rivals(drop, 'original')
      .findLast(
        ({ insertedAt, firstSeen }) =>
          insertedAt !== 0 &&
          insertedAt <= drop.time + SHOWN &&
          Math.abs(firstSeen - drop.time) < SAME_MOMENT,
      ) ?? null
  );
}

/** Another client's entry may have had the tuple, if no entry of the same flow was there to clash with. */
function mayHaveCollided(exchange: Case, drop: Observation): boolean {
  return (
    sameFlowWinner(exchange, drop) === null &&
    !exchange
      .rivals(drop, 'original')
      .some((rival) => rival.insertedAt !== 0 && rival.firstSeen < drop.time)
  );
}

/** What the dropped packet was translated to. */
export function translatedClaim(exchange: Case, { drop }: Collision): Claim {
  const ct = drop.ct!;
  const chosen = exchange.observations.findLast(
    (o) => o.point === 'nat.setup' && o.attempt === drop.attempt && o.ct?.replyKey === ct.replyKey,
  );
  return {
    claim: 'translated',
    text: `On ${nodeOf(drop)}, ${nameOf(exchange, drop.attempt)} from ${flowText(ct)} is translated to ${tupleText(ct)}.`,
    evidence: evidenceOf(chosen ?? drop),
  };
}

/** Who raced it, and won. */
export function raceClaims(exchange: Case, { drop, entered }: Collision, winner: Entry): Claim[] {
  const { reply } = drop.ct!;
  const noun = nameOf(exchange, drop.attempt);
  return [
    {
      claim: 'same-tuple',
      text: `Another flow, ${flowText(winner)}, is translated to the very same: answers to both would come from ${formatEndpoint(reply.source)} to ${formatEndpoint(reply.destination)}, and could not be told apart.`,
      evidence: winner.translated,
    },
    {
      claim: 'winner-inserted',
      text:
        `That one is in the table first. It was ${ageOf(winner, drop)} old when the other came to be inserted, ` +
        (entered === null
          ? `too young to have been there when NAT chose for ${noun}`
          : `and not there yet when ${noun} entered ${nodeOf(drop)} ${shortDuration((drop.time - entered) / 1e6)} before`) +
        `: NAT looks for a free tuple among the entries in the table, and neither saw the other. A race.`,
      evidence: winner.inserted,
    },
  ];
}

/** The same in a sentence or two. */
export function raceText({ drop }: Collision, winner: Entry): string {
  return (
    `On ${nodeOf(drop)}, ${flowText(drop.ct!)} and ${flowText(winner)} were both translated to ${tupleText(drop.ct!)}, at the same moment. ` +
    `NAT looks for a free tuple among the entries that are in the table already, and neither was: the first to be inserted, ${ageOf(winner, drop)} earlier, won, the other packet was dropped.`
  );
}

/** The drop itself, and conntrack's own counter of such drops. */
export function insertFailedClaim(exchange: Case, drop: Observation): Claim {
  const rise = drop.world.rise(drop.netns, 'conntrack.drop', drop.time, drop.time);
  const refused = refusedInsertion(exchange, drop);
  return {
    claim: 'insert-failed',
    text:
      `The entry of ${nameOf(exchange, drop.attempt)} cannot be inserted, and the packet is dropped${passageText(passageOf(exchange, drop))}: ${dropText(exchange, drop)}, NAT done, not confirmed (__nf_conntrack_confirm${refused ? ' was seen to return NF_DROP' : ''}).` +
      (rise && rise.fact > 0
        ? ` conntrack's counter of such drops rose by ${rise.fact} meanwhile.`
        : ''),
    evidence: [...evidenceOf(refused, drop), ...(rise && rise.fact > 0 ? [rise.evidence] : [])],
  };
}

/** What the repeat of attempt `n` met with, and by which tuple it got through. */
export function repeatedClaim(exchange: Case, drop: Observation): Claim[] {
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

/** What every such drop excludes. */
export function ruledOutByCollision(exchange: Case, { drop, winner }: Collision): RuledOut[] {
  const evidence = evidenceOf(drop);
  return [
    {
      verdict: 'policy-drop',
      text: 'the drop comes after the last NAT hook, of a packet whose entry is not in the table: no rule stands there',
      evidence,
    },
    ...(winner
      ? [
          {
            verdict: 'conntrack-insert-race',
            text: 'the two originals differ: it is not one flow whose two packets made an entry each',
            evidence: [...evidence, ...winner.translated],
          },
        ]
      : []),
    {
      verdict: 'conntrack-table-full',
      text: 'a full table drops a packet before it has an entry; this one has one',
      evidence,
    },
    ...(exchange.lostEvents === 0
      ? [
          {
            verdict: 'lost-on-the-wire',
            text: 'the packet was dropped before it left the node',
            evidence,
          },
        ]
      : []),
  ];
}

/** What the findings of both verdicts have in common. */
export function commonOf<V extends string>(
  exchange: Case,
  verdict: V,
  collision: Collision,
): Pick<Diagnosis, 'confidence' | 'loweredFor' | 'subject' | 'attempts' | 'bypass'> & {
  verdict: V;
} {
  const loweredFor = doubtsOf(exchange, collision);
  return {
    verdict,
    confidence: loweredFor.length === 0 ? 'proved' : 'likely',
    loweredFor,
    subject: subjectOf(exchange),
    attempts: attemptsUpToAnswer(exchange, collision.drops),
    bypass: null,
  };
}

function doubtsOf(exchange: Case, { drop, winner, entered }: Collision): string[] {
  if (!winner)
    return [
      'the entry that it collided with was not seen: it is older than the recording, or of traffic that is not recorded' +
        (exchange.attached('conntrack.insert')
          ? ''
          : '; conntrack.insert, which may have shown it, was not attached'),
    ];
  return entered === null
    ? [`when the packet came to ${nodeOf(drop)} was not seen (device.receive)`]
    : [];
}

/** The insertion failed, that is certain; whom it collided with was not recorded. */
export function unknownWinnerText(exchange: Case, { drop }: Collision): string {
  const ct = drop.ct!;
  return `On ${nodeOf(drop)}, the conntrack entry of ${nameOf(exchange, drop.attempt)} (${flowText(ct)}, translated to ${tupleText(ct)}) could not be inserted, and the packet was dropped: another entry has that tuple. Which one was not recorded.`;
}

export const nodeOf = ({ world, netns }: Observation): string => world.netnsName(netns);

/** How old the winner's entry was when the other packet died. */
export const ageOf = (winner: Entry, drop: Observation): string =>
  shortDuration(Math.max(drop.time - winner.insertedAt, 0) / 1e6);
