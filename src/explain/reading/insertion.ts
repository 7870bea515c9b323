import { formatEndpoint } from '../../event/headers.js';
import type { Case } from '../diagnose.js';
import {
  IPS_CONFIRMED,
  IPS_SRC_NAT_DONE,
  type Conntrack,
  type Observation,
} from '../exchanges/observation.js';

/** enum ip_conntrack_status, include/uapi/linux/netfilter/nf_conntrack_common.h */
const IPS_DST_NAT_DONE = 1 << 8;

/** Its reply tuple alone is in the table, another entry of the same flow has the original one (5.7 on). */
export const IPS_NAT_CLASH = 1 << 12;

const NAT_DONE = IPS_SRC_NAT_DONE | IPS_DST_NAT_DONE;

/** The packets of an exchange that were dropped because their conntrack entry could not be inserted. */
export function failedInsertions(exchange: Case): Observation[] {
  return exchange.observations.filter((o) => !o.tunnel && isFailedInsertion(o));
}

/**
 * Was a packet dropped because its conntrack entry could not be inserted?
 * (__nf_conntrack_confirm, net/netfilter/nf_conntrack_core.c): the drop is nf_hook_slow's, NAT is
 * done in both directions, the entry is not in the table. A rule's drop comes before the last NAT
 * hook, or at another place (nft_do_chain), or bears no entry (table raw).
 */
export function isFailedInsertion(o: Observation): boolean {
  return (
    o.point === 'packet.drop' &&
    o.ct !== null &&
    (o.ct.status & (NAT_DONE | IPS_CONFIRMED)) === NAT_DONE &&
    o.world.symbol(o.location).startsWith('nf_hook_slow')
  );
}

/** When the packet that was dropped came into the namespace that dropped it, CLOCK_MONOTONIC ns; null: not seen. */
export function enteredAt(exchange: Case, drop: Observation): number | null {
  const first = exchange.observations.find(
    (o) => o.netns === drop.netns && o.attempt === drop.attempt,
  );
  if (!first || first.point === 'packet.drop') return null;
  // what a socket of the namespace sends begins there
  return first.point === 'device.receive' || first.sock !== 0n ? first.time : null;
}

/** The flow that a conntrack entry is for, as the client knows it. */
export const flowText = ({ original }: Pick<Conntrack, 'original'>): string =>
  `${formatEndpoint(original.source)} → ${formatEndpoint(original.destination)}`;

/** The same after translation. */
export const tupleText = ({ reply }: Pick<Conntrack, 'reply'>): string =>
  `${formatEndpoint(reply.destination)} → ${formatEndpoint(reply.source)}`;
