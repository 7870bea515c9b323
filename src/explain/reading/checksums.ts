import {
  expectedChecksum,
  expectedOuterChecksum,
  sameChecksum,
  unfinishedChecksum,
} from '../../event/checksum.js';
import { AT } from '../../event/cursor.js';
import { IPPROTO_TCP, IPPROTO_UDP, type Layer } from '../../event/headers.js';
import type { DroppingRule } from '../../event/fact.js';
import { CHECKSUM_PARTIAL, type Observation } from '../exchanges/observation.js';
import { meets } from './rule-match.js';

/** The device says that it is right, and nobody verifies it again (include/linux/skbuff.h). */
export const CHECKSUM_UNNECESSARY = 1;

/** The transport checksum of a packet at one place. */
export interface Reading {
  at: Observation;
  layer: Layer;
  /** of the tunnel packet's own UDP header, rather than of what an application would recognise */
  outer: boolean;
  carried: number;
  /** what a receiver wants; null: not all that it covers is recorded (payload never is) */
  expected: number | null;
  /**
   * `left`: the kernel has left it to the device to finish (CHECKSUM_PARTIAL), what it carries is no
   * checksum yet; `unfinished`: it carries the same, and nothing says so any more; `unknown`: what it
   * covers is not recorded whole
   */
  state: 'left' | 'right' | 'unfinished' | 'wrong' | 'absent' | 'unknown';
}

/** The checksums that a packet bears at a place: its own, then that of a tunnel packet around it. */
export function readingsOf(o: Observation): Reading[] {
  const { headers } = o;
  const layers = headers.tunnel >= 0 ? [headers.inner, headers.outer] : [headers.outer];
  return layers.flatMap((layer) => {
    const reading = layer.l4 < 0 ? null : readingOf(o, layer, layers[1] === layer);
    return reading ? [reading] : [];
  });
}

function readingOf(o: Observation, layer: Layer, outer: boolean): Reading | null {
  const { headers, record } = o;
  if (layer.protocol !== IPPROTO_TCP && layer.protocol !== IPPROTO_UDP) return null;
  const end = AT.packet + record[AT.packet_length]!;
  const carried = layer.check(record);
  // of the outer one this supposes a right inner one, as the kernel did when it computed it
  const expected = outer
    ? expectedOuterChecksum(headers, record)
    : expectedChecksum(layer, record, end);
  const reading = { at: o, layer, outer, carried, expected };
  if (layer.protocol === IPPROTO_UDP && carried === 0) return { ...reading, state: 'absent' };
  if (o.ipSummed === CHECKSUM_PARTIAL && o.csumStart === layer.l4 - headers.outer.l3)
    return { ...reading, state: 'left' };
  if (expected !== null && sameChecksum(carried, expected)) return { ...reading, state: 'right' };
  if (sameChecksum(carried, unfinishedChecksum(layer, record)))
    return { ...reading, state: 'unfinished' };
  return { ...reading, state: expected === null ? 'unknown' : 'wrong' };
}

export function isBad({ state }: Reading): boolean {
  return state === 'unfinished' || state === 'wrong';
}

/** May it be taken where it has arrived? No checksum of it is known to be wrong, or the device vouches for it. */
export function isAcceptable(o: Observation): boolean {
  return o.ipSummed === CHECKSUM_UNNECESSARY || !readingsOf(o).some(isBad);
}

/** The two bytes of the transport header that differ, beside the checksum; null: none that is recorded. */
export function alteration(
  before: Reading,
  after: Reading,
): { at: number; was: number; is: number } | null {
  const check = before.layer.protocol === IPPROTO_TCP ? 16 : 6;
  const room = (reading: Reading): number =>
    AT.packet + reading.at.record[AT.packet_length]! - reading.layer.l4;
  const length = Math.min(room(before), room(after));
  for (let at = 0; at + 1 < length; at += 2) {
    const was = before.at.record.readUInt16BE(before.layer.l4 + at);
    const is = after.at.record.readUInt16BE(after.layer.l4 + at);
    if (at !== check && was !== is) return { at, was, is };
  }
  return null;
}

/**
 * The rule that may have dropped a packet only because its checksum is wrong: conntrack takes such a
 * packet for INVALID (nf_conntrack_checksum), gives it no entry, and the rule drops what is INVALID.
 */
export function refusedAsInvalid(drop: Observation): DroppingRule | null {
  if (drop.ct !== null || !readingsOf(drop).some(isBad)) return null;
  const rules = drop.world.rules(drop.netns, drop.time)?.fact.dropping;
  const invalid = rules?.find(
    (rule) =>
      rule.when.some((c) => c.match === 'ctstate' && !c.negated && c.states.includes('INVALID')) &&
      meets(rule, drop) !== 'no',
  );
  return invalid ?? null;
}
