import { expectedOuterChecksum } from '../../event/checksum.js';
import type { Case } from '../../explain/diagnose.js';
import type { FindingAttempt } from '../../explain/finding.js';
import type { SnatPath } from '../../event/fact.js';
import {
  CHECKSUM_PARTIAL,
  type Conntrack,
  type Observation,
} from '../../explain/exchanges/observation.js';
import { isRequest } from '../../explain/reading/attempts.js';
import { isSnat, madeFor, translationOf, type Translation } from './translation.js';

/** How one SYN crossed, or failed to cross, the tunnel: the events that matter and what they show. */
export interface Crossing {
  n: number;
  startedAt: number;
  /** the inner packet handed to the tunnel device on the sending node */
  entry: Observation | null;
  /** NAT's work on the outer packet in POSTROUTING there */
  nat: Observation | null;
  /** the outer packet leaving the sending node */
  sent: Observation | null;
  /** the outer packet arriving at the receiving node */
  arrived: Observation | null;
  /** the inner packet coming out of the tunnel there */
  exit: Observation | null;
  /** what freed the packet before its time */
  drop: Observation | null;
  /** the outer packet as the wire carries it, from whichever side saw it */
  wire: Observation | null;
  outerCt: Conntrack | null;
  /** the outer entry was made for this packet, as far as is known */
  newEntry: boolean;
  snat: boolean;
  /** null: no SNAT, or none that was seen */
  translation: Translation | null;
  expectedPort: number | null;
  wirePort: number | null;
  checksum: { before: number | null; after: number; expected: number | null } | null;
  /** the wire carries a checksum that the receiver must refuse */
  badChecksum: boolean;
  fate: FindingAttempt['fate'];
}

/**
 * The crossings of an exchange's attempts, in order.
 *
 * The sending node is where the inner packet entered a tunnel device; the receiving one is any
 * other namespace that saw the outer packet.
 */
export function crossings(exchange: Case): Crossing[] {
  const syns = exchange.observations.filter(isRequest);
  const sender = syns.find((o) => o.point === 'tunnel.transmit')?.netns ?? null;
  const answered = exchange.outcome === 'recovered';
  const receiverTraced = syns.some((o) => o.tunnel && o.netns !== 0 && o.netns !== sender);
  const packets = exchange.attempts.map(({ startedAt }, i) => {
    const mine = syns.filter((o) => o.attempt === i + 1);
    const outer = mine.filter((o) => o.tunnel && o.headers.tunnel >= 0);
    const here = outer.filter((o) => sender !== null && o.netns === sender);
    const there = outer.filter((o) => sender === null || o.netns !== sender);
    const entry = mine.find((o) => o.point === 'tunnel.transmit') ?? null;
    const nat =
      here.filter((o) => o.point === 'nat.setup' || o.point === 'nat.rewrite').at(-1) ?? null;
    const sent = here.filter((o) => o.point === 'device.transmit').at(-1) ?? null;
    const ct = sent?.ct ?? nat?.ct ?? null;
    return { entry, nat, sent, ct, startedAt, mine, there };
  });
  const unmarked = packets.filter(({ entry, ct }) => entry?.mark === 0 && ct !== null);
  const translated = unmarked.filter(({ ct }) => isSnat(ct));
  const besides = {
    spared: isSpared(
      unmarked.map((packet) => ({
        entry: packet.entry,
        newEntry: madeFor(exchange, packet) !== false,
        snat: isSnat(packet.ct),
      })),
    ),
    repeated: new Set(translated.map(({ ct }) => ct!.originalKey)).size > 1,
  };
  const seenEntries = new Set<string>();
  return packets.map((packet, i) => {
    const { entry, nat, sent, ct, startedAt, mine, there } = packet;
    const arrived = there.find((o) => o.point === 'device.receive') ?? null;
    const exit = mine.find((o) => o.point === 'tunnel.receive') ?? null;
    const drops = mine.filter((o) => o.point === 'packet.drop');
    const drop = drops.find((o) => o.tunnel) ?? drops.at(-1) ?? null;
    const wire = sent ?? arrived ?? (drop?.tunnel ? drop : null);

    const own = ct !== null && seenEntries.has(identity(ct));
    if (ct) seenEntries.add(identity(ct));
    const made = own ? false : madeFor(exchange, packet);
    const translation: Translation | null =
      own && isSnat(ct) ? { how: 'own-entry' } : translationOf(exchange, packet, made, besides);
    const checksum = wire ? checksumOf(wire, nat) : null;
    const badChecksum =
      checksum !== null &&
      checksum.after !== 0 &&
      checksum.expected !== null &&
      checksum.after !== checksum.expected;
    const last = i === exchange.attempts.length - 1;
    const fate: Crossing['fate'] = exit
      ? 'delivered'
      : drop
        ? 'dropped'
        : badChecksum && !receiverTraced
          ? 'drop-expected'
          : answered && last
            ? 'delivered'
            : 'unknown';
    return {
      n: i + 1,
      startedAt,
      entry,
      nat,
      sent,
      arrived,
      exit,
      drop,
      wire,
      outerCt: ct,
      newEntry: ct !== null && made !== false && translation?.how !== 'unknown',
      snat: isSnat(ct),
      translation,
      expectedPort: ct?.original.source.port ?? null,
      wirePort: wire ? wire.headers.outer.sport : null,
      checksum,
      badChecksum,
      fate,
    };
  });
}

/** Was an unmarked packet seen to pass without being translated, though its entry may be new? */
export const isSpared = (
  crossings: readonly Pick<Crossing, 'entry' | 'newEntry' | 'snat'>[],
): boolean => crossings.some((c) => c.entry?.mark === 0 && c.newEntry && !c.snat);

/**
 * Does the second SNAT meet every packet, marked or not? Either its rule says so, or an unmarked
 * packet was translated that nothing but a rule explains; unless another one was spared.
 */
export function needsNoMark(path: SnatPath | null, crossings: readonly Crossing[]): boolean {
  return (
    !isSpared(crossings) &&
    (path?.mark === 0 ||
      crossings.some((c) => c.translation?.how === 'rule' && c.entry?.mark === 0))
  );
}

/** A conntrack entry's identity over time: addresses are reused at once, tuples after a while. */
export function identity(ct: Conntrack): string {
  return `${ct.address}/${ct.originalKey}/${ct.replyKey}`;
}

function checksumOf(wire: Observation, nat: Observation | null): Crossing['checksum'] {
  const { headers, record } = wire;
  const after = headers.outer.check(record);
  const packetStart = headers.outer.l3;
  // The device will still write this one: what stands there is only the pseudo header's sum.
  const unfinished =
    wire.ipSummed === CHECKSUM_PARTIAL && wire.csumStart === headers.outer.l4 - packetStart;
  return {
    before: nat ? nat.beforeCheck : null,
    after,
    expected: unfinished ? null : after === 0 ? 0 : expectedOuterChecksum(headers, record),
  };
}
