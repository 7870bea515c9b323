/**
 * Blocks of a pcapng file, as draft-ietf-opsawg-pcapng lays them out; little-endian. Only what an
 * export needs.
 */

/** Packets begin with an IPv4 or IPv6 header. */
const LINKTYPE_RAW = 101;

const SECTION_HEADER = 0x0a0d0d0a;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const INTERFACE_DESCRIPTION = 1;
const ENHANCED_PACKET = 6;

const OPT_END = 0;
const OPT_COMMENT = 1;
const SHB_HARDWARE = 2;
const SHB_OS = 3;
const SHB_USERAPPL = 4;
const IF_NAME = 2;
const IF_DESCRIPTION = 3;
const IF_TSRESOL = 9;
const EPB_FLAGS = 2;

/** An option's length is 16 bits; nobody reads a longer text than this. */
const MAX_TEXT_BYTES = 16384;
const NANOSECONDS = Buffer.from([9]);

type Option = readonly [code: number, value: string | Buffer];

export interface SectionHeader {
  hardware: string;
  os: string;
  application: string;
  comments: readonly string[];
}

export interface InterfaceDescription {
  name: string;
  description: string;
  /** the most bytes that are kept of a packet */
  snapLength: number;
}

/** Bits 0 and 1 of epb_flags. */
export const DIRECTION_FLAGS = { unknown: 0, in: 1, out: 2 } as const;

export interface EnhancedPacket {
  /** number of its interface, counted from 0 in the order of their blocks */
  interfaceId: number;
  /** ns since 1970 */
  time: bigint;
  /** what was captured, from the IP header on */
  bytes: Buffer;
  /** bytes that the packet had, from the IP header on */
  originalLength: number;
  direction: keyof typeof DIRECTION_FLAGS;
  comments: readonly string[];
}

/** The block that a file begins with; its length stays open, so that the file can be streamed. */
export function sectionHeaderBlock(section: SectionHeader): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(BYTE_ORDER_MAGIC, 0);
  body.writeUInt16LE(1, 4); // version 1.0
  body.writeBigInt64LE(-1n, 8); // length of the section: not known
  return block(SECTION_HEADER, body, [
    [SHB_HARDWARE, section.hardware],
    [SHB_OS, section.os],
    [SHB_USERAPPL, section.application],
    ...section.comments.map(comment),
  ]);
}

/** Stands anywhere before the first packet of the interface. Times are in ns. */
export function interfaceDescriptionBlock(description: InterfaceDescription): Buffer {
  const body = Buffer.alloc(8);
  body.writeUInt16LE(LINKTYPE_RAW, 0);
  body.writeUInt32LE(description.snapLength, 4);
  return block(INTERFACE_DESCRIPTION, body, [
    [IF_NAME, description.name],
    [IF_DESCRIPTION, description.description],
    [IF_TSRESOL, NANOSECONDS],
  ]);
}

export function enhancedPacketBlock(packet: EnhancedPacket): Buffer {
  const { bytes } = packet;
  const body = Buffer.alloc(20 + padded(bytes.length));
  body.writeUInt32LE(packet.interfaceId, 0);
  body.writeUInt32LE(Number(packet.time >> 32n), 4);
  body.writeUInt32LE(Number(packet.time & 0xffffffffn), 8);
  body.writeUInt32LE(bytes.length, 12);
  body.writeUInt32LE(Math.max(packet.originalLength, bytes.length), 16);
  bytes.copy(body, 20);
  const flags = Buffer.alloc(4);
  flags.writeUInt32LE(DIRECTION_FLAGS[packet.direction]);
  return block(ENHANCED_PACKET, body, [[EPB_FLAGS, flags], ...packet.comments.map(comment)]);
}

function comment(text: string): Option {
  return [OPT_COMMENT, text];
}

function block(type: number, body: Buffer, options: readonly Option[]): Buffer {
  const values = options.map(([, value]) => (typeof value === 'string' ? textBytes(value) : value));
  const optionBytes = values.reduce((sum, value) => sum + 4 + padded(value.length), 4);
  const length = 12 + body.length + optionBytes;
  const bytes = Buffer.alloc(length);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt32LE(length, 4);
  let at = 8 + body.copy(bytes, 8);
  values.forEach((value, i) => {
    bytes.writeUInt16LE(options[i]![0], at);
    bytes.writeUInt16LE(value.length, at + 2);
    value.copy(bytes, at + 4);
    at += 4 + padded(value.length);
  });
  bytes.writeUInt16LE(OPT_END, at);
  bytes.writeUInt32LE(length, length - 4);
  return bytes;
}

/** UTF-8, cut between characters where it is too long. */
function textBytes(text: string): Buffer {
  const bytes = Buffer.from(text);
  if (bytes.length <= MAX_TEXT_BYTES) return bytes;
  let end = MAX_TEXT_BYTES;
  while ((bytes[end]! & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}

/** Everything is aligned to 32 bits. */
function padded(length: number): number {
  return (length + 3) & ~3;
}
