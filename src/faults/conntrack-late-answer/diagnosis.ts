import { isAnswer, isRequest, nameOf, whatOf } from '../../explain/reading/attempts.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import { dropText, evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim, Diagnosis, RuledOut } from '../../explain/finding.js';
import { flowText, IPS_NAT_CLASH, tupleText } from '../../explain/reading/insertion.js';
import { IPS_CONFIRMED, type Observation } from '../../explain/exchanges/observation.js';
import { attemptsUpToAnswer, repeatOf, repeatText } from '../../explain/reading/repeats.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { place } from '../../explain/unexplained.js';
import { duration, shortDuration } from '../../explain/wording.js';
import { formatEndpoint } from '../../event/headers.js';
import { remedies } from './remedies.js';

/** How long the loser's entry lives: HZ (nf_ct_resolve_clash_harder, net/netfilter/nf_conntrack_core.c). */
const CLASH_LIFE_MS = 1000;

/** A query whose entry lost a clash, and the answer that came too late for it. */
interface LateAnswer {
  /** the query, with the entry that the clash left it */
  query: Observation;
  /** the first event of its answer in the namespace of the clash */
  arrived: Observation;
  /** the answer where it ended: dropped, or on its way with the backend's own address */
  end: Observation;
}

/**
 * Two queries of one socket make an entry each, translated to different backends. The second entry
 * cannot have the original tuple; since 5.7 it is put in by its reply tuple alone and lives for one
 * second. An answer that comes later is not translated back. insert_failed and drop do not count it.
 */
export const lateAnswer: Diagnoser = {
  verdict: 'conntrack-late-answer',

  diagnose(exchange) {
    const late = lateAnswers(exchange);
    const [first] = late;
    return first ? diagnosis(exchange, late, first) : null;
  },
};

function lateAnswers(exchange: Case): LateAnswer[] {
  const found: LateAnswer[] = [];
  for (const query of exchange.observations) {
    const { ct } = query;
    if (!isRequest(query) || query.tunnel || !ct || (ct.status & IPS_NAT_CLASH) === 0) continue;
    if (found.some((late) => late.query.ct!.replyKey === ct.replyKey)) continue;
    // what comes to the tuple that the entry had, as no entry translated it
    const raw = exchange.observations.filter(
      (o) =>
        isAnswer(o) &&
        o.time > query.time &&
        o.headers.flow.key(o.record) === ct.replyKey &&
        messageOf(exchange, o) === messageOf(exchange, query),
    );
    const arrived = raw.find((o) => o.netns === query.netns);
    if (!arrived || (arrived.time - query.time) / 1e6 < CLASH_LIFE_MS) continue;
    const end =
      raw.find((o) => o.point === 'packet.drop') ??
      raw.findLast((o) => o !== arrived && leaves(o, arrived));
    if (end) found.push({ query, arrived, end });
  }
  return found;
}

/** Is the answer on its way on from where it arrived, with the address it came with? */
const leaves = (o: Observation, arrived: Observation): boolean =>
  o.netns !== arrived.netns || o.point === 'device.transmit' || o.point === 'device.queue';

const messageOf = (exchange: Case, o: Observation): number =>
  exchange.attempts[o.attempt - 1]?.message ?? 0;

function diagnosis(exchange: Case, all: readonly LateAnswer[], late: LateAnswer): Diagnosis {
  const { query, arrived, end } = late;
  const { world, netns } = query;
  const ct = query.ct!;
  const node = world.netnsName(netns);
  const noun = nameOf(exchange, query.attempt);
  const dropped = end.point === 'packet.drop';
  const wait = duration((arrived.time - query.time) / 1e6);
  const [backend, address] = [
    formatEndpoint(ct.reply.source),
    formatEndpoint(ct.reply.destination),
  ];
  const rival = exchange
    .rivals(query, 'original')
    .findLast((other) => other.insertedAt !== 0 && other.firstSeen <= query.time);
  const winner = winnerOf(exchange, query);
  const subject = subjectOf(exchange);
  const asked = exchange.observations.find((o) => o.attempt === query.attempt)!;
  const apart = winner
    ? shortDuration(Math.abs(firstOf(exchange, winner).time - asked.time) / 1e6)
    : null;
  const clashes = world.rise(netns, 'conntrack.clashres', query.time, query.time);
  const failures = world.rise(netns, 'conntrack.insert_failed', query.time, query.time);
  const fate = dropped
    ? `was not translated back, and was dropped: ${dropText(exchange, end)}`
    : `was not translated back, and went on to the client from ${backend}, which it never asked`;
  const chain: Claim[] = [
    {
      claim: 'clash',
      text:
        (winner
          ? `${nameOf(exchange, winner.attempt)} and ${noun} leave one socket ${apart} apart. On ${node} each makes an entry for ${flowText(ct)}: one is translated to ${tupleText(winner.ct!)}, the other to ${tupleText(ct)}.`
          : `On ${node}, ${noun} (${flowText(ct)}) is translated to ${tupleText(ct)}, while another entry has that flow already.`) +
        (clashes && clashes.fact > 0
          ? ` conntrack's counter of resolved clashes rose by ${clashes.fact}.`
          : ''),
      evidence: [
        ...evidenceOf(winner ?? null),
        ...(winner ? [] : (rival?.inserted ?? [])),
        ...evidenceOf(query),
        ...(clashes && clashes.fact > 0 ? [clashes.evidence] : []),
      ],
    },
    {
      claim: 'loser-lives-a-second',
      text: `The entry of ${noun} loses: it is in the table by its reply tuple alone (status NAT_CLASH) and will live for ${duration(ct.timeoutMs ?? CLASH_LIFE_MS)}, whatever the timeouts are.`,
      evidence: evidenceOf(query),
    },
    {
      claim: 'answer-after-its-end',
      text: `The answer from ${backend} comes after ${wait}: the entry is gone.`,
      evidence: evidenceOf(arrived),
    },
    {
      claim: dropped ? 'answer-dropped' : 'answer-from-the-backend',
      text: dropped
        ? `It is addressed to ${address} as it came, where no socket waits for it: ${dropText(exchange, end)}. insert_failed ${failures && failures.fact > 0 ? `rose by ${failures.fact} meanwhile, but does not count this` : 'stays as it was'}: nothing was dropped that conntrack counts.`
        : `It goes on to ${address} from ${backend}; the client asked ${formatEndpoint(ct.original.destination)}, and takes no answer from anybody else (${place(end)}).`,
      evidence: evidenceOf(end),
    },
  ];
  const again = repeatOf(exchange, query.attempt);
  if (again) {
    const through = exchange.observations.findLast(
      (o) => o.attempt === again.n && isRequest(o) && o.netns === netns && o.ct !== null,
    );
    const answered = exchange.queries[messageOf(exchange, query)]?.answeredAt ?? 0;
    chain.push({
      claim: 'repeated',
      text:
        `${nameOf(exchange, again.n)} is the same again after ${duration(again.afterMs)}` +
        (through?.ct
          ? `: it belongs to the winner's entry, and goes to ${formatEndpoint(through.ct.reply.source)}`
          : '') +
        (answered
          ? `; it is answered ${shortDuration((answered - exchange.attempts[again.n - 1]!.startedAt) / 1e6)} later.`
          : '.'),
      evidence: evidenceOf(through ?? exchange.observations.find((o) => o.attempt === again.n)),
    });
  }
  return {
    verdict: 'conntrack-late-answer',
    defect: dropped ? 'dropped-at-the-node' : 'foreign-source',
    title: `${outcomeText(exchange, subject.service)}: the answer to ${whatOf(exchange, query.attempt)} came after ${wait}, later than its conntrack entry lived`,
    summary:
      `${winner ? `${whatOf(exchange, winner.attempt)} and ${whatOf(exchange, query.attempt)} left one socket at the same moment and were translated to different backends` : `${noun} was translated otherwise than an entry of the same flow`} on ${node}: conntrack keeps one entry for the flow, and gave the other one a second to live. ` +
      `The server took ${wait} to answer ${whatOf(exchange, query.attempt)}; that answer ${fate}. ${repeatText(exchange, query.attempt)}`,
    cause: `conntrack-late-answer/${node}`,
    confidence: 'proved',
    loweredFor: [],
    subject,
    attempts: attemptsUpToAnswer(
      exchange,
      all.map((l) => l.end).filter((o) => o.point === 'packet.drop'),
    ),
    bypass: null,
    prediction: null,
    chain,
    ruledOut: ruledOut(late, dropped),
    remedies: remedies(),
  };
}

/** The query of the same lookup whose entry has the flow. */
function winnerOf(exchange: Case, { ct }: Observation): Observation | undefined {
  return exchange.observations.find(
    (o) =>
      isRequest(o) &&
      o.ct?.originalKey === ct!.originalKey &&
      o.ct.address !== ct!.address &&
      o.ct.replyKey !== ct!.replyKey &&
      (o.ct.status & IPS_CONFIRMED) !== 0 &&
      !o.tunnel,
  );
}

const firstOf = (exchange: Case, { attempt }: Observation): Observation =>
  exchange.observations.find((o) => o.attempt === attempt)!;

function ruledOut({ query, arrived, end }: LateAnswer, dropped: boolean): RuledOut[] {
  return [
    {
      verdict: 'slow-backend',
      text: 'the server answered, and an answer after that time would have been in order: the client got it only by asking again',
      evidence: evidenceOf(arrived),
    },
    {
      verdict: 'reply-not-translated',
      text: 'the answer came the way of its query; the entry that would have translated it had ended',
      evidence: evidenceOf(query, arrived),
    },
    {
      verdict: 'conntrack-insert-race',
      text: 'the query was not dropped: its entry was put in, for a second',
      evidence: evidenceOf(query),
    },
    ...(dropped
      ? [
          {
            verdict: 'no-listener',
            text: 'the socket is the client’s, and waits; the answer was dropped at the address that masquerading had put in its place',
            evidence: evidenceOf(end),
          },
        ]
      : []),
  ];
}
