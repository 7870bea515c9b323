import type { Case, Entry } from '../../explain/diagnose.js';
import {
  IPS_CONFIRMED,
  IPS_SRC_NAT,
  type Conntrack,
  type Observation,
} from '../../explain/exchanges/observation.js';
import { meets, pathsOf } from './rules.js';

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
  /** its entry was there before the exchange: an outer packet of another one had the same tuple */
  | Borrowed<'shared-entry'>
  /**
   * The port that it has by nature was given to another flow's outer packets: answers to both would be
   * alike, so NAT gives it a free one, though no rule asks for that (nf_nat_alloc_null_binding and
   * get_unique_tuple, net/netfilter/nf_nat_core.c, up to 6.18 at least)
   */
  | Borrowed<'port-taken'>
  /** nothing that was recorded says why */
  | { how: 'unknown' };

/** `other`: the entry that brought it about; null: it was not seen. */
interface Borrowed<How> {
  how: How;
  other: Entry | null;
}

/** An attempt's outer packet at the sending node. */
export interface OuterPacket {
  /** its inner packet, handed to the tunnel device */
  entry: Observation | null;
  /** NAT's work on it */
  nat: Observation | null;
  /** it leaves */
  sent: Observation | null;
  ct: Conntrack | null;
  startedAt: number;
}

/** What the exchange's other packets say of the rules. */
export interface Besides {
  /** an unmarked one was not translated, though its entry may be new */
  spared: boolean;
  /** several unmarked ones with different tuples were translated */
  repeated: boolean;
}

/**
 * Was the outer entry made for this packet?
 * @returns null: not known
 */
export function madeFor(exchange: Case, packet: OuterPacket): boolean | null {
  const { nat, sent, ct } = packet;
  if (nat?.ct) return (nat.ct.status & IPS_CONFIRMED) === 0;
  if (!ct || seenBefore(exchange, packet)) return false;
  if (isSnat(ct) || !sent || exchange.lostEvents > 0) return null;
  // where NAT's hooks are seen, what they make for a tunnel's packet is told though it translates nothing
  const hooked = exchange.observations.some(
    (o) => NAT_POINTS.has(o.point) && o.netns === sent.netns && o.time < sent.time,
  );
  return hooked ? false : null;
}

const NAT_POINTS: ReadonlySet<string> = new Set(['mark.set', 'nat.setup', 'nat.rewrite']);

export const isSnat = (ct: Conntrack | null): boolean =>
  ct !== null && (ct.status & IPS_SRC_NAT) !== 0;

/**
 * @param made what madeFor says
 * @returns null when it was not translated, as far as was seen
 */
export function translationOf(
  exchange: Case,
  packet: OuterPacket,
  made: boolean | null,
  { spared, repeated }: Besides,
): Translation | null {
  const { ct, entry, startedAt } = packet;
  if (!isSnat(ct)) return null;
  const before = seenBefore(exchange, packet);
  if (before || made === false) return { how: 'shared-entry', other: before };

  const mark = entry?.mark ?? null;
  const paths = entry && pathsOf(entry, startedAt, spared);
  const complete = paths?.complete ?? false;
  if (paths?.list.some((path) => meets(path, mark ?? 0)) || (mark !== 0 && !complete))
    return { how: 'rule' };
  const begun = begunAt(packet);
  const other = exchange
    .rivals(bearer(packet), 'untranslated')
    .findLast(
      ({ firstSeen, lastSeen }) =>
        firstSeen < begun && begun - lastSeen < entryLife(bearer(packet), startedAt),
    );
  if (other || (made && complete)) return { how: 'port-taken', other: other ?? null };
  return !complete && !spared && (made || repeated) ? { how: 'rule' } : { how: 'unknown' };
}

/** How long an entry of a tunnel's packets, which are not answered in it, outlives its last one, ns. */
function entryLife({ world, netns }: Observation, at: number): number {
  const seconds = world.number(netns, 'net.netfilter.nf_conntrack_udp_timeout', at);
  return (seconds ?? UDP_TIMEOUT_S) * 1e9;
}

/** UDP_CT_UNREPLIED, net/netfilter/nf_conntrack_proto_udp.c */
const UDP_TIMEOUT_S = 30;

/** Was an entry seen before it came into the table? Else nobody knows how long it had been there. */
export const isSeenMade = ({ firstSeen, insertedAt }: Entry): boolean => insertedAt !== firstSeen;

/** The packet's entry, if another exchange's packets had shown it before. */
function seenBefore(exchange: Case, packet: OuterPacket): Entry | null {
  const seen = exchange.entryOf(bearer(packet));
  return seen && seen.firstSeen < begunAt(packet) ? seen : null;
}

const begunAt = ({ entry, startedAt }: OuterPacket): number => entry?.time ?? startedAt;

/** The event that shows the outer entry. */
const bearer = ({ sent, nat }: OuterPacket): Observation => (sent?.ct ? sent : nat)!;
