import { IPPROTO_UDP, type Headers, type Layer } from './headers.js';

/** One's complement sum of two 16-bit values. */
function add(a: number, b: number): number {
  const sum = a + b;
  return (sum & 0xffff) + (sum >>> 16);
}

function sumBytes(bytes: Buffer, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i + 1 < to; i += 2) sum += bytes.readUInt16BE(i);
  if ((to - from) & 1) sum += bytes[to - 1]! << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

/** Bytes of the transport header and what follows it, as the IP header says. */
function transportLength(layer: Layer, bytes: Buffer): number {
  return layer.version === 4
    ? bytes.readUInt16BE(layer.l3 + 2) - (layer.l4 - layer.l3)
    : bytes.readUInt16BE(layer.l3 + 4) - (layer.l4 - layer.l3 - 40);
}

function pseudoHeader(layer: Layer, bytes: Buffer, length: number): number {
  const from = layer.version === 4 ? layer.l3 + 12 : layer.l3 + 8;
  const addresses = sumBytes(bytes, from, from + (layer.version === 4 ? 8 : 32));
  return add(add(addresses, layer.protocol), add(length >>> 16, length & 0xffff));
}

/**
 * The outer UDP checksum that a receiver expects of a tunnel packet, computed from its headers
 * alone, as the kernel's local checksum offload does (lco_csum, include/linux/skbuff.h, 4.6 on):
 * whatever the payload, the inner transport segment together with its pseudo header sums to
 * 0xffff once its own checksum is right, so it contributes the complement of the pseudo header.
 *
 * @returns null when the bytes do not hold the headers up to the inner transport header, or the
 *   inner packet's transport has no checksum
 */
export function expectedOuterChecksum(headers: Headers, bytes: Buffer): number | null {
  const { outer, inner, tunnel } = headers;
  if (tunnel < 0 || inner.l4 < 0 || outer.protocol !== IPPROTO_UDP) return null;
  if (inner.protocol === IPPROTO_UDP && inner.check(bytes) === 0) return null;
  const udpLength = bytes.readUInt16BE(outer.l4 + 4);
  let sum = pseudoHeader(outer, bytes, udpLength);
  sum = add(sum, sumBytes(bytes, outer.l4, outer.l4 + 6));
  sum = add(sum, sumBytes(bytes, outer.l4 + 8, inner.l4));
  const innerPseudo = pseudoHeader(inner, bytes, transportLength(inner, bytes));
  sum = add(sum, ~innerPseudo & 0xffff);
  const check = ~sum & 0xffff;
  return check === 0 ? 0xffff : check;
}

/**
 * What stands in a transport header's checksum until it is finished: the sum of the pseudo header
 * (tcp_v4_send_check, udp_set_csum and their IPv6 twins; struct sk_buff's CHECKSUM_PARTIAL).
 */
export function unfinishedChecksum(layer: Layer, bytes: Buffer): number {
  return pseudoHeader(layer, bytes, transportLength(layer, bytes));
}

/**
 * The transport checksum that a receiver expects.
 * @param end where the bytes end
 * @returns null when they do not hold all that the checksum covers, or the IP header has options
 */
export function expectedChecksum(layer: Layer, bytes: Buffer, end: number): number | null {
  // with options or extension headers the pseudo header may have another destination (source routes)
  if (layer.l4 !== layer.l3 + (layer.version === 4 ? 20 : 40)) return null;
  const length = transportLength(layer, bytes);
  if (layer.l4 + length > end || length < 8) return null;
  const field = layer.l4 + (layer.protocol === IPPROTO_UDP ? 6 : 16);
  const sum = add(
    pseudoHeader(layer, bytes, length),
    add(sumBytes(bytes, layer.l4, field), sumBytes(bytes, field + 2, layer.l4 + length)),
  );
  const check = ~sum & 0xffff;
  return check === 0 && layer.protocol === IPPROTO_UDP ? 0xffff : check;
}

/** 0 and 0xffff are one number in one's complement. */
export function sameChecksum(a: number, b: number): boolean {
  return a === b || (a % 0xffff === 0 && b % 0xffff === 0);
}

/**
 * RFC 1624, equation 3: the checksum after one 16-bit word changed.
 * HC' = ~(~HC + ~m + m').
 */
export function updateChecksum(check: number, oldWord: number, newWord: number): number {
  return ~add(add(~check & 0xffff, ~oldWord & 0xffff), newWord) & 0xffff;
}
