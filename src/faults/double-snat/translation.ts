import type { Case, Entry } from '../../explain/diagnose.js';
import {
  IPS_CONFIRMED,
  IPS_SRC_NAT,
  type Observation,
} from '../../explain/exchanges/observation.js';
import { knownPaths, meets } from './rules.js';

/**
 * How an outer packet came to leave from another port than its hash gave it.
 *
 * Ports are few: 28,231 that hashes give (udp_flow_src_port, include/net/udp_tunnel.h, with the
 * default net.ipv4.ip_local_port_range), 64,512 that a random source NAT does. So what one flow's
 * second SNAT left in the table meets flows that no rule would touch.
 */
export type Translation =
  /** a rule of nat/POSTROUTING translated it, the first packet of its entry */
  | { how: 'rule' }
  /** the entry that an earlier packet of the exchange left behind translated it again */
  | { how: 'own-entry' }
  /** the entry was there before the exchange: another flow's outer packets have the same tuple */
  | { how: 'shared-entry'; other: Entry | null }
  /**
   * No rule asked for it, but another flow's outer packets have been given the port that this one has
   * by nature: answers to both would be alike, so NAT gives it a free one (nf_nat_alloc_null_binding
   * and get_unique_tuple, net/netfilter/nf_nat_core.c, up to 6.18 at least). null: it was not seen
   */
  | { how: 'port-taken'; other: Entry | null };

/** An attempt's outer packet at the sending node. */
export interface OuterPacket {
  /** its inner packet, handed to the tunnel device */
  entry: Observation | null;
  /** NAT's work on it */
  nat: Observation | null;
  /** it leaves */
  sent: Observation | null;
  startedAt: number;
}

/** Was the outer entry made for this packet? `own`: an earlier packet of the exchange bore the same. */
export function madeFor(exchange: Case, { entry, nat, sent }: OuterPacket, own: boolean): boolean {
  if (own) return false;
  if (nat?.ct) return (nat.ct.status & IPS_CONFIRMED) === 0;
  if (!sent?.ct) return false;
  const seen = exchange.entryOf(sent);
  return seen === null || seen.firstSeen >= (entry ?? sent).time;
}

/** @returns null when it was not translated, as far as was seen */
export function translationOf(
  exchange: Case,
  packet: OuterPacket,
  { own, made }: { own: boolean; made: boolean },
): Translation | null {
  const last = packet.sent ?? packet.nat;
  if (!last?.ct || (last.ct.status & IPS_SRC_NAT) === 0) return null;
  if (own) return { how: 'own-entry' };
  const begun = (packet.entry ?? last).time;
  const seenBefore = (other: Entry | null | undefined) =>
    other && other.firstSeen < begun ? other : null;
  if (!made) return { how: 'shared-entry', other: seenBefore(exchange.entryOf(last)) };

  const { entry } = packet;
  const paths = entry && knownPaths(entry, packet.startedAt);
  if (!entry || (paths ? paths.list.some((path) => meets(path, entry.mark)) : entry.mark !== 0))
    return { how: 'rule' };
  const other = seenBefore(exchange.rivals(last, 'untranslated').at(-1));
  return other || paths?.list.length ? { how: 'port-taken', other } : { how: 'rule' };
}
