import { formatEndpoint } from '../../event/headers.js';
import { isAnswer, isRequest } from '../../explain/reading/attempts.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import {
  attemptsOf,
  dropText,
  evidenceOf,
  isReset,
  outcomeText,
} from '../../explain/reading/fates.js';
import type { Claim, Evidence } from '../../explain/finding.js';
import { IPS_NAT_CLASH } from '../../explain/reading/insertion.js';
import {
  IPS_DST_NAT,
  type Conntrack,
  type Observation,
} from '../../explain/exchanges/observation.js';
import { resolverTimeline } from '../../explain/reading/resolver.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { deliveredAttempts } from '../../explain/reading/trips.js';
import { place } from '../../explain/unexplained.js';
import type { Way } from './way.js';
import { remedies } from './remedies.js';

/** The entry that translated a request. */
interface Translated {
  seen: Observation;
  ct: Conntrack;
}

/**
 * The answer bypasses the NAT that its request went through: it comes to the client from the
 * backend’s own address, which the client never called, and is refused.
 */
export const replyNotTranslated: Diagnoser = {
  verdict: 'reply-not-translated',

  diagnose(exchange) {
    const answer = foreignAnswer(exchange);
    if (!answer) return null;
    const asked = exchange.observations.find((o) => isRequest(o) && o.netns === exchange.netns)!;
    const service = formatEndpoint(asked.headers.flow.destination(asked.record));
    const backend = formatEndpoint(answer.headers.flow.source(answer.record));
    const nat = translatedBy(exchange, service, backend);
    if (!nat && exchange.observations.some((o) => isRequest(o) && o.ct !== null && !o.tunnel))
      return null;
    if (nat && expired(exchange, nat, answer)) return null;

    const refusal = refusalOf(exchange, answer);
    const { world } = answer;
    const client = world.netnsName(answer.netns);
    const way = nat ? wayOf(exchange, nat, backend) : 'unknown';
    const node = nat ? nat.seen.world.netnsName(nat.seen.netns) : null;
    const subject = subjectOf(exchange);
    const tcp = exchange.kind !== 'dns-lookup';
    const noun = tcp ? 'SYN' : 'query';
    const passing = nat ? answersIn(exchange, nat.seen.netns, backend) : [];
    const explanation = why(way, node ?? 'the node', passing, nat);
    const loweredFor = nat
      ? []
      : [
          'the namespace that translates was not traced: that the request was translated is inferred from the answer’s address',
        ];
    if (!refusal) loweredFor.push('that the client refused it was not seen');
    else if (refusal.point === 'packet.drop') loweredFor.push(...exchange.reasonDoubts(refusal));
    const arrived = deliveredAttempts(exchange);
    const chain: Claim[] = [];
    if (nat)
      chain.push({
        claim: 'translated',
        text: `In ${node} the ${noun}’s destination ${service} becomes ${backend}: answers must come back through that entry to be translated.`,
        evidence: evidenceOf(nat.seen),
      });
    if (nat)
      chain.push({ claim: 'bypassed', text: explanation.text, evidence: explanation.evidence });
    chain.push({
      claim: 'answer-from-the-backend',
      text: `The answer arrives in ${client} from ${backend} itself (${place(answer)}); the client had called ${service}.`,
      evidence: evidenceOf(asked, answer),
    });
    if (refusal)
      chain.push({
        claim: 'refused',
        text: isReset(refusal)
          ? `${client} knows of no connect to ${backend} and refuses the SYN-ACK with a RST (${place(refusal)}).`
          : `No socket of ${client} waits for something from ${backend}: ${dropText(exchange, refusal)}.`,
        evidence: evidenceOf(refusal),
      });
    return {
      verdict: 'reply-not-translated',
      title: `${outcomeText(exchange, service)}: the answer came from ${backend} itself, past the NAT`,
      summary:
        `The ${noun} went to ${service} and was translated to ${backend}${node ? ` in ${node}` : ''}; the answer reached ${client} untranslated, from an address it had not called, and was refused. ` +
        `${explanation.short} ${tcp ? '' : resolverTimeline(exchange).text}`.trim(),
      cause: `reply-not-translated/${way}/${node ?? client}`,
      confidence: !nat ? 'possible' : loweredFor.length === 0 ? 'proved' : 'likely',
      loweredFor,
      subject: { ...subject, service, backend },
      attempts: attemptsOf(exchange, []).map((attempt) => ({
        ...attempt,
        fate: arrived.has(attempt.n) ? 'delivered' : attempt.fate,
      })),
      bypass: null,
      prediction: {
        recoverAtMs: 'never',
        observedMs: null,
        text: 'every answer goes the same way',
      },
      chain,
      ruledOut: [
        {
          verdict: 'no-listener',
          text: 'the server answered, and what refuses is the client, for the address it does not know',
          evidence: evidenceOf(answer),
        },
        {
          verdict: 'lost-on-the-wire',
          text: 'the answer arrived',
          evidence: evidenceOf(answer),
        },
        ...(nat
          ? [
              {
                verdict: 'conntrack-late-answer',
                text: 'the entry was still there when the answer came, and is not the loser of a clash',
                evidence: evidenceOf(nat.seen),
              },
            ]
          : []),
      ],
      remedies: remedies(way, node),
    };
  },
};

/** An answer in the client’s own namespace from an address that the client did not call. */
function foreignAnswer(exchange: Case): Observation | null {
  const sent = exchange.observations.filter(
    (o) => isRequest(o) && o.netns === exchange.netns && o.headers.flow.l4 >= 0 && !o.tunnel,
  );
  const first = sent[0];
  if (!first) return null;
  // A namespace that translates itself sees both addresses: nothing follows from that.
  if (sent.some((o) => ((o.ct?.status ?? 0) & IPS_DST_NAT) !== 0)) return null;
  const source = first.headers.flow.source(first.record);
  if (!first.world.owns(first.netns, source.address)) return null;
  const called = new Set(sent.map((o) => formatEndpoint(o.headers.flow.destination(o.record))));
  return (
    exchange.observations.find(
      (o) =>
        o.netns === exchange.netns &&
        o.point === 'device.receive' &&
        !o.tunnel &&
        isAnswer(o) &&
        o.headers.flow.destination(o.record).address === source.address &&
        !called.has(formatEndpoint(o.headers.flow.source(o.record))),
    ) ?? null
  );
}

function translatedBy(exchange: Case, service: string, backend: string): Translated | null {
  const seen = exchange.observations.find(
    (o) =>
      isRequest(o) &&
      !o.tunnel &&
      o.ct !== null &&
      (o.ct.status & IPS_DST_NAT) !== 0 &&
      formatEndpoint(o.ct.original.destination) === service &&
      formatEndpoint(o.ct.reply.source) === backend,
  );
  return seen ? { seen, ct: seen.ct! } : null;
}

/** Was the entry gone, or about to go as the loser of a clash, when the answer came? */
function expired(exchange: Case, { ct, seen }: Translated, answer: Observation): boolean {
  const same = exchange.observations.filter(
    (o) => o.ct?.originalKey === ct.originalKey && o.netns === seen.netns && o.time <= answer.time,
  );
  if (same.some((o) => (o.ct!.status & IPS_NAT_CLASH) !== 0)) return true;
  const last = same.findLast((o) => o.ct!.timeoutMs !== null);
  return last !== undefined && (answer.time - last.time) / 1e6 >= last.ct!.timeoutMs!;
}

function refusalOf(exchange: Case, answer: Observation): Observation | null {
  const { flow } = answer.headers;
  const port = flow.dport;
  return (
    exchange.observations.find(
      (o) =>
        o.netns === answer.netns &&
        o.time >= answer.time &&
        ((isReset(o) && o.headers.flow.sport === port && o.point !== 'packet.drop') ||
          (o.point === 'packet.drop' &&
            isAnswer(o) &&
            o.headers.flow.dport === port &&
            exchange.reasonName(o) === 'NO_SOCKET')),
    ) ?? null
  );
}

function answersIn(exchange: Case, netns: number, backend: string): Observation[] {
  return exchange.observations.filter(
    (o) =>
      o.netns === netns &&
      isAnswer(o) &&
      o.point !== 'packet.drop' &&
      formatEndpoint(o.headers.flow.source(o.record)) === backend,
  );
}

function wayOf(exchange: Case, { seen }: Translated, backend: string): Way {
  const passing = answersIn(exchange, seen.netns, backend);
  if (passing.length === 0) return 'another-way';
  const isPort = (o: Observation) =>
    o.world.device(o.netns, o.ifindex)?.fact.master !== undefined && o.ct === null;
  // Where bridged packets pass conntrack, it has seen them and let them be.
  const shown = seen.world.setting(seen.netns, 'net.bridge.bridge-nf-call-iptables')?.fact === '1';
  return passing.every(isPort) && !shown ? 'bridged' : 'not-tracked';
}

interface Explanation {
  /** for the summary */
  short: string;
  text: string;
  evidence: Evidence[];
}

function why(way: Way, node: string, passing: Observation[], nat: Translated | null): Explanation {
  const evidence = evidenceOf(...passing.slice(0, 4));
  switch (way) {
    case 'bridged': {
      const known = nat?.seen.world.setting(nat.seen.netns, 'net.bridge.bridge-nf-call-iptables');
      const off = known?.fact === '0';
      return {
        short: `Client and backend are on one bridge of ${node}, and the answer was bridged: bridged packets pass conntrack only with net.bridge.bridge-nf-call-iptables = 1${off ? ' (it is 0)' : ''}.`,
        text: `In ${node} the answer goes from one port of a bridge to another (${passing.map(place).slice(0, 2).join(', ')}) and is shown to no conntrack entry${off ? ': net.bridge.bridge-nf-call-iptables is 0 there' : ''}.`,
        evidence: [...evidence, ...(off ? [known.evidence] : [])],
      };
    }
    case 'another-way':
      return {
        short: `It never came through ${node}: its way back is another one.`,
        text: `The answer is not seen in ${node} at all: it came back another way, past the entry.`,
        evidence: evidenceOf(nat?.seen),
      };
    case 'not-tracked':
      return {
        short: `It came through ${node}, but conntrack did not take it for an answer (INVALID, or NOTRACK).`,
        text: `The answer passes ${node} (${passing.map(place).slice(0, 2).join(', ')}) ${passing.some((o) => o.ct) ? 'with another entry than the request’s' : 'without a conntrack entry'}: it is not taken for an answer (INVALID, NOTRACK or another zone), and is not translated.`,
        evidence,
      };
    case 'unknown':
      return { short: '', text: '', evidence: [] };
  }
}
