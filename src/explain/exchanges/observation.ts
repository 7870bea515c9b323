import { AT } from '../../event/cursor.js';
import { readDns, type DnsMessage } from '../../event/dns.js';
import { EVENT_TUNNEL } from '../../event/flags.js';
import {
  IPPROTO_UDP,
  Headers,
  keyEndpoints,
  tupleKey,
  TUPLE_PROTOCOL,
  type Endpoint,
} from '../../event/headers.js';
import { NO_HOOK } from '../../event/names.js';
import { Point, POINTS, type PointName } from '../../event/point.js';
import type { Evidence } from '../finding.js';
import type { World } from '../world.js';

/** enum ip_conntrack_status, include/uapi/linux/netfilter/nf_conntrack_common.h */
export const IPS_SEEN_REPLY = 1 << 1;
export const IPS_CONFIRMED = 1 << 3;
export const IPS_SRC_NAT = 1 << 4;
export const IPS_DST_NAT = 1 << 5;
export const IPS_SRC_NAT_DONE = 1 << 7;

/** include/linux/skbuff.h */
export const CHECKSUM_PARTIAL = 3;

const UNKNOWN = 0xffffffff;

export interface Conntrack {
  /** its address, hexadecimal: no identity, since another entry may be made there at once */
  address: string;
  status: number;
  /** ms until it expires; null when not confirmed or not known */
  timeoutMs: number | null;
  /** CLOCK_REALTIME, µs; null unless nf_conntrack_timestamp is on */
  startUs: number | null;
  zone: number;
  /** IPPROTO_* */
  protocol: number;
  originalKey: string;
  replyKey: string;
  original: { source: Endpoint; destination: Endpoint };
  reply: { source: Endpoint; destination: Endpoint };
}

const AT_FUNCTIONS: ReadonlySet<number> = new Set([
  Point['conntrack.insert'],
  Point['checksum.fill'],
  Point['checksum.verify'],
]);

/**
 * Was an event of this point seen at a function, which not every kernel allows? Such events prove more
 * of what the others show: no verdict hangs on them. NAT is seen at its hooks, and besides at the
 * function that rewrites.
 */
export function isAtFunction(point: number, hook: number): boolean {
  return AT_FUNCTIONS.has(point) || (point === Point['nat.rewrite'] && hook === NO_HOOK);
}

/** One recorded event of an exchange, decoded on demand. */
export class Observation {
  readonly headers = new Headers();
  readonly time: number;
  readonly point: PointName;
  readonly netns: number;
  readonly ifindex: number;
  readonly tunnel: boolean;
  private conntrack: Conntrack | null | undefined;
  private message: DnsMessage | null | undefined;

  constructor(
    /** the record's bytes */
    readonly record: Buffer,
    readonly evidence: Evidence,
    readonly world: World,
    /** the attempt it belongs to, from 1 */
    readonly attempt: number,
    /** what its time needs to be on the common clock, ns */
    offset = 0,
  ) {
    this.time = Number(record.readBigUInt64LE(AT.time)) + offset;
    this.point = POINTS[record[AT.point]!] as PointName;
    this.netns = record.readUInt32LE(AT.netns);
    this.ifindex = record.readUInt32LE(AT.ifindex);
    this.tunnel = (record[AT.flags]! & EVENT_TUNNEL) !== 0;
    this.headers.parse(record, AT.packet, record[AT.packet_length]!, this.tunnel);
  }

  /** address: its identity while the packet lives */
  get skb(): bigint {
    return this.record.readBigUInt64LE(AT.skb);
  }
  /** address of the socket that sends it; 0: another namespace's, or none */
  get sock(): bigint {
    return this.record.readBigUInt64LE(AT.sock);
  }
  get hook(): number {
    return this.record[AT.hook]!;
  }
  get mark(): number {
    return this.record.readUInt32LE(AT.mark);
  }
  get hash(): number {
    return this.record.readUInt32LE(AT.hash);
  }
  get sockHash(): number {
    return this.record.readUInt32LE(AT.sock_hash);
  }
  get pid(): number {
    return this.record.readUInt32LE(AT.pid);
  }
  get reason(): number {
    return this.record.readUInt32LE(AT.reason);
  }
  /** 0x… as in symbol facts */
  get location(): string {
    return `0x${this.record.readBigUInt64LE(AT.location).toString(16)}`;
  }
  /** of the whole packet, bytes, as skb->len has it: of a GSO packet all its segments */
  get length(): number {
    return this.record.readUInt32LE(AT.length);
  }
  get ipSummed(): number {
    return this.record[AT.ip_summed]!;
  }
  /** where the unfinished checksum starts, from the first packet byte; 65535: none */
  get csumStart(): number {
    return this.record.readUInt16LE(AT.csum_start);
  }
  get beforeMark(): number {
    return this.record.readUInt32LE(AT.before_mark);
  }
  get beforeCheck(): number {
    return this.record.readUInt16LE(AT.before_check);
  }
  get beforeSport(): number {
    return this.record.readUInt16LE(AT.before_sport);
  }
  get oldState(): number {
    return this.record[AT.old_state]!;
  }
  get newState(): number {
    return this.record[AT.new_state]!;
  }
  /** the socket's own SO_TXREHASH: 0, 1; null when it follows the default or is not known */
  get txrehash(): 0 | 1 | null {
    const value = this.record[AT.txrehash]!;
    return value === 0 || value === 1 ? value : null;
  }
  /** socket events: name of the process */
  get comm(): string {
    const at = AT['socket.comm'];
    return this.record.toString('utf8', at, at + 16).replace(/\0.*$/s, '');
  }

  /** the DNS message of a UDP packet; null for others */
  get dns(): DnsMessage | null {
    if (this.message !== undefined) return this.message;
    const { flow } = this.headers;
    return (this.message =
      flow.protocol === IPPROTO_UDP && flow.l4 >= 0
        ? readDns(this.record, flow.l4 + 8, AT.packet + this.record[AT.packet_length]!)
        : null);
  }

  /** type and code of an ICMP error, and the MTU that Fragmentation Needed (RFC 1191) or Packet Too Big (RFC 4443) tells; null for others */
  get icmpError(): { type: number; code: number; mtu: number | null } | null {
    const { flow, quoted } = this.headers;
    if (quoted.version === 0) return null;
    const at = flow.icmp;
    const type = this.record[at]!;
    const code = this.record[at + 1]!;
    const mtu =
      flow.version === 4 && type === 3 && code === 4
        ? this.record.readUInt16BE(at + 6)
        : flow.version === 6 && type === 2
          ? this.record.readUInt32BE(at + 4)
          : null;
    return { type, code, mtu };
  }

  get ct(): Conntrack | null {
    if (this.conntrack !== undefined) return this.conntrack;
    const address = this.record.readBigUInt64LE(AT.ct);
    if (address === 0n) return (this.conntrack = null);
    const start = this.record.readBigUInt64LE(AT.ct_start);
    const timeout = this.record.readUInt32LE(AT.ct_timeout);
    const originalKey = tupleKey(this.record, AT.original);
    const replyKey = tupleKey(this.record, AT.reply);
    return (this.conntrack = {
      address: address.toString(16),
      status: this.record.readUInt32LE(AT.ct_status),
      timeoutMs: timeout === UNKNOWN ? null : timeout,
      startUs: start === 0n ? null : Number(start / 1000n),
      zone: this.record.readUInt16LE(AT.ct_zone),
      protocol: this.record[AT.original + TUPLE_PROTOCOL]!,
      originalKey,
      replyKey,
      original: keyEndpoints(originalKey),
      reply: keyEndpoints(replyKey),
    });
  }
}
