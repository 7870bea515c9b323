import { formatEndpoint } from '../../event/headers.js';
import type { Case } from '../../explain/diagnose.js';
import {
  attemptsOf,
  dropText,
  dropsOf,
  evidenceOf,
  outcomeText,
} from '../../explain/reading/fates.js';
import type { Claim, Diagnosis, RuledOut } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { count, duration } from '../../explain/wording.js';
import { riseAround } from '../../explain/reading/counter-rise.js';
import { listenQueueRemedies } from './remedies.js';
import { socketClaim, socketOf } from './socket.js';

/**
 * The client's ACK makes a connection of a half-open one, for which the accept queue has no room
 * (tcp_v4_syn_recv_sock, net/ipv4/tcp_ipv4.c, and its IPv6 twin): the ACK is dropped, and so is the
 * data after it, until there is room. The client has its SYN-ACK and takes the connection for made.
 * With a half-open connection the reason is TCP_LISTEN_OVERFLOW (tcp_check_req; 6.0 on); with a SYN
 * cookie it is NO_SOCKET in cookie_v4_check, which other troubles may have, too.
 */
export function lastAckDropped(exchange: Case): Diagnosis | null {
  if (exchange.kind !== 'tcp-transfer') return null;
  const named = dropsOf(exchange, /^TCP_LISTEN_OVERFLOW$/);
  const drops = named.length > 0 ? named : cookieDrops(exchange);
  const first = drops[0];
  if (!first) return null;
  const { world, netns, headers, record } = first;
  const rise = riseAround(world, netns, 'TcpExt.ListenOverflows', first.time, drops.at(-1)!.time);
  const counted = rise !== null && rise.rise > 0;
  if (named.length === 0 && !counted) return null;

  const node = world.netnsName(netns);
  const at = formatEndpoint(headers.flow.destination(record));
  const repeats = exchange.observations.filter((o) => o.point === 'tcp.retransmit');
  const subject = subjectOf(exchange);
  const chain: Claim[] = [
    {
      claim: 'last-ack-dropped',
      text: `${count(drops.length, 'segment')} from ${formatEndpoint(headers.flow.source(record))} for ${at} in ${node} ${drops.length === 1 ? 'is' : 'are'} seen dropped where a handshake ends: ${dropText(exchange, first)}.`,
      evidence: evidenceOf(...drops.slice(0, MAX_EVIDENCE)),
    },
  ];
  if (rise && counted)
    chain.push({
      claim: 'accept-queue-full',
      text: `TcpExtListenOverflows of ${node} rose by ${rise.rise} meanwhile: handshakes that ended at a full accept queue, and SYNs that came to one.`,
      evidence: rise.evidence,
    });
  const seen = socketOf(world, netns, 'tcp', headers.flow.destination(record), first.time);
  if (seen && seen !== 'another') chain.push(socketClaim(world, seen));
  if (repeats.length > 0)
    chain.push({
      claim: 'repeated',
      text: `The client takes the connection for made and sends its data again, ${count(repeats.length, 'time')}, last after ${duration((repeats.at(-1)!.time - exchange.startedAt) / 1e6)}.`,
      evidence: evidenceOf(...repeats.slice(0, MAX_EVIDENCE)),
    });
  return {
    verdict: 'receive-buffer-full',
    defect: 'accept-queue',
    title: `${outcomeText(exchange, at)}: the accept queue of TCP ${at} in ${node} was full when its handshake ended`,
    summary:
      `The client has its SYN-ACK and takes the connection for made, but in ${node} the last ACK of the handshake found the accept queue of the socket that listens on ${at} full and was dropped, and so is the data after it: the process behind it does not come to accept() in time. ` +
      'There is no connection at the server until a repeat of the data, or of the SYN-ACK, finds room.',
    cause: `receive-buffer-full/${node}/tcp/${at}`,
    confidence: named.length > 0 ? 'proved' : 'likely',
    loweredFor:
      named.length > 0
        ? []
        : [
            `NO_SOCKET at the end of a handshake with a SYN cookie may have other reasons (no memory, no route); TcpExtListenOverflows counts for all listening sockets of ${node} together`,
          ],
    subject,
    attempts: attemptsOf(exchange, drops),
    bypass: null,
    prediction: null,
    chain,
    ruledOut: ruledOut(first),
    remedies: listenQueueRemedies(node, headers.flow.dport, 'accept-queue'),
  };
}

/** A stall has any number of drops. */
const MAX_EVIDENCE = 8;

function cookieDrops(exchange: Case): Observation[] {
  return dropsOf(exchange, /^NO_SOCKET$/).filter((o) =>
    /^cookie_v[46]_check/.test(o.world.symbol(o.location)),
  );
}

function ruledOut(drop: Observation): RuledOut[] {
  const evidence = evidenceOf(drop);
  return [
    {
      verdict: 'no-listener',
      text: 'a socket listens there: it is the one whose queue is full',
      evidence,
    },
    {
      verdict: 'tunnel-mtu',
      text: 'the segment arrived, and was dropped for want of a place in a queue, whatever its size',
      evidence,
    },
    {
      verdict: 'policy-drop',
      text: 'no rule dropped it: it had come past all of them to the listening socket',
      evidence,
    },
    {
      verdict: 'slow-backend',
      text: 'the server’s process has not even been told of this connection',
      evidence,
    },
  ];
}
