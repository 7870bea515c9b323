import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatEndpoint, Headers, keyEndpoints, reverseKey } from '../../src/event/headers.js';

const SYN = Buffer.from(
  '4500003cabcd40004006b1e60a0000020a60000a' + 'dc6c0050000000010000000050021000149a0000',
  'hex',
);

test('addresses, ports, flags and numbers of a TCP packet', () => {
  const headers = new Headers();
  assert.ok(headers.parse(SYN, 0, SYN.length, false));
  const { flow } = headers;
  assert.equal(formatEndpoint(flow.source(SYN)), '10.0.0.2:56428');
  assert.equal(formatEndpoint(flow.destination(SYN)), '10.96.0.10:80');
  assert.equal(flow.flags, 2);
  assert.equal(flow.seq(SYN), 1);
  assert.equal(flow.check(SYN), 0x149a);
});

test('a key is its own double reverse, and names the same ends', () => {
  const headers = new Headers();
  headers.parse(SYN, 0, SYN.length, false);
  const key = headers.flow.key(SYN);
  assert.equal(reverseKey(reverseKey(key)), key);
  assert.deepEqual(keyEndpoints(reverseKey(key)), {
    source: { address: '10.96.0.10', port: 80 },
    destination: { address: '10.0.0.2', port: 56428 },
  });
});

test('IPv6 addresses are written as RFC 5952 says', () => {
  const key = (hex: string): string =>
    Buffer.from(hex + '0'.repeat(32) + '00500050', 'hex').toString('latin1');
  const address = (hex: string): string => keyEndpoints(key(hex)).source.address;
  assert.equal(address('20010db8000000000000000000000001'), '2001:db8::1');
  assert.equal(address('20010db8000000010001000100010001'), '2001:db8:0:1:1:1:1:1');
  assert.equal(address('00000000000000000000000000000000'), '::');
  assert.equal(address('20010db8000000000001000000000001'), '2001:db8::1:0:0:1');
});

test('no bytes, however broken, make the decoder throw or read beyond them', () => {
  const headers = new Headers();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 192 }), fc.boolean(), (data, tunnel) => {
      const bytes = Buffer.from(data);
      if (!headers.parse(bytes, 0, bytes.length, tunnel)) return;
      headers.flow.key(bytes);
      assert.ok(headers.outer.l4 <= bytes.length && headers.inner.l4 <= bytes.length);
    }),
    { numRuns: 5000 },
  );
});
