import ipaddr from 'ipaddr.js';
import { AT, Cursor } from '../event/cursor.js';
import { EVENT_TUNNEL } from '../event/flags.js';
import { Headers, type Layer } from '../event/headers.js';
import { Point } from '../event/point.js';
import type { StreamFilter } from './protocol.js';

/** Where a tuple keeps its family; see struct tuple in bpf/event.h. */
const FAMILY = 36;

interface Prefix {
  bytes: Uint8Array;
  bits: number;
}

/** One client's wish, applied to records as they stand. */
export class RecordFilter {
  private readonly points: Set<number> | null;
  private readonly netns: Set<number> | null;
  private readonly names: Set<string>;
  private readonly prefixes: Prefix[] | null;
  private readonly ports: Set<number> | null;
  private readonly verdicts: Set<string> | null;
  private readonly headers = new Headers();
  private readonly cursor = new Cursor();
  /** no records at all */
  readonly findingsOnly: boolean;

  /** @param nameOf the name of a network namespace, '' where it has none */
  constructor(
    filter: StreamFilter,
    private readonly nameOf: (netns: number) => string,
  ) {
    this.findingsOnly = filter.records === false;
    this.points = filter.points ? new Set(filter.points.map((name) => Point[name])) : null;
    const { netns } = filter;
    this.netns = netns ? new Set(netns.filter((n) => typeof n === 'number')) : null;
    this.names = new Set(netns?.filter((n) => typeof n === 'string'));
    this.prefixes = filter.addresses ? filter.addresses.map(parsePrefix) : null;
    this.ports = filter.ports ? new Set(filter.ports) : null;
    this.verdicts = filter.verdicts ? new Set(filter.verdicts) : null;
  }

  wantsVerdict(verdict: string): boolean {
    return this.verdicts === null || this.verdicts.has(verdict);
  }

  /** The wanted ones of these records from number `from` on, and their numbers. */
  select(records: Buffer, firstSeq: number, from: number): { seqs: number[]; parts: Buffer[] } {
    const seqs: number[] = [];
    const parts: Buffer[] = [];
    const cursor = this.cursor.reset(records, firstSeq);
    // neighbours are taken together
    let start = -1;
    while (cursor.next()) {
      const wanted = cursor.seq >= from && this.wants(cursor);
      if (wanted) {
        seqs.push(cursor.seq);
        if (start < 0) start = cursor.base;
      } else if (start >= 0) {
        parts.push(records.subarray(start, cursor.base));
        start = -1;
      }
    }
    if (start >= 0) parts.push(records.subarray(start));
    return { seqs, parts };
  }

  private wants(cursor: Cursor): boolean {
    if (cursor.isFact) return true;
    if (this.points && !this.points.has(cursor.point)) return false;
    if (this.netns && !this.netns.has(cursor.netns) && !this.names.has(this.nameOf(cursor.netns)))
      return false;
    if (this.prefixes || this.ports) return this.wantsFlow(cursor);
    return true;
  }

  private wantsFlow(cursor: Cursor): boolean {
    const { bytes, base, packetLength } = cursor;
    let address = this.prefixes === null;
    let port = this.ports === null;
    const layer = (one: Layer): void => {
      if (one.version === 0) return;
      const n = one.version === 4 ? 4 : 16;
      const at = one.l3 + (n === 4 ? 12 : 8);
      address ||= this.hasAddress(bytes, at, n) || this.hasAddress(bytes, at + n, n);
      if (one.l4 >= 0) port ||= this.ports!.has(one.sport) || this.ports!.has(one.dport);
    };
    const tuple = (at: number): void => {
      const family = bytes[at + FAMILY];
      if (family !== 4 && family !== 6) return;
      const n = family === 4 ? 4 : 16;
      address ||= this.hasAddress(bytes, at, n) || this.hasAddress(bytes, at + n, n);
      port ||=
        this.ports!.has(bytes.readUInt16BE(at + 2 * n)) ||
        this.ports!.has(bytes.readUInt16BE(at + 2 * n + 2));
    };
    if (packetLength === 0) tuple(base + AT['socket.flow']);
    else {
      const tunnel = (cursor.flags & EVENT_TUNNEL) !== 0;
      if (this.headers.parse(bytes, base + AT.packet, packetLength, tunnel)) {
        layer(this.headers.outer);
        layer(this.headers.inner);
      }
    }
    if (!(address && port)) {
      tuple(base + AT.original);
      tuple(base + AT.reply);
    }
    return address && port;
  }

  private hasAddress(bytes: Buffer, at: number, length: number): boolean {
    return this.prefixes!.some((prefix) => {
      if (prefix.bytes.length !== length) return false;
      const whole = prefix.bits >> 3;
      for (let i = 0; i < whole; i++) if (bytes[at + i] !== prefix.bytes[i]) return false;
      const rest = prefix.bits & 7;
      return rest === 0 || (bytes[at + whole]! ^ prefix.bytes[whole]!) >> (8 - rest) === 0;
    });
  }
}

function parsePrefix(text: string): Prefix {
  const [address, bits] = text.includes('/')
    ? ipaddr.parseCIDR(text)
    : ([ipaddr.parse(text), null] as const);
  const bytes = Uint8Array.from(address.toByteArray());
  return { bytes, bits: bits ?? bytes.length * 8 };
}
