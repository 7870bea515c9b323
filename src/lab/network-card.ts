/**
 * A lab's network card, started inside a namespace: `node network-card.js JSON`, the JSON being a
 * `Card`. Carries frames between two devices of its namespace, as the backend of a virtual network
 * card does: with each frame the kernel says whether its checksum is still to be finished (struct
 * virtio_net_hdr, include/uapi/linux/virtio_net.h). Says `ready`; ends when its standard input does,
 * unless `stay` came there first.
 */
import { readSync, writeSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { loadFfi, openLibrary } from '../probe/libbpf.js';

/** What a card does with the checksum of a TCP or UDP packet. */
export type ChecksumWork =
  /** finishes it when it is to be finished */
  | 'finish'
  /** hands it on to be finished, and says so */
  | 'defer'
  /** hands it on to be finished, and does not say so */
  | 'forget'
  /** finishes it when it is to be finished, and wrongly */
  | 'miscalculate'
  /** changes a finished one too */
  | 'flip'
  /** changes the maximum segment size of a SYN, or a byte of a datagram, and not the checksum */
  | 'alter';

export interface Card {
  devices: readonly [string, string];
  /** what it does with packets that come in by the first device; with others it finishes them */
  work: ChecksumWork;
  /** it does so with so many packets, the first ones, then finishes them; 0: with all */
  packets: number;
}

const AF_PACKET = 17;
const SOCK_RAW = 3;
const ETH_P_ALL = 3;
const SOL_PACKET = 263;
const PACKET_VNET_HDR = 15;
const PACKET_IGNORE_OUTGOING = 23;
const POLLIN = 1;
const VNET_HEADER = 10;
const NEEDS_CSUM = 1;
const GSO_TYPE = 1;
const ETHERNET = 14;
const TCP = 6;
const UDP = 17;

interface Sockets {
  if_nametoindex(name: string): number;
  socket(domain: number, type: number, protocol: number): number;
  setsockopt(fd: number, level: number, name: number, value: Buffer, size: number): number;
  bind(fd: number, address: Buffer, size: number): number;
  poll(fds: Buffer, count: number, timeout: number): number;
  recv(fd: number, bytes: Buffer, size: number, flags: number): number;
  send(fd: number, bytes: Buffer, size: number, flags: number): number;
}

/** Every frame that comes in by a device, behind its virtio_net_hdr. */
function open(libc: Sockets, device: string): number {
  const index = libc.if_nametoindex(device);
  const fd = libc.socket(AF_PACKET, SOCK_RAW, 0);
  const on = Buffer.from([1, 0, 0, 0]);
  const address = Buffer.alloc(20); // struct sockaddr_ll
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(ETH_P_ALL, 2);
  address.writeInt32LE(index, 4);
  const failed =
    index === 0 ||
    fd < 0 ||
    libc.setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, on, 4) !== 0 ||
    libc.setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, on, 4) !== 0 ||
    libc.bind(fd, address, address.length) !== 0;
  if (failed) throw new Error(`cannot read the packets of ${device}`);
  return fd;
}

/** Where the transport header of a frame's TCP or UDP packet stands, and that of its checksum. */
function transport(frame: Buffer): { protocol: number; at: number; check: number } | null {
  const ip = ETHERNET;
  const version = frame[ip]! >> 4;
  const [protocol, at] =
    version === 4
      ? [frame[ip + 9]!, ip + (frame[ip]! & 15) * 4]
      : version === 6
        ? [frame[ip + 6]!, ip + 40]
        : [0, 0];
  if (protocol === TCP) return { protocol, at, check: at + 16 };
  return protocol === UDP ? { protocol, at, check: at + 6 } : null;
}

/** The Internet checksum (RFC 1071) of the bytes, the one that stands among them included. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** Finishes the checksum as the header asks; what stands in its place is the pseudo header's sum. */
function finish(header: Buffer, frame: Buffer): void {
  // each segment of a frame that is still to be cut has a checksum of its own
  if (!(header[0]! & NEEDS_CSUM) || header[GSO_TYPE] !== 0) return;
  const start = header.readUInt16LE(6);
  const at = start + header.readUInt16LE(8);
  frame.writeUInt16BE(checksum(frame.subarray(start)) || 0xffff, at);
  header[0]! &= ~NEEDS_CSUM;
}

/** Does a card's work on a frame. @returns false when there was none to do */
function work(what: ChecksumWork, header: Buffer, frame: Buffer): boolean {
  const packet = transport(frame);
  const asked = (header[0]! & NEEDS_CSUM) !== 0;
  if (!packet || (!asked && /^(defer|forget|miscalculate)$/.test(what))) return false;
  switch (what) {
    case 'finish':
      finish(header, frame);
      break;
    case 'defer':
      break;
    case 'forget':
      header[0]! &= ~NEEDS_CSUM;
      break;
    case 'miscalculate':
    case 'flip': {
      const at = asked ? header.readUInt16LE(6) + header.readUInt16LE(8) : packet.check;
      finish(header, frame);
      frame[at]! ^= 0x40;
      break;
    }
    case 'alter': {
      finish(header, frame);
      // the value of a SYN's first option, or the last byte of what UDP carries
      const at = packet.protocol === TCP ? packet.at + 23 : frame.length - 1;
      frame[at]! ^= 0x10;
    }
  }
  return true;
}

function carry({ devices, work: what, packets }: Card): never {
  const libc = openLibrary<Sockets>(
    loadFfi().ffi,
    'libc.so.6',
    {
      if_nametoindex: ['uint', ['string']],
      socket: ['int', ['int', 'int', 'int']],
      setsockopt: ['int', ['int', 'int', 'int', 'pointer', 'uint']],
      bind: ['int', ['int', 'pointer', 'uint']],
      poll: ['int', ['pointer', 'ulong', 'int']],
      recv: ['long', ['int', 'pointer', 'size_t', 'int']],
      send: ['long', ['int', 'pointer', 'size_t', 'int']],
    },
    'libc6',
  );
  const [first, second] = [open(libc, devices[0]), open(libc, devices[1])];
  const buffer = Buffer.alloc(VNET_HEADER + 65536);
  let left = packets === 0 ? Infinity : packets;
  const pass = (from: number, to: number): void => {
    const size = Number(libc.recv(from, buffer, buffer.length, 0));
    if (size <= VNET_HEADER + ETHERNET) return; // the device went down
    const header = buffer.subarray(0, VNET_HEADER);
    const frame = buffer.subarray(VNET_HEADER, size);
    if (from === first && left > 0 && work(what, header, frame)) left--;
    else finish(header, frame);
    libc.send(to, buffer, size, 0);
  };
  const fds = Buffer.alloc(24); // struct pollfd[3]
  [first, second, 0].forEach((fd, i) => {
    fds.writeInt32LE(fd, i * 8);
    fds.writeInt16LE(POLLIN, i * 8 + 4);
  });
  const ready = (i: number): boolean => fds.readInt16LE(i * 8 + 6) !== 0;
  const told = Buffer.alloc(16);
  writeSync(1, 'ready\n');
  for (;;) {
    libc.poll(fds, 3, -1);
    if (ready(0)) pass(first, second);
    if (ready(1)) pass(second, first);
    if (!ready(2)) continue;
    if (readSync(0, told) === 0) process.exit(0);
    fds.writeInt32LE(-1, 16); // it stays
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  carry(JSON.parse(process.argv[2] ?? '') as Card);
