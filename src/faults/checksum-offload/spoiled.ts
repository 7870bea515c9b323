import { isAnswer, isRequest } from '../../explain/reading/attempts.js';
import {
  CHECKSUM_UNNECESSARY,
  isBad,
  readingsOf,
  refusedAsInvalid,
  type Reading,
} from '../../explain/reading/checksums.js';
import type { Case } from '../../explain/diagnose.js';
import { sameChecksum } from '../../event/checksum.js';
import { AT } from '../../event/cursor.js';
import { IPPROTO_UDP } from '../../event/headers.js';
import { isReset, packetNoun } from '../../explain/reading/fates.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import type { Known } from '../../explain/world.js';

/** A packet whose checksum went wrong between two places. */
export interface Spoiled {
  /** attempt, from 1 */
  n: number;
  /** `SYN`, `answer` … */
  noun: string;
  /** where it was last right, left to the device, or not known; null: nothing before was traced */
  before: Reading | null;
  /** where it is first wrong */
  after: Reading;
  /** what freed it; null: not seen */
  drop: Observation | null;
  /**
   * who found it wrong: the transport protocol of the receiver (by its drop, or by its counter where
   * the drop cannot be seen), or conntrack, so that a rule dropped it as INVALID; null: nobody was seen to
   */
  refusedBy: 'protocol' | 'counter' | 'conntrack' | null;
  /** every place at which it was seen, with the checksum in question */
  readings: Reading[];
}

/** Of its checksum: TCP_CSUM, UDP_CSUM (enum skb_drop_reason, 5.17 on). */
const REFUSED = /^(TCP|UDP)_CSUM$/;
/** Reasons with a cause of their own, whatever the checksum. */
const OTHER_CAUSE = /NETFILTER|RPFILTER|NO_SOCKET|NEIGH|SOCKET_|PROTO_MEM|XDP|TC_/;
/** CHECKSUM_BREAK of include/linux/skbuff.h with the shortest IP header, bytes. */
const VERIFIED_AT_ONCE = 76 + 20;
/** A repeat proves that the packet before it was waited for in vain, ns. */
const WAITED = 100e6;

/** The packets of an exchange that something else than NAT spoiled, and that it missed. */
export function spoiledPackets(exchange: Case): Spoiled[] {
  const found = journeysOf(exchange).flatMap((journey) => {
    const spoiled = spoiledOn(exchange, journey);
    return spoiled ? [spoiled] : [];
  });
  return found.sort((a, b) => a.after.at.time - b.after.at.time);
}

/** What was seen of each packet, in the order of time: a packet passes a place once. */
function journeysOf(exchange: Case): Observation[][] {
  const journeys: Observation[][] = [];
  const current = new Map<string, { seen: Observation[]; places: Set<string> }>();
  for (const o of exchange.observations) {
    if (o.headers.flow.l4 < 0 || !(isRequest(o) || isAnswer(o) || isReset(o))) continue;
    // answers are told apart by time alone
    const which = isRequest(o) ? o.attempt : (exchange.attempts[o.attempt - 1]?.message ?? 0);
    const key = `${packetNoun(exchange, o)} ${which}`;
    const place = [o.netns, o.ifindex, o.point, o.hook, o.tunnel].join(' ');
    let journey = current.get(key);
    if (!journey || journey.places.has(place)) {
      current.set(key, (journey = { seen: [], places: new Set() }));
      journeys.push(journey.seen);
    }
    journey.seen.push(o);
    journey.places.add(place);
  }
  return journeys;
}

function spoiledOn(exchange: Case, journey: readonly Observation[]): Spoiled | null {
  const drop = endOf(exchange, journey);
  const refusedBy = drop ? refuserOf(exchange, drop) : refusedUnseen(exchange, journey);
  if (drop && refusedBy === null && OTHER_CAUSE.test(exchange.reasonName(drop))) return null;
  const seen = journey.filter((o) => o.point !== 'packet.drop' || o === drop);
  const readings = seen.flatMap(readingsOf);
  const bad = readings.find(isBad);
  const found =
    bad ?? (refusedBy === null ? undefined : arrivalOf(drop ?? journey.at(-1)!, readings));
  if (!found) return null;
  if (refusedBy === null && isTrusted(journey)) return null;
  if (!drop && !isMissed(exchange, journey)) return null;
  const same = readings.filter(({ outer }) => outer === found.outer);
  const [before, after] = bad ? [same[same.indexOf(bad) - 1] ?? null, bad] : changeOf(same, found);
  if (before && isUndone(before, after)) return null;
  if (!isUntranslated(before, after)) return null;
  const noun = packetNoun(exchange, after.at);
  return { n: after.at.attempt, noun, before, after, drop, refusedBy, readings: same };
}

/** Where it ended; a drop after which it was seen again was that of a copy. */
function endOf(exchange: Case, journey: readonly Observation[]): Observation | null {
  const drops = journey.filter((o) => o.point === 'packet.drop');
  const refused = drops.find((o) => REFUSED.test(exchange.reasonName(o)));
  return refused ?? drops.find((o) => o === journey.at(-1)) ?? null;
}

function refuserOf(exchange: Case, drop: Observation): Spoiled['refusedBy'] {
  const reason = exchange.reasonName(drop);
  if (REFUSED.test(reason)) return 'protocol';
  return reason === 'NETFILTER_DROP' && refusedAsInvalid(drop) ? 'conntrack' : null;
}

/**
 * A longer datagram is verified when its process takes it, and its drop bears no namespace (udp_recvmsg,
 * net/ipv4/udp.c, 6.18): it is recorded only where all are traced. The counter tells.
 */
function refusedUnseen(exchange: Case, journey: readonly Observation[]): Spoiled['refusedBy'] {
  const last = journey.at(-1)!;
  const { flow } = last.headers;
  const arrived =
    last.point === 'device.receive' &&
    !last.tunnel &&
    flow.protocol === IPPROTO_UDP &&
    last.world.owns(last.netns, flow.destination(last.record).address);
  if (!arrived || last.record.readUInt32LE(AT.length) <= VERIFIED_AT_ONCE) return null;
  if (!isMissed(exchange, journey)) return null;
  const counted = exchange.observations.some(
    (o) => o.point === 'packet.drop' && REFUSED.test(exchange.reasonName(o)),
  );
  if (counted) return null;
  return (counterRise(last)?.fact ?? 0) > 0 ? 'counter' : null;
}

/** How many datagrams with a wrong checksum a namespace counted about the time of an event. */
export function counterRise({ world, netns, headers, time }: Observation): Known<number> | null {
  return world.rise(
    netns,
    `${headers.flow.version === 6 ? 'Udp6' : 'Udp'}.InCsumErrors`,
    time,
    time,
  );
}

/** Was it last seen where a device had said that its checksum is right? */
function isTrusted(journey: readonly Observation[]): boolean {
  const last = journey.findLast((o) => o.point !== 'packet.drop');
  return last?.point !== 'device.transmit' && last?.ipSummed === CHECKSUM_UNNECESSARY;
}

/**
 * Where a packet came in whose checksum the kernel there found wrong, although what it covers is not
 * recorded whole.
 */
function arrivalOf(drop: Observation, readings: readonly Reading[]): Reading | undefined {
  // a datagram that waited for its process bears no namespace when it is dropped
  const netns = drop.netns || readings.findLast(({ at }) => at !== drop)?.at.netns;
  return readings.find(({ at, state }) => at.netns === netns && state === 'unknown');
}

/**
 * Between which places a checksum can have gone wrong that only the receiver found wrong: where it
 * took on the value that it has there, and where it always had that, anywhere on the way.
 */
function changeOf(readings: readonly Reading[], arrival: Reading): [Reading | null, Reading] {
  let first = readings.indexOf(arrival);
  const isLike = ({ state, carried }: Reading): boolean =>
    state === 'unknown' && sameChecksum(carried, arrival.carried);
  while (first > 0 && isLike(readings[first - 1]!)) first--;
  if (first > 0) return [readings[first - 1]!, readings[first]!];
  return [readings[0] === arrival ? null : readings[0]!, arrival];
}

/**
 * Where its stack drops what has arrived, no device stands between, and what a checksum was left with
 * (CHECKSUM_PARTIAL) is forgotten: udp_csum_pull_header takes its header off (skb_postpull_rcsum,
 * include/linux/skbuff.h).
 */
const isUndone = (before: Reading, after: Reading): boolean =>
  after.at.point === 'packet.drop' &&
  before.at.point === 'device.receive' &&
  before.at.netns === after.at.netns &&
  before.state === 'left';

/** Do both places show the same addresses and ports? A NAT between is another matter. */
function isUntranslated(before: Reading | null, after: Reading): boolean {
  if (before) return before.layer.key(before.at.record) === after.layer.key(after.at.record);
  // encapsulated where it is first seen wrong: not by a device. Come from elsewhere: never finished,
  // which no NAT does, else a source NAT out of sight may have spoiled it
  return !after.outer || (after.at.point === 'device.receive' && after.state === 'unfinished');
}

/** Was the packet sent again, or given up, with no answer to it? */
function isMissed(exchange: Case, journey: readonly Observation[]): boolean {
  const { attempts, observations, outcome, endedAt } = exchange;
  const first = journey[0]!;
  const last = journey.at(-1)!;
  const message = attempts[first.attempt - 1]?.message;
  const again = attempts.find(
    (a) => a.message === message && a.startedAt > first.time && a.startedAt > last.time + WAITED,
  );
  const until = again?.startedAt ?? (outcome === 'failed' ? endedAt || Infinity : 0);
  if (until <= last.time + WAITED) return false;
  return (
    !isRequest(first) ||
    !observations.some((o) => isAnswer(o) && o.time > last.time && o.time < until)
  );
}
