import { formatEndpoint, IPPROTO_TCP } from '../../event/headers.js';
import { isRequest } from '../../explain/reading/attempts.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import {
  attemptsOf,
  dropText,
  dropsOf,
  evidenceOf,
  isReset,
  outcomeText,
  packetNoun,
} from '../../explain/reading/fates.js';
import type { Claim, RuledOut } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { place } from '../../explain/unexplained.js';

/** How soon after its SYN a stack’s RST leaves, ns (tcp_v4_send_reset comes before the drop). */
const AT_ONCE = 5e6;

/**
 * A request came to the stack of its destination, and no socket was there to take it: NO_SOCKET,
 * tcp_v4_rcv, __udp4_lib_rcv and their IPv6 twins (reasons from 5.17 on). An answer that finds no
 * socket is another matter.
 */
export const noListener: Diagnoser = {
  verdict: 'no-listener',

  diagnose(exchange) {
    const drops = dropsOf(exchange, /^NO_SOCKET$/).filter((o) => isRequest(o) && !o.tunnel);
    const first = drops[0];
    if (!first || harmless(exchange)) return null;
    const subject = subjectOf(exchange);
    // it went where an old entry leads: nobody is to be expected there
    const now = subject.service === null ? null : exchange.translation(subject.service);
    if (now && now.backend !== subject.backend) return null;

    const { world, headers, record } = first;
    const tcp = headers.flow.protocol === IPPROTO_TCP;
    const node = world.netnsName(first.netns);
    const noun = packetNoun(exchange, first);
    const at = formatEndpoint(headers.flow.destination(record));
    const reset = exchange.observations.find(
      (o) =>
        isReset(o) &&
        o.netns === first.netns &&
        o.point === 'device.transmit' &&
        Math.abs(o.time - first.time) < AT_ONCE,
    );
    const back = exchange.observations.findLast(
      (o) => isReset(o) && o.netns === exchange.netns && o.point === 'device.receive',
    );
    const errors = exchange.observations.filter(isPortUnreachable);
    const unreachable = errors.find((o) => o.netns === first.netns);
    const told = errors.find(
      (o) => o.netns === exchange.netns && (o.point === 'device.receive' || o === unreachable),
    );
    const arrived = exchange.observations.findLast(
      (o) =>
        o.point === 'device.receive' &&
        o.netns === first.netns &&
        o.attempt === first.attempt &&
        isRequest(o) &&
        o.time <= first.time,
    );
    const loweredFor = exchange.reasonDoubts(first);
    const chain: Claim[] = [];
    if (arrived)
      chain.push({
        claim: 'arrived',
        text: `The ${noun} reaches ${place(arrived)}, for ${at}.`,
        evidence: evidenceOf(arrived),
      });
    chain.push({
      claim: 'no-socket',
      text: `The stack of ${node} finds no socket for ${tcp ? 'TCP' : 'UDP'} ${at} and drops it: ${dropText(exchange, first)}.`,
      evidence: evidenceOf(first),
    });
    if (reset)
      chain.push({
        claim: 'reset-by-the-stack',
        text: `The same stack answers with a RST${back ? ', which comes back to the client' : ''}.`,
        evidence: evidenceOf(reset, back),
      });
    else if (unreachable)
      chain.push({
        claim: 'port-unreachable',
        text: `It answers with ICMP port unreachable${told ? ', which comes back to the client; a resolver only learns of it when its socket is connected' : ''} (${place(told ?? unreachable)}).`,
        evidence: evidenceOf(unreachable, told),
      });
    const target =
      subject.service !== null && subject.backend !== null && subject.service !== subject.backend
        ? `${subject.service} (${at})`
        : at;
    return {
      verdict: 'no-listener',
      title: `${outcomeText(exchange, subject.service ?? subject.backend)}: nobody listens on ${tcp ? 'TCP' : 'UDP'} ${at} in ${node}`,
      summary:
        `The ${noun} came through to ${node}, but no process there listens on ${tcp ? 'TCP' : 'UDP'} port ${headers.flow.dport} for ${target}. ` +
        (reset
          ? 'Its stack refused it with a RST.'
          : tcp
            ? 'It was dropped.'
            : 'It was dropped, and ICMP says so to whom listens for it.'),
      cause: `no-listener/${node}/${tcp ? 'tcp' : 'udp'}/${at}`,
      confidence: loweredFor.length === 0 ? 'proved' : 'likely',
      loweredFor,
      subject,
      attempts: attemptsOf(exchange, drops),
      bypass: null,
      prediction: null,
      chain,
      ruledOut: ruledOut(exchange, first, reset),
      remedies: [
        {
          what: `see what listens in ${node}: the process may be down, not ready yet, on another port, or bound to 127.0.0.1 only`,
          command: `ip netns exec ${node} ss -${tcp ? 'lnt' : 'lnu'}p 'sport = :${headers.flow.dport}'`,
          source: 'ss(8)',
        },
        ...(subject.backend !== null && subject.backend !== subject.service
          ? [
              {
                what: `compare the Service’s target port with the port its pods listen on (${subject.service} leads to ${at})`,
                command: 'kubectl get service,endpointslice -A -o wide',
                source: 'Kubernetes: targetPort of a Service',
              },
            ]
          : []),
      ],
    };
  },
};

/** RFC 792, RFC 4443: what a stack without a socket answers to UDP (icmp_send in __udp4_lib_rcv, icmpv6_send in __udp6_lib_rcv). */
function isPortUnreachable({ icmpError, headers }: Observation): boolean {
  if (!icmpError) return false;
  const { type, code } = icmpError;
  return headers.flow.version === 4 ? type === 3 && code === 3 : type === 1 && code === 4;
}

/** A lookup that another server answered at once. */
function harmless(exchange: Case): boolean {
  return (
    exchange.outcome === 'recovered' &&
    exchange.endedAt - exchange.startedAt < exchange.slowMs * 1e6
  );
}

function ruledOut(exchange: Case, drop: Observation, reset: Observation | undefined): RuledOut[] {
  const out: RuledOut[] = [
    {
      verdict: 'policy-drop',
      text:
        'a rule that rejects frees the packet in netfilter (NETFILTER_DROP); this one came past every rule to the look-up of a socket' +
        (reset ? ', and the RST is that of the stack' : ''),
      evidence: evidenceOf(drop, reset),
    },
    {
      verdict: 'receive-buffer-full',
      text: 'a socket that is full is a socket: the reason would be another',
      evidence: evidenceOf(drop),
    },
  ];
  if (exchange.attached('packet.drop'))
    out.push({
      verdict: 'lost-on-the-wire',
      text: 'it arrived where it was dropped',
      evidence: evidenceOf(drop),
    });
  return out;
}
