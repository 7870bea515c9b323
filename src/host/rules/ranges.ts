import ipaddr from 'ipaddr.js';

/** A set of whole numbers: disjoint ranges, both ends included, in rising order. */
export type RangeSet = readonly (readonly [bigint, bigint])[];

export const only = (value: number | bigint): RangeSet => [[BigInt(value), BigInt(value)]];
export const ANY_PORT: RangeSet = [[0n, 65535n]];
export const anyAddress = (family: 'ip' | 'ip6'): RangeSet => [
  [0n, (1n << (family === 'ip' ? 32n : 128n)) - 1n],
];

export function union(...sets: RangeSet[]): RangeSet {
  const sorted = sets.flat().sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
  const result: [bigint, bigint][] = [];
  for (const [low, high] of sorted) {
    const last = result.at(-1);
    if (last && low <= last[1] + 1n) last[1] = high > last[1] ? high : last[1];
    else result.push([low, high]);
  }
  return result;
}

export function intersect(a: RangeSet, b: RangeSet): RangeSet {
  const result: [bigint, bigint][] = [];
  for (const [lowA, highA] of a)
    for (const [lowB, highB] of b) {
      const low = lowA > lowB ? lowA : lowB;
      const high = highA < highB ? highA : highB;
      if (low <= high) result.push([low, high]);
    }
  return result;
}

/** What is in `a` and not in `b`. */
export function subtract(a: RangeSet, b: RangeSet): RangeSet {
  let rest = a;
  for (const [low, high] of b)
    rest = rest.flatMap(([l, h]): [bigint, bigint][] => {
      if (high < l || low > h) return [[l, h]];
      const parts: [bigint, bigint][] = [];
      if (l < low) parts.push([l, low - 1n]);
      if (h > high) parts.push([high + 1n, h]);
      return parts;
    });
  return rest;
}

/** The addresses of `10.0.0.1`, `10.0.0.0/8`, `10.0.0.0/255.0.0.0` or the IPv6 forms; null when it is none of them. */
export function prefix(text: string): { family: 'ip' | 'ip6'; set: RangeSet } | null {
  const [host = '', length] = text.split('/');
  if (!ipaddr.isValid(host)) return null;
  const address = ipaddr.parse(host);
  const bits = address.kind() === 'ipv4' ? 32 : 128;
  let prefixLength: number | null = bits;
  if (length !== undefined)
    prefixLength = /^\d+$/.test(length)
      ? Number(length)
      : ipaddr.isValid(length)
        ? ipaddr.parse(length).prefixLengthFromSubnetMask()
        : null;
  if (prefixLength === null || prefixLength > bits) return null;
  const value = address.toByteArray().reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  const hostPart = (1n << BigInt(bits - prefixLength)) - 1n;
  const low = value & ~hostPart;
  return { family: bits === 32 ? 'ip' : 'ip6', set: [[low, low | hostPart]] };
}
