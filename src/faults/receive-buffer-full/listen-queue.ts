import { formatEndpoint } from '../../event/headers.js';
import { isAnswer, isRequest, nameOf } from '../../explain/reading/attempts.js';
import { blindSpots } from '../../explain/blindness.js';
import type { Case } from '../../explain/diagnose.js';
import { evidenceOf, isReset, outcomeText } from '../../explain/reading/fates.js';
import type { Claim, Diagnosis, Evidence, RuledOut } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { attemptsUpToAnswer } from '../../explain/reading/repeats.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { isForUs } from '../../explain/reading/trips.js';
import { place } from '../../explain/unexplained.js';
import { count, duration, shortDuration } from '../../explain/wording.js';
import { riseAround, type Rise } from '../../explain/reading/counter-rise.js';
import { listenQueueRemedies } from './remedies.js';
import { processOf, socketClaim, socketOf } from './socket.js';

/** The stack answers a SYN as soon as it has it: what came less than this ago is not unanswered yet, ns. */
const AT_ONCE = 50e6;

/** Which queue of a listening socket was full, and what counted it. */
interface Full {
  queue: 'accept-queue' | 'syn-queue';
  counter: string;
  rise: Rise;
  /** what makes a queue that long too long, for the summary */
  limit: string;
}

/**
 * SYNs came to the namespace whose address they are for, and nothing answered them: tcp_conn_request
 * (net/ipv4/tcp_input.c, up to 6.18) drops a SYN for want of room in a queue of the listening socket by
 * consume_skb, so that no drop is to be seen; it counts it, for the whole namespace.
 */
export function listenQueueFull(exchange: Case): Diagnosis | null {
  if (exchange.kind !== 'tcp-connect' || exchange.lostEvents > 0) return null;
  if (!['packet.drop', 'device.receive', 'device.transmit'].every((p) => exchange.attached(p)))
    return null;
  const ignored = ignoredSyns(exchange);
  const first = ignored[0];
  if (!first) return null;
  const full = fullQueue(ignored);
  if (!full) return null;

  const { world, netns, headers, record } = first;
  const node = world.netnsName(netns);
  const { flow } = headers;
  const listener = flow.destination(record);
  const at = formatEndpoint(listener);
  const seen = socketOf(world, netns, 'tcp', listener, ignored.at(-1)!.time);
  const subject = subjectOf(exchange);
  const room = exchange.observations.find(
    (o) => isAnswer(o) && o.netns === netns && o.time > ignored.at(-1)!.time,
  );
  const taken =
    room && exchange.observations.findLast((o) => isSyn(o, netns) && o.time <= room.time);
  const name = full.queue === 'accept-queue' ? 'accept queue' : 'SYN queue';
  const chain: Claim[] = [
    {
      claim: 'arrived',
      text: `${ignored.length === 1 ? `${nameOf(exchange, first.attempt)} reaches` : `${count(ignored.length, 'SYN')} (${ignored.map((o) => o.attempt).join(', ')}) reach`} ${place(first)}, whose address ${at} is.`,
      evidence: evidenceOf(...ignored),
    },
    {
      claim: 'ignored',
      text: `No SYN-ACK and no RST leaves ${node} for ${ignored.length === 1 ? 'it' : 'any of them'}, and no drop is seen: a listening socket without room drops a SYN like that.`,
      evidence: evidenceOf(...ignored),
    },
    {
      claim: `${full.queue}-full`,
      text: `${full.counter} of ${node} rose by ${full.rise.rise} meanwhile: SYNs that found the ${name} of a listening socket full.`,
      evidence: full.rise.evidence,
    },
  ];
  const process = seen && seen !== 'another' ? processOf(world, seen, true) : '';
  if (seen && seen !== 'another') chain.push(socketClaim(world, seen));
  if (room && taken)
    chain.push({
      claim: 'room-again',
      text: `${nameOf(exchange, taken.attempt)} is answered ${shortDuration((room.time - taken.time) / 1e6)} after it came: there was room again.`,
      evidence: evidenceOf(taken, room),
    });
  const waited =
    room && taken && exchange.outcome === 'recovered'
      ? `SYN ${taken.attempt}, after ${duration((taken.time - exchange.startedAt) / 1e6)}, found room again: the delay is that of the client’s own repeats. `
      : 'Nobody tells the client: it repeats its SYN until there is room, or it gives up. ';
  return {
    verdict: 'receive-buffer-full',
    defect: full.queue,
    title: `${outcomeText(exchange, subject.service ?? subject.backend)}: the ${name} of TCP ${at} in ${node} was full`,
    summary:
      `${ignored.length === 1 ? 'A SYN' : count(ignored.length, 'SYN')} came through to ${node} and ${ignored.length === 1 ? 'was' : 'were'} dropped silently there, because the ${name} of the socket that listens on ${at}${process ? `, that of ${process},` : ''} was full: ${full.limit}. ` +
      waited,
    cause: `receive-buffer-full/${node}/tcp/${at}`,
    ...sureness(first, full.counter, seen),
    subject,
    attempts: attemptsUpToAnswer(exchange, []).map((attempt) =>
      ignored.some((o) => o.attempt === attempt.n)
        ? { ...attempt, fate: 'drop-expected' as const }
        : attempt,
    ),
    bypass: null,
    prediction: null,
    chain,
    ruledOut: ruledOut(ignored, full.rise.evidence),
    remedies: listenQueueRemedies(node, flow.dport, full.queue),
  };
}

/** The counter is the namespace’s; what a socket of its own was seen to have dropped makes it no surer than that. */
function sureness(
  syn: Observation,
  counter: string,
  seen: ReturnType<typeof socketOf>,
): Pick<Diagnosis, 'confidence' | 'loweredFor'> {
  const { world, netns, time } = syn;
  const node = world.netnsName(netns);
  const loweredFor = [
    `${counter} counts for all listening sockets of ${node} together: that it was these SYNs follows from their silence, not from an event of their own`,
  ];
  if (seen && seen !== 'another') return { confidence: 'likely', loweredFor };
  const blind = blindSpots(world, netns, time).filter((spot) => spot.unseen);
  loweredFor.push(...blind.map(({ text }) => text));
  if (seen === 'another')
    loweredFor.push(
      `the sockets of ${node} were looked at after that, and only others had dropped anything, unless a rule leads to one of those`,
    );
  return { confidence: loweredFor.length > 1 ? 'possible' : 'likely', loweredFor };
}

/** SYNs that arrived in the namespace they are for and had neither an answer nor a drop, though there was time. */
function ignoredSyns(exchange: Case): Observation[] {
  const { observations } = exchange;
  const end = exchange.endedAt || observations.at(-1)?.time || 0;
  const arrived = observations.filter(
    (o) => o.point === 'device.receive' && isSyn(o, o.netns) && isForUs(o),
  );
  const netns = arrived[0]?.netns;
  return arrived.filter((syn, i) => {
    if (syn.netns !== netns) return false;
    const until = arrived[i + 1]?.time ?? end;
    if (until - syn.time < AT_ONCE) return false;
    return !observations.some(
      (o) =>
        (o.netns === netns &&
          o.time >= syn.time &&
          o.time < until &&
          (isAnswer(o) || isReset(o) || goesOn(o, syn))) ||
        (o.point === 'packet.drop' && o.attempt === syn.attempt && isRequest(o)),
    );
  });
}

/** An address of this namespace may be that of a Service: the SYN is then sent on to its backend. */
function goesOn(o: Observation, syn: Observation): boolean {
  return o.point === 'device.transmit' && o.attempt === syn.attempt && isRequest(o);
}

function isSyn(o: Observation, netns: number): boolean {
  return o.netns === netns && o.headers.flow.l4 >= 0 && isRequest(o) && o.point !== 'packet.drop';
}

/**
 * Which counter rose by as much as there are SYNs without an answer: TcpExtListenOverflows, the accept
 * queue (sk_acceptq_is_full); TcpExtTCPReqQFullDrop, the SYN queue without cookies (tcp_syn_flood_action);
 * TcpExtListenDrops counts those too, and alone the SYNs that find three quarters of
 * tcp_max_syn_backlog used, likewise without cookies.
 */
function fullQueue(ignored: readonly Observation[]): Full | null {
  const { world, netns, time: from } = ignored[0]!;
  const to = ignored.at(-1)!.time;
  const riseOf = (counter: string): Rise | null => riseAround(world, netns, counter, from, to);
  const [overflows, requests, drops] = [
    riseOf('TcpExt.ListenOverflows'),
    riseOf('TcpExt.TCPReqQFullDrop'),
    riseOf('TcpExt.ListenDrops'),
  ];
  if (!overflows || !requests || !drops) return null;
  // what came after the last sample is not counted yet
  const least = Math.max(ignored.filter((o) => o.time <= drops.time).length, 1);
  if (overflows.rise >= least)
    return {
      queue: 'accept-queue',
      counter: 'TcpExtListenOverflows',
      rise: overflows,
      limit: 'the process behind it does not come to accept() in time',
    };
  if (requests.rise >= least)
    return {
      queue: 'syn-queue',
      counter: 'TcpExtTCPReqQFullDrop',
      rise: requests,
      limit:
        'as many connections are half open as its backlog allows, and there are no SYN cookies (tcp_syncookies = 0)',
    };
  const other = drops.rise - overflows.rise - requests.rise;
  if (other < least || world.number(netns, 'net.ipv4.tcp_syncookies') !== 0) return null;
  const backlog = world.number(netns, 'net.ipv4.tcp_max_syn_backlog');
  return {
    queue: 'syn-queue',
    counter: 'TcpExtListenDrops',
    rise: { ...drops, rise: other },
    limit: `three quarters of tcp_max_syn_backlog${backlog === null ? '' : ` (${backlog})`} are used by half-open connections, and the rest is kept for known clients without SYN cookies (tcp_syncookies = 0)`,
  };
}

function ruledOut(ignored: readonly Observation[], counted: readonly Evidence[]): RuledOut[] {
  const arrived = evidenceOf(...ignored);
  return [
    {
      verdict: 'no-listener',
      text: 'where nobody listens, the stack answers with a RST and drops the SYN in sight (NO_SOCKET)',
      evidence: arrived,
    },
    {
      verdict: 'policy-drop',
      text: 'a rule that drops frees the packet in sight (packet.drop), and no listening socket counts it',
      evidence: [...arrived, ...counted],
    },
    {
      verdict: 'slow-backend',
      text: 'no SYN-ACK was late: these SYNs had none, and the one that had an answer had it at once',
      evidence: arrived,
    },
    {
      verdict: 'lost-on-the-wire',
      text: 'they arrived in the namespace they were for',
      evidence: arrived,
    },
  ];
}
