import { formatEndpoint, TCP_SYN } from '../../event/headers.js';
import { isAnswer, isRequest } from '../../explain/reading/attempts.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import { attemptsOf, dropText, evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim, Confidence, Diagnosis, RuledOut } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { resolverTimeline, type ResolverTimeline } from '../../explain/reading/resolver.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { deliveredAttempts } from '../../explain/reading/trips.js';
import { duration, toMicroseconds } from '../../explain/wording.js';
import type { Defect } from './defect.js';
import { remedies } from './remedies.js';

/** What one of the three says; the rest of the diagnosis is common. */
interface Verdict {
  defect: Defect;
  /** what the time went into, after `lookup of … took …: ` */
  title: string;
  summary: string;
  cause: string;
  confidence: Confidence;
  loweredFor: string[];
  chain: Claim[];
  ruledOut: RuledOut[];
  drops: Observation[];
  /** of the name server it is about */
  server: string | null;
}

/**
 * No packet was lost, and the lookup was slow all the same: the time went into the steps of a search
 * list, into asking again over TCP, or into waiting for a name server that never answers.
 */
export const resolverSearch: Diagnoser = {
  verdict: 'resolver-search',

  diagnose(exchange) {
    if (exchange.kind !== 'dns-lookup') return null;
    const end = exchange.endedAt || exchange.observations.at(-1)?.time || exchange.startedAt;
    const total = (end - exchange.startedAt) / 1e6;
    if (total < exchange.slowMs) return null;
    const timeline = resolverTimeline(exchange);
    const found =
      deadNameServer(exchange, timeline, total) ??
      truncation(exchange, total) ??
      searchList(exchange, timeline, total);
    return found && diagnosis(exchange, found);
  },
};

function diagnosis(exchange: Case, found: Verdict): Diagnosis {
  const subject = subjectOf(exchange);
  const arrived = deliveredAttempts(exchange);
  return {
    verdict: 'resolver-search',
    defect: found.defect,
    title: `${outcomeText(exchange, subject.service ?? subject.backend)}: ${found.title}`,
    summary: found.summary,
    cause: `resolver-search/${found.cause}`,
    confidence: found.confidence,
    loweredFor: found.loweredFor,
    subject,
    attempts: attemptsOf(exchange, found.drops).map((attempt) => ({
      ...attempt,
      fate: attempt.fate === 'unknown' && arrived.has(attempt.n) ? 'delivered' : attempt.fate,
    })),
    bypass: null,
    prediction: null,
    chain: found.chain,
    ruledOut: found.ruledOut,
    remedies: remedies(found.defect, found.server),
  };
}

/** Name by name until one exists, each answered soon enough. */
function searchList(exchange: Case, timeline: ResolverTimeline, total: number): Verdict | null {
  const { steps, waits } = timeline;
  const last = steps.at(-1);
  if (!last || steps.length < 2 || waits.length > 0 || lostSomething(exchange)) return null;
  const misses = steps.slice(0, -1);
  if (!misses.every((step) => step.result === 'NXDOMAIN')) return null;
  const longest = Math.max(...steps.map((step) => (step.toMs ?? total) - step.fromMs));
  if (longest >= exchange.slowMs || last.fromMs < total / 2) return null;
  const node = exchange.world.netnsName(exchange.netns);
  const list = steps
    .map(
      (step) =>
        `${step.name ?? '?'} (${step.types.join(', ')}): ${step.result ?? 'no answer'} after ${duration((step.toMs ?? total) - step.fromMs)}`,
    )
    .join('; ');
  return {
    defect: 'search-list',
    title: `${misses.length} names of the search list did not exist`,
    summary:
      `No packet was lost. The resolver went through its search list: ${list}. ` +
      `The ${misses.length} steps before the last took ${duration(last.fromMs)} of ${duration(total)}.`,
    cause: `search-list/${node}`,
    confidence: 'proved',
    loweredFor: [],
    chain: steps.map((step, i) => ({
      claim: i < misses.length ? 'no-such-name' : 'final-name',
      text:
        `After ${duration(step.fromMs)} it asks for ${step.name ?? 'a name'} (${step.types.join(', ')})` +
        `${step.result ? ` and is told ${step.result} ${duration((step.toMs ?? total) - step.fromMs)} later` : ''}.`,
      evidence: step.messages.flatMap((message) => questionAndAnswer(exchange, message)),
    })),
    ruledOut: [
      {
        verdict: 'slow-backend',
        text: `no single question took longer than ${duration(longest)}`,
        evidence: [],
      },
      nothingDropped(exchange),
    ],
    drops: [],
    server: null,
  };
}

/** The answer did not fit into UDP, and TCP took its time. */
function truncation(exchange: Case, total: number): Verdict | null {
  const { retry } = exchange;
  const query = exchange.queries.find((q) => q.truncated);
  if (!retry || !query) return null;
  const end = retry.openedAt || exchange.endedAt || exchange.observations.at(-1)!.time;
  const took = (end - retry.startedAt) / 1e6;
  if (took < total / 2) return null;
  const syns = exchange.observations.filter((o) => (o.headers.flow.flags & TCP_SYN) !== 0);
  const first = syns.find((o) => isRequest(o));
  const opened = syns.find((o) => isAnswer(o) && o.time === retry.openedAt);
  const told = exchange.observations.find((o) => o.dns?.response && o.dns.truncated);
  const server = first
    ? formatEndpoint(first.headers.flow.destination(first.record))
    : 'its server';
  const chain: Claim[] = [
    {
      claim: 'truncated',
      text: `The answer over UDP came soon and said only that it is truncated: the resolver has to ask again over TCP.`,
      evidence: evidenceOf(told),
    },
    {
      claim: 'asked-over-tcp',
      text: `The connect to ${server} ${retry.openedAt ? `took ${duration(took)}` : `was still not answered after ${duration(took)}`}.`,
      evidence: evidenceOf(first, opened),
    },
  ];
  return {
    defect: 'truncation',
    title: `the answer was truncated, and TCP to ${server} ${retry.openedAt ? `took ${duration(took)}` : 'does not open'}`,
    summary:
      `The name server ${server} answered over UDP at once, with a truncated answer; the resolver then connects to it over TCP, which ` +
      `${retry.openedAt ? `took ${duration(took)} of ${duration(total)}` : `it cannot: ${duration(took)} of ${duration(total)} went into that`}. ` +
      `Why the connect was slow is a question of its own, with a finding of its own where it is known. What is said over TCP after the handshake is not seen.`,
    cause: `truncation/${server}`,
    confidence: told ? 'proved' : 'likely',
    loweredFor: told ? [] : ['the truncated answer itself was not kept'],
    chain,
    ruledOut: [
      {
        verdict: 'slow-backend',
        text: `the server answered over UDP within ${duration((query.answeredAt - query.sentAt) / 1e6)}`,
        evidence: evidenceOf(told),
      },
    ],
    drops: [],
    server,
  };
}

/** A name server that was asked, never answered, and was waited for before another one was asked. */
function deadNameServer(exchange: Case, timeline: ResolverTimeline, total: number): Verdict | null {
  const { servers, waits, sends } = timeline;
  const waited = waits.reduce((a, b) => a + b, 0);
  if (waits.length === 0 || waited < total / 2 || servers.length < 2) return null;
  const answers = exchange.observations.filter(
    (o) => o.netns === exchange.netns && o.dns?.response && o.point !== 'packet.drop',
  );
  const answeredBy = (server: string) =>
    answers.find((o) => formatEndpoint(o.headers.flow.source(o.record)) === server);
  const dead = servers.find((server) => !answeredBy(server));
  const alive = servers.find((server) => answeredBy(server));
  if (!dead || !alive) return null;
  const tally = exchange.nameServers.get(dead);
  if (!tally || tally.answered > 0) return null;
  // All that it was asked had to be waited for: what was asked elsewhere at once cost nothing.
  const asked = sends.filter((send) => send.server === dead);
  const numbers = new Set(asked.map((send) => send.n));
  const drops = exchange.observations.filter(
    (o) => o.point === 'packet.drop' && numbers.has(o.attempt) && !isAnswer(o),
  );
  // Dropped for want of a neighbour or a host: then nobody has the address. Else it is no case for us.
  const nobody = drops.find((o) => /^NEIGH_/.test(exchange.reasonName(o)));
  if (drops.some((o) => !/^NEIGH_/.test(exchange.reasonName(o)))) return null;
  if (sends.some((send) => send.server === alive && waitedFor(sends, send.n, alive))) return null;
  const requests = exchange.observations.filter((o) => numbers.has(o.attempt) && isRequest(o));
  const last = requests.filter((o) => o.point !== 'packet.drop').at(-1);
  const back = answeredBy(alive)!;
  const sure = nobody !== undefined;
  return {
    defect: 'dead-name-server',
    title: `name server ${dead} never answered, ${alive} did`,
    summary:
      `The resolver asked ${dead} first, which never answered${sure ? ': nobody has its address' : ''}, and waited ${duration(waited)} of ${duration(total)} before it asked ${alive}, which answered ${duration((back.time - (sendTime(exchange, sends, alive) ?? back.time)) / 1e6)} later. ` +
      timeline.text,
    cause: `dead-name-server/${dead}`,
    confidence: sure ? 'proved' : tally.asked > 1 ? 'likely' : 'possible',
    loweredFor: sure
      ? []
      : [
          `${dead} did not answer ${tally.asked === 1 ? 'the one question' : `any of ${tally.asked} questions`} of this recording; that it is gone, rather than cut off, is inferred`,
        ],
    chain: [
      {
        claim: 'asked-in-vain',
        text: `${asked.length === 1 ? 'A question goes' : `${asked.length} questions go`} to ${dead}${sure ? `, and die for want of a neighbour: ${dropText(exchange, nobody)}` : ''}; no answer comes from there.`,
        evidence: evidenceOf(requests[0], last, nobody),
      },
      {
        claim: 'answered-elsewhere',
        text: `${alive} is asked after ${duration(toMicroseconds(waited))} and answers.`,
        evidence: evidenceOf(back),
      },
    ],
    ruledOut: [
      {
        verdict: 'lost-on-the-wire',
        text: `not one question, but each that went to ${dead} in this recording (${tally.asked}) stayed without an answer`,
        evidence: evidenceOf(requests[0]),
      },
      {
        verdict: 'slow-backend',
        text: 'the server that answered did so at once',
        evidence: evidenceOf(back),
      },
    ],
    drops,
    server: dead,
  };
}

/** Was the same question sent to this server earlier, in vain? */
function waitedFor(sends: ResolverTimeline['sends'], n: number, server: string): boolean {
  const send = sends[n - 1]!;
  return sends.some(
    (s) => s.n < n && s.server === server && s.message === send.message && send.atMs - s.atMs > 100,
  );
}

/** When a server was first asked, CLOCK_MONOTONIC ns. */
function sendTime(exchange: Case, sends: ResolverTimeline['sends'], server: string): number | null {
  const send = sends.find((s) => s.server === server);
  return send ? exchange.attempts[send.n - 1]!.startedAt : null;
}

function lostSomething(exchange: Case): boolean {
  return exchange.observations.some((o) => o.point === 'packet.drop');
}

function questionAndAnswer(exchange: Case, message: number): Claim['evidence'] {
  const mine = exchange.observations.filter(
    (o) => exchange.attempts[o.attempt - 1]?.message === message && o.netns === exchange.netns,
  );
  return evidenceOf(
    mine.find((o) => isRequest(o)),
    mine.find((o) => isAnswer(o)),
  );
}

function nothingDropped(exchange: Case): RuledOut {
  return {
    verdict: 'lost-on-the-wire',
    text: `every question was answered at its first try${exchange.lostEvents === 0 ? ', and no event was lost' : ''}`,
    evidence: [],
  };
}
