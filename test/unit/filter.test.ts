import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { SkbwhyError } from '../../src/event/errors.js';
import {
  compileClassic,
  compileFilter,
  FILTER_BYTES,
  offlineFilter,
  translate,
} from '../../src/probe/filter.js';
import { runExpression } from './ebpf.js';

const EXPRESSIONS = [
  '',
  'host 10.96.0.10',
  'src host 10.96.0.10 and not dst port 80',
  'net 10.96.0.0/12 or ip6 net fd00::/8',
  'tcp port 80 and host 10.96.0.10',
  'udp port domain or tcp port http or https',
  'portrange 1000-40000',
  'tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn',
  'ip6 and tcp dst port 8080',
  'ip6 host fd00::1',
  'icmp or icmp6 or proto 17',
  'ip[2:2] > 100 and tcp[4:4] & 0xff != 3',
  'greater 60',
  'less 59',
  'len > ip[2:2]',
  'tcp[4:4] << (ip[1] & 63) = 0 or ip[9] / tcp[3] = 1',
  'ip[8] % tcp[13] = 3 or (ip[1] ^ ip[8]) * 3 - 7 > 40 or -ip[8] > 7',
  'tcp[(ip[1] & 7):4] > 0x80000000',
  'ip[(ip[0] & 0xf) * 4 + ip[1]:2] = 80',
  'ip multicast or ip6 multicast',
  'udp[300] = 1 or tcp',
  'geneve',
];

const ADDRESSES = [
  [10, 96, 0, 10],
  [10, 100, 1, 2],
  [192, 168, 1, 1],
  [255, 255, 255, 255],
];
const address4 = fc.constantFrom(...ADDRESSES);
const address6 = fc.constantFrom(
  'fd000000000000000000000000000001',
  'fe80000000000000000000000000000a',
);
const port = fc.oneof(fc.constantFrom(53, 80, 443, 8080, 6081), fc.nat(65535));

const transportHeader = fc
  .tuple(port, port, fc.uint8Array({ minLength: 16, maxLength: 16 }))
  .map(([source, destination, rest]) => {
    const bytes = Buffer.concat([Buffer.alloc(4), rest]);
    bytes.writeUInt16BE(source, 0);
    bytes.writeUInt16BE(destination, 2);
    return bytes;
  });

const ipv4 = fc
  .tuple(
    address4,
    address4,
    fc.constantFrom(1, 6, 17),
    fc.uint8Array({ minLength: 12, maxLength: 12 }),
    transportHeader,
  )
  .map(([source, destination, protocol, head, rest]) => {
    const header = Buffer.from([...head, ...source, ...destination]);
    header[0] = 0x45;
    header[9] = protocol;
    header.writeUInt16BE(0, 6);
    return Buffer.concat([header, rest]);
  });

const ipv6 = fc
  .tuple(address6, address6, fc.constantFrom(6, 17, 58), transportHeader)
  .map(([source, destination, protocol, rest]) =>
    Buffer.concat([
      Buffer.from([0x60, 0, 0, 0, 0, 20, protocol, 64]),
      Buffer.from(source + destination, 'hex'),
      rest,
    ]),
  );

const packet = fc
  .tuple(
    fc.oneof(
      ipv4,
      ipv6,
      fc.uint8Array({ minLength: 1, maxLength: FILTER_BYTES }).map((bytes) => Buffer.from(bytes)),
    ),
    fc.nat(FILTER_BYTES),
    fc.boolean(),
  )
  .map(([bytes, length, cut]) => (cut ? bytes.subarray(0, Math.max(1, length)) : bytes));

describe('a filter expression, translated', () => {
  for (const expression of EXPRESSIONS)
    test(`decides as libpcap does: ${expression || '(empty)'}`, () => {
      const code = compileFilter(expression);
      const packets = fc.sample(packet, { numRuns: 400, seed: 7 });
      const expected = offlineFilter(expression, packets);
      packets.forEach((bytes, i) => {
        // the slot may read whatever stands behind the captured bytes
        const layer = Buffer.concat([bytes, Buffer.alloc(FILTER_BYTES, 0xa5)]);
        const decision = runExpression(code, layer, bytes.length) !== 0;
        assert.equal(decision, expected[i], `${expression}: ${bytes.toString('hex')}`);
      });
    });

  test('says both yes and no to the packets it is tried on', () => {
    const packets = fc.sample(packet, { numRuns: 400, seed: 7 });
    const decisions = offlineFilter('tcp port 80 and host 10.96.0.10', packets);
    assert.ok(decisions.includes(true) && decisions.includes(false));
  });

  test('does not look beyond the captured bytes', () => {
    const code = compileFilter('tcp[13] = 2');
    const bytes = Buffer.alloc(30);
    bytes[0] = 0x45;
    bytes[9] = 6;
    assert.equal(runExpression(code, bytes), 0);
  });

  test('has no instruction that cannot be reached', () => {
    // the load can never succeed in 60 bytes: what would follow is left out
    const program = compileClassic('udp[300] = 1 or tcp');
    assert.ok(translate(program, 60).length < translate(program, 400).length);
  });
});

describe('a filter expression that is refused', () => {
  const cases: [string, RegExp][] = [
    ['inbound', /match nothing/],
    ['udp[300] = 1', /match nothing/],
    ['host example.com', /example\.com: names are not looked up/],
    ['dst kube-dns', /kube-dns: names are not looked up/],
    ['tcp port 80 and backend', /names are not looked up|unknown|not understood/],
    ['vlan 3', /no VLAN support/],
    ['ether host 02:00:00:00:00:01', /ethernet addresses/],
    ['tcp port', /syntax error/],
    ['ip6 protochain 6', /loop/],
    ['port nonsense', /not understood/],
  ];
  for (const [expression, message] of cases)
    test(`says why in one line: ${expression}`, () => {
      assert.throws(
        () => compileFilter(expression),
        (error: unknown) =>
          error instanceof SkbwhyError &&
          error.code === 'bad-filter' &&
          error.exitCode === 2 &&
          message.test(error.message) &&
          !error.message.includes('\n'),
      );
    });
});
