import { isRequest, whatOf } from '../../explain/reading/attempts.js';
import { blindSpots } from '../../explain/blindness.js';
import type { Case, Diagnoser, Upstream } from '../../explain/diagnose.js';
import { attemptsOf, evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim, RuledOut } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { resolverTimeline } from '../../explain/reading/resolver.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { deliveredAttempts, tripsOf, type Trip } from '../../explain/reading/trips.js';
import { place } from '../../explain/unexplained.js';
import { toMicroseconds } from '../../explain/wording.js';

/** What the stack itself answers leaves within this, ns. */
const AT_ONCE = 20e6;

/** Where the time between a question and its answer went, ms. */
interface Split {
  trip: Trip & { delivered: Observation; left: Observation };
  there: number;
  server: number;
  back: number | null;
}

/**
 * The path is clean, the server took the time: a question was delivered to the server's namespace,
 * and its answer left that much later.
 */
export const slowBackend: Diagnoser = {
  verdict: 'slow-backend',

  diagnose(exchange) {
    const splits = tripsOf(exchange).flatMap(splitOf);
    const slowest = splits.reduce<Split | null>(
      (a, b) => (a && a.server >= b.server ? a : b),
      null,
    );
    if (!slowest) return null;
    const end = exchange.endedAt || exchange.observations.at(-1)!.time;
    const total = (end - exchange.startedAt) / 1e6;
    const { server } = slowest;
    if (server < exchange.slowMs || server < total / 2) return null;
    const { delivered, left } = slowest.trip;
    if (harmed(exchange, left.time) || answersRepeat(exchange, slowest.trip)) return null;

    const blind = blindSpots(delivered.world, delivered.netns, delivered.time);
    // its address may be one that IPVS sends on to a backend: then this is no server
    if (blind.some(({ by }) => by === 'ipvs')) return null;

    const { world } = delivered;
    const node = world.netnsName(delivered.netns);
    const subject = subjectOf(exchange);
    const lookup = exchange.kind === 'dns-lookup';
    const what = lookup ? `the query (${whatOf(exchange, delivered.attempt)})` : 'the SYN';
    const answer = lookup ? 'answer' : 'SYN-ACK';
    const arrived = deliveredAttempts(exchange);
    const loweredFor: string[] = [];
    if (!exchange.attached('packet.drop'))
      loweredFor.push('packet.drop was not attached: a drop on the way would not have been seen');
    const unseen = blind.filter((spot) => spot.unseen);
    for (const { text } of unseen)
      loweredFor.push(`an earlier answer may have left ${node} unseen. ${text}`);
    const chain: Claim[] = [
      {
        claim: 'delivered-to-the-server',
        text: `${upper(what)} is in ${node} after ${ms(slowest.there)} (${place(delivered)}).`,
        evidence: evidenceOf(slowest.trip.sent, delivered),
      },
      {
        claim: 'answered-late',
        text: `The first ${answer} leaves ${node} ${ms(server)} later (${place(left)}).`,
        evidence: evidenceOf(left),
      },
    ];
    if (slowest.back !== null)
      chain.push({
        claim: 'back',
        text: `It is back where the ${lookup ? 'query' : 'SYN'} came from after another ${ms(slowest.back)} (${place(slowest.trip.back!)}).`,
        evidence: evidenceOf(slowest.trip.back),
      });
    const upstream = waitedFor(exchange, slowest);
    if (upstream)
      chain.splice(1, 0, {
        claim: 'waited-for-upstream',
        text: `The server in ${node} asks ${upstream.server ?? 'another server'} the same after ${ms((upstream.startedAt - delivered.time) / 1e6)}, and ${upstream.answeredAt ? `has its answer ${ms((upstream.answeredAt - upstream.startedAt) / 1e6)} later` : 'has no answer from there yet'}.`,
        evidence: upstream.evidence,
      });
    const timeline = lookup ? resolverTimeline(exchange).text : '';
    const split = `client → server ${ms(slowest.there)}, server ${ms(server)}${slowest.back === null ? '' : `, back ${ms(slowest.back)}`}`;
    return {
      verdict: 'slow-backend',
      title: `${outcomeText(exchange, subject.service ?? subject.backend)}: ${node} took ${ms(server)} to answer`,
      summary:
        `${unseen.length > 0 ? 'As far as could be seen, the path is clean and' : 'The path is clean;'} the server took the time: ${split}. ` +
        (lookup
          ? upstream
            ? `It waited for an answer of its own: it had asked ${upstream.server ?? 'another server'} the same. `
            : `Whatever answers DNS in ${node} thought, or waited for somebody else out of sight, that long. `
          : `A SYN-ACK is made by the kernel of ${node}, not by the server’s process: something delayed packets inside that namespace (a neighbour or queue that was not ready, a paused machine). `) +
        timeline,
      cause: `slow-backend/${node}/${subject.backend ?? subject.service ?? ''}`,
      confidence: unseen.length > 0 ? 'possible' : loweredFor.length === 0 ? 'proved' : 'likely',
      loweredFor,
      subject,
      attempts: attemptsOf(exchange, []).map((attempt) => ({
        ...attempt,
        fate: arrived.has(attempt.n) ? 'delivered' : attempt.fate,
      })),
      bypass: null,
      prediction: null,
      chain,
      ruledOut: ruledOut(exchange, slowest, splits),
      remedies: [
        {
          what: lookup
            ? `look at what the DNS server in ${node} waited for: its own upstream lookups, its CPU limit, its log`
            : `look at why ${node} sends late: neighbour entries, queueing disciplines, CPU starvation of the machine`,
          command: lookup ? null : `ip -n ${node} neigh; tc -s -n ${node} qdisc`,
          source: 'the split of this finding',
        },
      ],
    };
  },
};

function splitOf(trip: Trip): Split[] {
  const { sent, delivered, left, back } = trip;
  if (!delivered || !left) return [];
  const between = (a: Observation, b: Observation) => (b.time - a.time) / 1e6;
  return [
    {
      trip: { ...trip, delivered, left },
      there: between(sent, delivered),
      server: between(delivered, left),
      back: back && back.time >= left.time ? between(left, back) : null,
    },
  ];
}

/** The server's own lookup of the same, where that took most of its time. */
function waitedFor(exchange: Case, { trip, server }: Split): Upstream | null {
  const { upstream } = exchange;
  if (!upstream || upstream.netns !== trip.delivered.netns) return null;
  if (upstream.startedAt < trip.delivered.time || upstream.startedAt > trip.left.time) return null;
  const end = Math.min(upstream.answeredAt || Infinity, trip.left.time);
  return (end - upstream.startedAt) / 1e6 >= server / 2 ? upstream : null;
}

/** Was a packet of it dropped before the answer left? Later a client that gave up refuses it, rightly. */
function harmed(exchange: Case, left: number): boolean {
  return exchange.observations.some((o) => o.point === 'packet.drop' && o.time <= left);
}

/**
 * Did the SYN-ACK leave as soon as a repeat of the SYN came? Then the SYNs before it were not answered
 * late but never: a listening socket without room drops them in silence.
 */
function answersRepeat({ kind, observations }: Case, { delivered, left }: Split['trip']): boolean {
  const latest = observations.findLast(
    (o) =>
      o.point === 'device.receive' &&
      o.netns === delivered.netns &&
      o.time <= left.time &&
      isRequest(o),
  );
  return (
    kind === 'tcp-connect' &&
    latest !== undefined &&
    latest.attempt !== delivered.attempt &&
    left.time - latest.time < AT_ONCE
  );
}

function ruledOut(exchange: Case, slowest: Split, splits: readonly Split[]): RuledOut[] {
  const { delivered, left } = slowest.trip;
  const list: RuledOut[] = [
    {
      verdict: 'lost-on-the-wire',
      text: 'nothing was lost: the question that was answered late had arrived at once',
      evidence: evidenceOf(delivered),
    },
  ];
  if (exchange.attached('packet.drop') && exchange.lostEvents === 0)
    list.push({
      verdict: 'policy-drop',
      text: 'no packet of it was dropped in a traced namespace before the answer left, and no event was lost',
      evidence: evidenceOf(delivered, left),
    });
  if (exchange.kind === 'dns-lookup')
    list.push({
      verdict: 'resolver-search',
      text:
        splits.length > 1
          ? `of ${splits.length} questions this one alone took ${ms(slowest.server)} at the server`
          : 'one question alone took that long',
      evidence: evidenceOf(delivered, left),
    });
  return list;
}

/** `12.3 ms`: a split is told to a tenth, since its parts are compared. */
function ms(value: number): string {
  return `${toMicroseconds(value).toFixed(1)} ms`;
}

function upper(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
