import { nameOf } from '../../explain/reading/attempts.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import { attemptsOf, dropText, evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim, Confidence } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { routesTo } from '../../explain/reading/routes.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { place } from '../../explain/unexplained.js';
import { duration } from '../../explain/wording.js';
import { remedies } from './remedies.js';
import { noticeOf, type Notice } from './notice.js';

const DF = 0x40;

/** Segments with DF that do not fit, and what became of the word to who sends them (RFC 1191, RFC 4821, RFC 8201). */
export const tunnelMtu: Diagnoser = {
  verdict: 'tunnel-mtu',
  kinds: ['tcp-transfer'],

  diagnose(exchange) {
    const all = exchange.observations.filter((o) => isTooBig(exchange, o));
    const last = all.at(-1);
    if (!last) return null;
    // A sender that was told in time sends smaller ones: what counts is what stayed too big.
    const drops = all.filter((o) => o.netns === last.netns && o.location === last.location);
    const first = drops[0]!;
    if (first === last) return null;
    const into = narrow(exchange, last);
    if (!last.tunnel && !into?.tunnel) return null;

    const { world } = last;
    const node = world.netnsName(last.netns);
    const { address: sender } = last.headers.flow.source(last.record);
    const notice = noticeOf(exchange, drops);
    const fits = notice.error?.icmpError?.mtu ?? into?.mtu ?? null;
    // the first may be many segments at once (GSO), a repeat is one
    const size = last.length;
    const what = last.tunnel ? 'tunnel packets' : 'segments';
    const where = last.tunnel
      ? `the path to ${last.headers.outer.destination(last.record).address}`
      : into!.name;
    const subject = subjectOf(exchange);
    return {
      verdict: 'tunnel-mtu',
      defect: notice.fate === 'received' ? 'told-in-vain' : 'sender-not-told',
      title:
        `${outcomeText(exchange, subject.service ?? subject.backend)}: ${what} of ${size} bytes do not fit into ${where}` +
        `${fits === null ? '' : ` (${fits})`}, ${notice.fate === 'received' ? `and ${sender} does not heed it` : `and ${sender} is not told`}`,
      summary:
        `${node} drops ${what} of ${size} bytes: ${fits === null ? 'fewer' : `${fits}`} fit into ${where}, and DF forbids to cut them up. ` +
        `${node} should tell ${sender}, which sends them, to send smaller ones: ${notice.text} ` +
        (notice.fate === 'received'
          ? 'Yet it goes on with the same size.'
          : 'So it repeats what cannot pass; what is short passes, which is why the connection could be opened.'),
      cause: `tunnel-mtu/${node}/${where}/${notice.fate}`,
      // the ICMP error says itself what was too big
      ...confidenceOf(notice, notice.error ? [] : exchange.reasonDoubts(last)),
      subject,
      attempts: attemptsOf(exchange, all),
      bypass: null,
      prediction: null,
      chain: chainOf(exchange, drops, { what, where, size, fits, notice }),
      ruledOut: [
        {
          verdict: 'policy-drop',
          text: `no rule dropped the ${last.tunnel ? 'tunnel packets' : 'segments'} themselves: ${exchange.reasonName(last)} at ${world.symbol(last.location)}`,
          evidence: evidenceOf(last),
        },
        {
          verdict: 'lost-on-the-wire',
          text: 'they died in sight',
          evidence: evidenceOf(last),
        },
        {
          verdict: 'slow-backend',
          text: 'what was sent did not come to the other end, which so had nothing to answer',
          evidence: evidenceOf(last),
        },
      ],
      remedies: remedies({ node, sender, fits, tunnelled: last.tunnel, device: into, notice }),
    };
  },
};

/** Freed because it is too long and bears DF: ip_forward, ip6_forward (PKT_TOO_BIG), ip_fragment (no reason of its own up to 6.18). */
function isTooBig(exchange: Case, o: Observation): boolean {
  if (o.point !== 'packet.drop' || o.headers.flow.l4 < 0) return false;
  if (exchange.reasonName(o) === 'PKT_TOO_BIG') return true;
  const { outer } = o.headers;
  return (
    /^ip6?_fragment/.test(o.world.symbol(o.location)) &&
    (outer.version === 6 || (o.record[outer.l3 + 6]! & DF) !== 0)
  );
}

/** The device into which the packet should have gone. */
function narrow(exchange: Case, drop: Observation) {
  const { address } = drop.headers.outer.destination(drop.record);
  const routes = routesTo(drop.world, drop.netns, address, drop.time) ?? [];
  return routes.length === 1 ? routes[0]!.device : null;
}

function confidenceOf(
  { fate }: Notice,
  doubts: readonly string[],
): { confidence: Confidence; loweredFor: string[] } {
  const loweredFor = [...doubts];
  if (fate === 'not-seen')
    loweredFor.push(
      'no ICMP error was seen: whether none was made, or it was not recorded, is not known',
    );
  if (fate === 'lost') loweredFor.push('where the ICMP error got lost was not seen');
  if (fate === 'received')
    loweredFor.push('why the sender does not heed the ICMP error is not known');
  return { confidence: loweredFor.length === 0 ? 'proved' : 'likely', loweredFor };
}

function chainOf(
  exchange: Case,
  drops: readonly Observation[],
  told: { what: string; where: string; size: number; fits: number | null; notice: Notice },
): Claim[] {
  const first = drops[0]!;
  const last = drops.at(-1)!;
  const { notice } = told;
  const repeats = exchange.observations.filter(
    (o) => o.point === 'tcp.retransmit' && o.time > first.time,
  );
  const chain: Claim[] = [
    {
      claim: 'too-big',
      text:
        `${first.world.netnsName(first.netns)} drops ${nameOf(exchange, first.attempt)}, ${first.length} bytes${first.length > told.size ? ' in full-sized pieces' : ''}: ${dropText(exchange, first)}.` +
        (told.fits === null ? '' : ` ${told.fits} bytes fit into ${told.where}.`),
      evidence: evidenceOf(first),
    },
    { claim: `icmp-${notice.fate}`, text: sentence(notice.text), evidence: notice.evidence },
    {
      claim: 'repeated-as-big',
      text: `It is sent again as big, and dropped in the same place ${drops.length === 2 ? 'again' : `${drops.length - 1} times more`}, the last time after ${duration((last.time - exchange.startedAt) / 1e6)}.`,
      evidence: evidenceOf(...repeats.slice(0, 8), ...drops.slice(1, 9)),
    },
  ];
  const through = repeats.at(-1);
  if (exchange.outcome === 'recovered' && through && through.time > last.time)
    chain.push({
      claim: 'got-through',
      text: `What was sent after ${duration((through.time - exchange.startedAt) / 1e6)} was not dropped, and not repeated: by then the sender had come to a smaller size by itself.`,
      evidence: evidenceOf(through),
    });
  if (exchange.outcome === 'failed') {
    const end = exchange.observations.findLast((o) => o.point === 'socket.state');
    if (end)
      chain.push({
        claim: 'given-up',
        text: `The connection was given up after ${duration((end.time - exchange.startedAt) / 1e6)} (${place(end)}).`,
        evidence: evidenceOf(end),
      });
  }
  return chain;
}

const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
