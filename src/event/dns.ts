import { name as dnsName } from 'dns-packet';

/**
 * The part of a DNS message that events hold (RFC 1035, section 4.1): the header and the question,
 * never an answer.
 */
export interface DnsMessage {
  id: number;
  response: boolean;
  truncated: boolean;
  /** 0 no error, 2 server failure, 3 no such name */
  rcode: number;
  /** answer records that follow, as the header counts them */
  answers: number;
  /** without the final dot; null when the question was not captured whole */
  name: string | null;
  /** 1 A, 28 AAAA …; 0 when not captured */
  type: number;
}

const HEADER = 12;

/** Decodes the message at `at`, of which bytes up to `end` are there; null without a whole header. */
export function readDns(bytes: Buffer, at: number, end: number): DnsMessage | null {
  if (at + HEADER > end) return null;
  const flags = bytes.readUInt16BE(at + 2);
  const message: DnsMessage = {
    id: bytes.readUInt16BE(at),
    response: (flags & 0x8000) !== 0,
    truncated: (flags & 0x0200) !== 0,
    rcode: flags & 15,
    answers: bytes.readUInt16BE(at + 6),
    name: null,
    type: 0,
  };
  const question = questionEnd(bytes, at + HEADER, end);
  if (bytes.readUInt16BE(at + 4) !== 1 || question === 0) return message;
  message.name = dnsName.decode(bytes, at + HEADER).replace(/^\.$/, '');
  message.type = bytes.readUInt16BE(question - 4);
  return message;
}

/** Identification and question as a key: equal for a query, its repeats and its answers. */
export function questionKey(bytes: Buffer, at: number, end: number): string {
  const question = questionEnd(bytes, at + HEADER, end);
  return (
    bytes.toString('latin1', at, at + 2) + bytes.toString('latin1', at + HEADER, question || end)
  );
}

/** Where the question that starts at `at` ends; 0 when that is beyond `end` or no plain name. */
function questionEnd(bytes: Buffer, at: number, end: number): number {
  while (at < end) {
    const label = bytes[at]!;
    if (label === 0) return at + 5 <= end ? at + 5 : 0;
    if (label > 63) return 0;
    at += label + 1;
  }
  return 0;
}

const TYPES: Readonly<Record<number, string>> = {
  1: 'A',
  5: 'CNAME',
  12: 'PTR',
  15: 'MX',
  16: 'TXT',
  28: 'AAAA',
  33: 'SRV',
  65: 'HTTPS',
};

/** `AAAA`, `TYPE257` */
export function typeName(type: number): string {
  return TYPES[type] ?? `TYPE${type}`;
}

const RCODES = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED'];

/** `NXDOMAIN`, `RCODE9` */
export function rcodeName(rcode: number): string {
  return RCODES[rcode] ?? `RCODE${rcode}`;
}
