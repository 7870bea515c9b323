import { RECORD_EVENT } from './fact.js';
import { LAYOUT, type Layout } from './layout.js';
import { Point } from './point.js';

/** What a field holds that another version's record does not have; otherwise 0. */
const NOT_KNOWN: Partial<Record<keyof typeof LAYOUT, number>> = {
  hook: 255,
  csum_start: 65535,
  txrehash: 255,
  ct_timeout: 0xffffffff,
};

/** Fields without which a record cannot be read; the first ones must stand where facts have them. */
const NEEDED = ['point', 'packet_length', 'packet'] as const;
const HEAD = ['size', 'kind', 'time'] as const;

const HEAD_BYTES = 24;
const [PACKET, PACKET_BYTES] = LAYOUT.packet;
const SOCKET_END = LAYOUT['socket.rto'][0] + LAYOUT['socket.rto'][1];

/** Makes records of another layout into records of ours; null where a record is damaged. */
export type Conversion = (records: Buffer) => Buffer | null;

/**
 * The conversion from another version's layout, null where it is the same. Fields that only one
 * side knows are left out, or say that they are not known; numbers of another width keep their
 * value as far as it fits.
 * @throws an Error that names the field without which nothing can be read
 */
export function conversionFrom(layout: Layout): Conversion | null {
  const names = Object.keys(LAYOUT) as (keyof typeof LAYOUT)[];
  const same = names.every((name) => isAt(layout, name));
  if (same) return null;
  for (const name of HEAD)
    if (!isAt(layout, name)) throw new Error(`records keep "${name}" at another place`);
  for (const name of NEEDED)
    if (!layout[name]) throw new Error(`records do not have the field "${name}"`);

  const fields = names
    .filter((name) => name !== 'size' && name !== 'packet')
    .map((name) => ({
      to: LAYOUT[name],
      from: layout[name] ?? null,
      missing: NOT_KNOWN[name] ?? 0,
      inSocket: name.startsWith('socket.'),
    }));
  const theirPoint = layout['point']![0];
  const theirLength = layout['packet_length']![0];
  const theirPacket = layout['packet']![0];
  // all fields of the fixed part end before this
  const fixed = Math.max(
    HEAD_BYTES,
    ...fields.flatMap(({ from, inSocket }) => (from && !inSocket ? [from[0] + from[1]] : [])),
  );

  const convert = (from: Buffer, at: number, size: number): Buffer | null => {
    if (size < fixed) return null;
    const point = from[at + theirPoint];
    const socket = point === Point['socket.state'] || point === Point['tcp.retransmit'];
    const packetLength = Math.min(socket ? 0 : from[at + theirLength]!, PACKET_BYTES);
    if (packetLength > 0 && theirPacket + packetLength > size) return null;
    const bytes = Buffer.alloc(Math.max((PACKET + packetLength + 7) & ~7, socket ? SOCKET_END : 0));
    bytes.writeUInt32LE(bytes.length, 0);
    for (const field of fields) {
      if (field.inSocket && !socket) continue;
      const [to, width] = field.to;
      if (field.from && field.from[0] + field.from[1] <= size) {
        const start = at + field.from[0];
        from.copy(bytes, to, start, start + Math.min(width, field.from[1]));
      } else if (field.missing !== 0) bytes.writeUIntLE(field.missing, to, width);
    }
    if (!socket) {
      bytes[LAYOUT.packet_length[0]] = packetLength;
      from.copy(bytes, PACKET, at + theirPacket, at + theirPacket + packetLength);
    }
    return bytes;
  };

  return (records) => {
    const parts: Buffer[] = [];
    for (let at = 0; at < records.length;) {
      const left = records.length - at;
      const size = left < HEAD_BYTES ? 0 : records.readUInt32LE(at);
      if (size < HEAD_BYTES || size > left || size % 8 !== 0) return null;
      if (records[at + 4] === RECORD_EVENT) {
        const event = convert(records, at, size);
        if (!event) return null;
        parts.push(event);
      } else parts.push(records.subarray(at, at + size));
      at += size;
    }
    return Buffer.concat(parts);
  };
}

function isAt(layout: Layout, name: keyof typeof LAYOUT): boolean {
  return layout[name]?.[0] === LAYOUT[name][0] && layout[name][1] === LAYOUT[name][1];
}
