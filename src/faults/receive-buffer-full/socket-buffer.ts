import { formatEndpoint, IPPROTO_UDP } from '../../event/headers.js';
import { isAnswer, isRequest, nameOf } from '../../explain/reading/attempts.js';
import type { Case } from '../../explain/diagnose.js';
import {
  dropText,
  dropsOf,
  evidenceOf,
  outcomeText,
  packetNoun,
} from '../../explain/reading/fates.js';
import type { Claim, Diagnosis, RuledOut } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { attemptsUpToAnswer, repeatOf, repeatText } from '../../explain/reading/repeats.js';
import { resolverTimeline } from '../../explain/reading/resolver.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { place } from '../../explain/unexplained.js';
import { duration } from '../../explain/wording.js';
import { riseAround } from '../../explain/reading/counter-rise.js';
import { socketBufferRemedies } from './remedies.js';
import { socketClaim, socketOf } from './socket.js';

/**
 * Why a UDP socket takes no packet (__udp_enqueue_schedule_skb, net/ipv4/udp.c, reasons from 5.17 on):
 * SOCKET_RCVBUFF, its SO_RCVBUF is used up; PROTO_MEM, net.ipv4.udp_mem is, by all sockets together.
 */
const REASONS = /^(SOCKET_RCVBUFF|PROTO_MEM)$/;

/** A query, or the answer to one, found the buffer of its socket full. */
export function socketBufferFull(exchange: Case): Diagnosis | null {
  const drops = dropsOf(exchange, REASONS).filter(
    (o) => !o.tunnel && o.headers.flow.protocol === IPPROTO_UDP,
  );
  const first = drops[0];
  if (!first || harmless(exchange)) return null;
  const { world, netns } = first;
  const node = world.netnsName(netns);
  const answer = isAnswer(first);
  const { flow } = first.headers;
  const socket = flow.destination(first.record);
  const at = formatEndpoint(socket);
  const shared = exchange.reasonName(first) === 'PROTO_MEM';
  const noun = packetNoun(exchange, first);
  const what = answer
    ? `the answer to ${nameOf(exchange, first.attempt)}`
    : nameOf(exchange, first.attempt);
  const arrived = exchange.observations.findLast(
    (o) =>
      o.point === 'device.receive' &&
      o.netns === netns &&
      o.attempt === first.attempt &&
      isRequest(o) === isRequest(first) &&
      o.time <= first.time,
  );
  const chain: Claim[] = [];
  if (arrived)
    chain.push({
      claim: 'arrived',
      text: `${upper(what)} reaches ${place(arrived)}, for ${at}.`,
      evidence: evidenceOf(arrived),
    });
  chain.push({
    claim: shared ? 'udp-memory-used-up' : 'receive-buffer-full',
    text: shared
      ? `There is a socket for UDP ${at}, but all UDP sockets together hold as much memory as net.ipv4.udp_mem allows, and it is dropped: ${dropText(exchange, first)}.`
      : `The receive buffer of the socket for UDP ${at} is full, and it is dropped: ${dropText(exchange, first)}.`,
    evidence: evidenceOf(first),
  });
  const counter = `${flow.version === 6 ? 'Udp6' : 'Udp'}.${shared ? 'MemErrors' : 'RcvbufErrors'}`;
  const rise = riseAround(world, netns, counter, first.time, drops.at(-1)!.time);
  if (rise && rise.rise > 0)
    chain.push({
      claim: 'counted',
      text: `${counter} of ${node} rose by ${rise.rise} around then: that many datagrams met that fate there, for whatever socket.`,
      evidence: rise.evidence,
    });
  const seen = socketOf(world, netns, 'udp', socket, first.time);
  if (seen && seen !== 'another') chain.push(socketClaim(world, seen));
  const again = repeatOf(exchange, first.attempt);
  if (again)
    chain.push({
      claim: 'repeated',
      text: `${upper(nameOf(exchange, again.n))} is the same again after ${duration(again.afterMs)}${drops.some((o) => o.attempt === again.n) ? ', and is dropped too' : ''}.`,
      evidence: evidenceOf(exchange.observations.find((o) => o.attempt === again.n)),
    });
  const loweredFor = exchange.reasonDoubts(first);
  const subject = subjectOf(exchange);
  const timeline = resolverTimeline(exchange).text;
  const who = answer ? 'the resolver’s socket' : 'the server’s socket';
  return {
    verdict: 'receive-buffer-full',
    defect: 'socket-buffer',
    title: `${outcomeText(exchange, subject.service ?? subject.backend)}: ${shared ? `UDP memory was used up in ${node}` : `the receive buffer of UDP ${at} in ${node} was full`}`,
    summary:
      `${upper(what)} came through to ${who} (UDP ${at} in ${node}), and there was no room for it: ` +
      (shared
        ? 'all UDP sockets together had used up net.ipv4.udp_mem. '
        : `the process behind it reads more slowly than ${answer ? 'answers' : 'queries'} come, or not at all for a while. `) +
      repeatText(exchange, first.attempt) +
      (timeline ? ` ${timeline}` : ''),
    cause: `receive-buffer-full/${node}/udp/${answer ? socket.address : at}`,
    confidence: loweredFor.length === 0 ? 'proved' : 'likely',
    loweredFor,
    subject,
    attempts: attemptsUpToAnswer(exchange, drops),
    bypass: null,
    prediction: null,
    chain,
    ruledOut: ruledOut(exchange, first, noun),
    remedies: socketBufferRemedies(node, socket.port, shared),
  };
}

/** A lookup that another server, or another answer, ended soon enough. */
function harmless(exchange: Case): boolean {
  return (
    exchange.outcome === 'recovered' &&
    exchange.endedAt - exchange.startedAt < exchange.slowMs * 1e6
  );
}

function ruledOut(exchange: Case, drop: Observation, noun: string): RuledOut[] {
  const evidence = evidenceOf(drop);
  return [
    {
      verdict: 'no-listener',
      text: 'there was a socket: where there is none, the reason is NO_SOCKET',
      evidence,
    },
    {
      verdict: 'policy-drop',
      text: `no rule dropped it: the ${noun} had come past all of them to its socket`,
      evidence,
    },
    {
      verdict: 'lost-on-the-wire',
      text: 'it arrived where it was dropped',
      evidence,
    },
    ...(isRequest(drop)
      ? [
          {
            verdict: 'slow-backend',
            text: 'the server did not take its time over this query: it never read it',
            evidence,
          },
        ]
      : []),
  ];
}

function upper(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
