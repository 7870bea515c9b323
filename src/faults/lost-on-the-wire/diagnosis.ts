import { nameOf } from '../../explain/reading/attempts.js';
import { blindSpots } from '../../explain/blindness.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import { attemptsOf, evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim } from '../../explain/finding.js';
import { resolverTimeline } from '../../explain/reading/resolver.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { deliveredAttempts } from '../../explain/reading/trips.js';
import { place } from '../../explain/unexplained.js';
import { count, duration } from '../../explain/wording.js';
import { lossesOf, type Loss } from './losses.js';

/** What may have taken the packet unseen, in the namespace that it left or was to come to. */
const blindAt = ({ left, through, traced }: Loss): string[] =>
  [left, ...(traced ? [through.arrived] : [])].flatMap(({ world, netns, time }) =>
    blindSpots(world, netns, time)
      .filter(({ unseen }) => unseen)
      .map(({ text }) => `not all can be seen in ${world.netnsName(netns)}: ${text}`),
  );

/**
 * A packet left a traced namespace in good order and never arrived where others of the same exchange
 * did. What happened in between is out of sight: hence never more than `possible`.
 */
export const lostOnTheWire: Diagnoser = {
  verdict: 'lost-on-the-wire',

  diagnose(exchange) {
    if (!exchange.attached('packet.drop') || !exchange.attached('device.receive')) return null;
    if (exchange.lostEvents > 0) return null;
    const losses = lossesOf(exchange);
    const first = losses[0];
    if (!first) return null;
    const { world } = first.left;
    const from = world.netnsName(first.left.netns);
    const device = world.deviceName(first.left.netns, first.left.ifindex);
    const to = first.traced
      ? first.through.arrived.world.netnsName(first.through.arrived.netns)
      : null;
    const subject = subjectOf(exchange);
    const arrived = deliveredAttempts(exchange);
    const lost = new Set(losses.filter((loss) => !loss.answer).map((loss) => loss.n));
    const timeline = exchange.kind === 'dns-lookup' ? resolverTimeline(exchange).text : '';
    const what = first.answer
      ? `the answer to ${nameOf(exchange, first.n)}`
      : nameOf(exchange, first.n);
    const where = to ? `between ${device} of ${from} and ${to}` : `beyond ${device} of ${from}`;
    return {
      verdict: 'lost-on-the-wire',
      title: `${outcomeText(exchange, subject.service ?? subject.backend)}: ${count(losses.length, 'packet')} lost ${where}`,
      summary:
        `${capital(what)} left ${from} by ${device} in good order and ${to ? `never arrived in ${to}` : 'nothing came back for it'}; ` +
        `${to ? 'others got through there' : 'a repeat by the same way was answered'}. Nothing in the traced namespaces dropped it: ` +
        `it was lost out of sight, on the wire, in a device or switch, by a program before the first point that is watched (XDP)${to ? '' : ', or on a machine that was not traced'}. ` +
        timeline,
      cause: `lost-on-the-wire/${from}/${device}`,
      confidence: 'possible',
      loweredFor: [
        to
          ? `what is between ${device} of ${from} and ${to} cannot be seen`
          : `what is beyond ${device} of ${from} was not traced: the packet or its answer may have been lost anywhere there`,
        ...blindAt(first),
      ],
      subject,
      attempts: attemptsOf(exchange, []).map((attempt) => ({
        ...attempt,
        fate: arrived.has(attempt.n) && !lost.has(attempt.n) ? 'delivered' : attempt.fate,
      })),
      bypass: null,
      prediction: null,
      chain: losses.flatMap((loss) => claims(exchange, loss)),
      ruledOut: [
        ...(to
          ? [
              {
                verdict: 'policy-drop',
                text: 'no traced namespace dropped a packet of these attempts: packet.drop was attached and no event was lost',
                evidence: evidenceOf(first.left),
              },
            ]
          : []),
        {
          verdict: 'slow-backend',
          text: first.answer
            ? 'the answer had left in time'
            : to
              ? 'the packet never came to the server'
              : 'the repeat that was answered was answered soon',
          evidence: evidenceOf(first.through.arrived),
        },
        ...(subject.tunnel
          ? [
              {
                verdict: 'double-snat',
                text: 'the checksum of the tunnel packet was right when it left',
                evidence: evidenceOf(first.left),
              },
            ]
          : []),
      ],
      remedies: [
        {
          what: `look at what counts drops on the way from ${device} of ${from}${to ? ` to ${to}` : ''}: the devices at both ends, XDP and tc programs, the switch`,
          command: `ip -s -s link show ${device}; ethtool -S ${device}; bpftool net`,
          source: 'what no tracepoint sees, counters of devices do',
        },
        ...(to
          ? []
          : [
              {
                what: `trace the next machine after ${device} of ${from} at the same time, then explain both files together`,
                command: 'skbwhy record FILE',
                source: 'the confidence of this finding',
              },
            ]),
      ],
    };
  },
};

function claims(exchange: Case, loss: Loss): Claim[] {
  const { left, through, traced } = loss;
  const what = loss.answer
    ? `The answer to ${nameOf(exchange, loss.n)}`
    : capital(nameOf(exchange, loss.n));
  return [
    {
      claim: loss.answer ? 'answer-lost' : 'packet-lost',
      text: `${what} is last seen leaving after ${duration((left.time - exchange.startedAt) / 1e6)} (${place(left)}).`,
      evidence: evidenceOf(left),
    },
    {
      claim: 'others-got-through',
      text: traced
        ? `${loss.answer ? 'Another answer' : capital(nameOf(exchange, through.left.attempt))} leaves at the same place and arrives (${place(through.arrived)}).`
        : `${capital(nameOf(exchange, through.left.attempt))} leaves at the same place, and its answer comes back ${duration((through.arrived.time - through.left.time) / 1e6)} later.`,
      evidence: evidenceOf(through.left, through.arrived),
    },
  ];
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
