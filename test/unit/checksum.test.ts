import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  expectedChecksum,
  expectedOuterChecksum,
  sameChecksum,
  unfinishedChecksum,
  updateChecksum,
} from '../../src/event/checksum.js';
import { Headers } from '../../src/event/headers.js';

/** RFC 1071, byte by byte. */
function internetChecksum(...parts: Buffer[]): number {
  const bytes = Buffer.concat(parts);
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function u16(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 2);
  values.forEach((value, i) => bytes.writeUInt16BE(value, i * 2));
  return bytes;
}

function ip(version: 4 | 6, protocol: number, length: number): { header: Buffer; pseudo: Buffer } {
  const address = (last: number): Buffer =>
    version === 4
      ? Buffer.from([192, 168, 100, last])
      : Buffer.from([0xfd, 0, ...new Array<number>(13).fill(0), last]);
  const pseudo = Buffer.concat([address(2), address(1), u16(0, length, protocol)]);
  if (version === 6) {
    const header = Buffer.alloc(8);
    header[0] = 0x60;
    header.writeUInt16BE(length, 4);
    header[6] = protocol;
    return { header: Buffer.concat([header, address(2), address(1)]), pseudo };
  }
  const header = Buffer.alloc(12);
  header[0] = 0x45;
  header.writeUInt16BE(20 + length, 2);
  header[8] = 64;
  header[9] = protocol;
  return { header: Buffer.concat([header, address(2), address(1)]), pseudo };
}

/** A VXLAN packet with right inner and outer checksums, whole. */
function vxlan(outer: 4 | 6, inner: 4 | 6, ports: [number, number], payload: Buffer): Buffer {
  const tcp = Buffer.alloc(20);
  tcp.writeUInt16BE(ports[0], 0);
  tcp.writeUInt16BE(80, 2);
  tcp[12] = 0x50;
  tcp[13] = 2;
  const innerIp = ip(inner, 6, 20 + payload.length);
  tcp.writeUInt16BE(internetChecksum(innerIp.pseudo, tcp, payload), 16);
  const ethernet = Buffer.alloc(14);
  ethernet.writeUInt16BE(inner === 4 ? 0x0800 : 0x86dd, 12);
  const frame = Buffer.concat([
    Buffer.from([8, 0, 0, 0, 0, 0, 1, 0]),
    ethernet,
    innerIp.header,
    tcp,
    payload,
  ]);
  const udp = u16(ports[1], 8472, 8 + frame.length, 0);
  const outerIp = ip(outer, 17, 8 + frame.length);
  const check = internetChecksum(outerIp.pseudo, udp, frame);
  udp.writeUInt16BE(check === 0 ? 0xffff : check, 6);
  return Buffer.concat([outerIp.header, udp, frame]);
}

test('the outer checksum follows from the headers alone, whatever the payload', () => {
  const port = fc.integer({ min: 1, max: 65535 });
  const family = fc.constantFrom<4 | 6>(4, 6);
  fc.assert(
    fc.property(
      family,
      family,
      port,
      port,
      fc.uint8Array({ maxLength: 64 }),
      (o, i, a, b, data) => {
        const packet = vxlan(o, i, [a, b], Buffer.from(data));
        const headers = new Headers();
        const headerBytes = packet.length - data.length;
        assert.ok(headers.parse(packet, 0, headerBytes, true));
        const expected = expectedOuterChecksum(headers, packet.subarray(0, headerBytes));
        assert.equal(expected, headers.outer.check(packet));
      },
    ),
  );
});

test('a port changed without its checksum is found out', () => {
  const packet = vxlan(4, 4, [40000, 46724], Buffer.alloc(0));
  const headers = new Headers();
  headers.parse(packet, 0, packet.length, true);
  const before = headers.outer.check(packet);
  packet.writeUInt16BE(16321, headers.outer.l4);
  headers.parse(packet, 0, packet.length, true);
  const expected = expectedOuterChecksum(headers, packet);
  assert.notEqual(expected, before);
  assert.equal(expected, updateChecksum(before, 46724, 16321));
});

test('one port for another changes the checksum by RFC 1624: a case seen on 6.18', () => {
  assert.equal(updateChecksum(0xde65, 46724, 16321), 0x5529);
});

test('a whole packet tells its checksum, and what stands there before it is finished', () => {
  const port = fc.integer({ min: 1, max: 65535 });
  fc.assert(
    fc.property(
      fc.constantFrom<4 | 6>(4, 6),
      port,
      port,
      fc.uint8Array({ maxLength: 64 }),
      fc.nat({ max: 8 }),
      (family, a, b, data, cut) => {
        const tcp = Buffer.alloc(20);
        tcp.writeUInt16BE(a, 0);
        tcp.writeUInt16BE(b, 2);
        tcp[12] = 0x50;
        const payload = Buffer.from(data);
        const { header, pseudo } = ip(family, 6, 20 + payload.length);
        const right = internetChecksum(pseudo, tcp, payload);
        const unfinished = ~internetChecksum(pseudo) & 0xffff;
        tcp.writeUInt16BE(unfinished, 16);
        const packet = Buffer.concat([header, tcp, payload]);
        const headers = new Headers();
        headers.parse(packet, 0, packet.length, false);
        assert.equal(unfinishedChecksum(headers.outer, packet), unfinished);
        const expected = expectedChecksum(headers.outer, packet, packet.length - cut);
        if (cut > 0) assert.equal(expected, null);
        else assert.ok(expected !== null && sameChecksum(expected, right));
        // what the device does: the sum over all from the transport header on, the pseudo header’s in place
        assert.ok(sameChecksum(internetChecksum(packet.subarray(header.length)), right));
      },
    ),
  );
});
