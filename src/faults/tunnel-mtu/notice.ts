import type { Case } from '../../explain/diagnose.js';
import { dropText, evidenceOf } from '../../explain/reading/fates.js';
import type { Evidence } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { place } from '../../explain/unexplained.js';

/** How long before a packet is dropped as too big the error about it is made, ns. */
const AT_ONCE = 10e6;

/** What became of the ICMP error that should tell a sender to send smaller packets. */
export interface Notice {
  /** `misdirected`: it went to somebody else, `lost`: it left and did not arrive, `not-seen`: there was none */
  fate: 'dropped' | 'misdirected' | 'received' | 'lost' | 'not-seen';
  /** where it was made or first seen */
  error: Observation | null;
  /** a sentence, from its second word on */
  text: string;
  evidence: Evidence[];
}

/**
 * What became of the errors about these drops: icmp_send and icmpv6_send come just before the packet is
 * freed (ip_forward, ip6_forward, ip_fragment, 5.10 to 6.18).
 * @param drops at one place, of one sender
 */
export function noticeOf(exchange: Case, drops: readonly Observation[]): Notice {
  const drop = drops.at(-1)!;
  const errors = exchange.observations.filter(
    (o) =>
      (o.icmpError?.mtu ?? null) !== null &&
      o.headers.quoted.protocol === drop.headers.outer.protocol,
  );
  const { address: sender } = drop.headers.flow.source(drop.record);
  const made = errors.find((o) =>
    drops.some((each) => each.netns === o.netns && Math.abs(each.time - o.time) < AT_ONCE),
  );
  if (!made)
    return {
      fate: 'not-seen',
      error: null,
      text: 'no ICMP error was seen to be made, as where net.ipv4.icmp_ratelimit forbids it.',
      evidence: evidenceOf(drop),
    };
  const { address: to } = made.headers.flow.destination(made.record);
  const error = made;
  if (to !== sender)
    return {
      fate: 'misdirected',
      error,
      text: `the ICMP error goes to ${to} instead, which sent the tunnel packet${made.world.owns(made.netns, to) ? ', that is, to the node itself' : ''}, and no further (${place(made)}).`,
      evidence: evidenceOf(made),
    };
  const died = errors.find((o) => o.point === 'packet.drop');
  if (died)
    return {
      fate: 'dropped',
      error,
      text: `the ICMP error to ${to} is dropped in ${died.world.netnsName(died.netns)}: ${dropText(exchange, died)}.`,
      evidence: evidenceOf(died),
    };
  const received = errors.find((o) => o.point === 'device.receive' && o.world.owns(o.netns, to));
  if (received)
    return {
      fate: 'received',
      error,
      text: `the ICMP error came to ${to} (${place(received)}).`,
      evidence: evidenceOf(made, received),
    };
  return {
    fate: 'lost',
    error,
    text: `the ICMP error to ${to} left (${place(errors.at(-1)!)}), and was not seen to arrive.`,
    evidence: evidenceOf(made),
  };
}
