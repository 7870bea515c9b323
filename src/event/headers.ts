/**
 * The one packet decoder: finds the headers in an event's packet bytes.
 *
 * A flyweight: `parse` only notes where things stand; names, addresses and options are read on
 * demand. Bytes start at the network header and hold headers only (see bpf/event.h).
 */

export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_ICMPV6 = 58;

export const TCP_FIN = 1;
export const TCP_SYN = 2;
export const TCP_RST = 4;
export const TCP_ACK = 16;

const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const ETHERTYPE_VLAN = 0x8100;
const ETHERTYPE_TRANSPARENT_BRIDGING = 0x6558;

/** One IP header with what it carries; offsets are from the start of the buffer, −1 where absent. */
export class Layer {
  /** 4, 6, or 0 when there is none */
  version = 0;
  /** IPPROTO_* of the transport header */
  protocol = 0;
  l3 = -1;
  /** transport header, −1 in a later fragment or when not captured */
  l4 = -1;
  sport = 0;
  dport = 0;
  /** TCP flags; 0 for others */
  flags = 0;
  /** ICMP header, −1 for others and when not captured */
  icmp = -1;

  /** @internal */
  parse(bytes: Buffer, at: number, end: number): boolean {
    this.version = 0;
    this.protocol = 0;
    this.l3 = at;
    this.l4 = this.icmp = -1;
    this.sport = this.dport = this.flags = 0;
    if (end - at < 20) return false;
    const version = bytes[at]! >> 4;
    let l4: number;
    if (version === 4) {
      this.version = 4;
      this.protocol = bytes[at + 9]!;
      if ((((bytes[at + 6]! & 0x1f) << 8) | bytes[at + 7]!) !== 0) return true;
      l4 = at + (bytes[at]! & 15) * 4;
    } else if (version === 6 && end - at >= 40) {
      this.version = 6;
      let next = bytes[at + 6]!;
      l4 = at + 40;
      // hop-by-hop, routing, fragment, destination options (RFC 8200, section 4)
      while ((next === 0 || next === 43 || next === 44 || next === 60) && l4 + 8 <= end) {
        const header = next;
        next = bytes[l4]!;
        if (header === 44) {
          if ((((bytes[l4 + 2]! << 8) | bytes[l4 + 3]!) & 0xfff8) !== 0) {
            this.protocol = next;
            return true;
          }
          l4 += 8;
        } else l4 += (bytes[l4 + 1]! + 1) * 8;
      }
      this.protocol = next;
    } else return false;
    if ((this.protocol === IPPROTO_TCP || this.protocol === IPPROTO_UDP) && l4 + 8 <= end) {
      this.l4 = l4;
      this.sport = (bytes[l4]! << 8) | bytes[l4 + 1]!;
      this.dport = (bytes[l4 + 2]! << 8) | bytes[l4 + 3]!;
      if (this.protocol === IPPROTO_TCP && l4 + 14 <= end) this.flags = bytes[l4 + 13]!;
    } else if (
      (this.protocol === IPPROTO_ICMP || this.protocol === IPPROTO_ICMPV6) &&
      l4 + 8 <= end
    )
      this.icmp = l4;
    return true;
  }

  /** Addresses and ports as one string key, as they stand in the packet: equal to `tupleKey`'s. */
  key(bytes: Buffer): string {
    if (this.l4 < 0) return '';
    const from = this.version === 4 ? this.l3 + 12 : this.l3 + 8;
    const addresses = this.version === 4 ? 8 : 32;
    return from + addresses === this.l4
      ? bytes.toString('latin1', from, this.l4 + 4)
      : bytes.toString('latin1', from, from + addresses) +
          bytes.toString('latin1', this.l4, this.l4 + 4);
  }

  /** The key of the opposite direction. */
  reverseKey(bytes: Buffer): string {
    return reverseKey(this.key(bytes));
  }

  /** IPv4 identification; 0 for IPv6. */
  identification(bytes: Buffer): number {
    return this.version === 4 ? bytes.readUInt16BE(this.l3 + 4) : 0;
  }

  /** TCP sequence number; 0 for others. */
  seq(bytes: Buffer): number {
    return this.protocol === IPPROTO_TCP && this.l4 >= 0 ? bytes.readUInt32BE(this.l4 + 4) : 0;
  }

  /** TCP acknowledgment number; 0 for others. */
  ack(bytes: Buffer): number {
    return this.protocol === IPPROTO_TCP && this.l4 >= 0 ? bytes.readUInt32BE(this.l4 + 8) : 0;
  }

  /** The transport checksum as on the wire. */
  check(bytes: Buffer): number {
    if (this.l4 < 0) return 0;
    return bytes.readUInt16BE(this.l4 + (this.protocol === IPPROTO_TCP ? 16 : 6));
  }

  source(bytes: Buffer): Endpoint {
    return {
      address: this.version === 4 ? ipv4(bytes, this.l3 + 12) : ipv6(bytes, this.l3 + 8),
      port: this.sport,
    };
  }

  destination(bytes: Buffer): Endpoint {
    return {
      address: this.version === 4 ? ipv4(bytes, this.l3 + 16) : ipv6(bytes, this.l3 + 24),
      port: this.dport,
    };
  }
}

export interface Endpoint {
  address: string;
  port: number;
}

/** Outer and, for a tunnel packet, inner headers of one event, and what an ICMP error quotes. */
export class Headers {
  readonly outer = new Layer();
  readonly inner = new Layer();
  /** the packet that an ICMP error is about, as far as it is quoted; version 0: it is no error */
  readonly quoted = new Layer();
  /** tunnel header, −1 when the packet is no tunnel packet */
  tunnel = -1;
  /** VXLAN or Geneve network identifier */
  vni = 0;

  /** The layer an application would recognise: inner in a tunnel packet, else the only one. */
  get flow(): Layer {
    return this.tunnel >= 0 && this.inner.version ? this.inner : this.outer;
  }

  /**
   * Notes the headers of the `length` bytes at `at`.
   * @param isTunnel the event says that this is a tunnel packet (EVENT_TUNNEL)
   * @returns false when there is no IP header to be seen
   */
  parse(bytes: Buffer, at: number, length: number, isTunnel: boolean): boolean {
    const end = at + length;
    this.tunnel = -1;
    this.inner.version = this.quoted.version = 0;
    this.inner.l4 = this.inner.icmp = this.quoted.l4 = -1;
    if (!this.outer.parse(bytes, at, end)) return false;
    if (isTunnel && this.outer.l4 >= 0 && this.outer.protocol === IPPROTO_UDP)
      this.parseTunnel(bytes, end);
    const { icmp, version } = this.flow;
    if (icmp >= 0 && isIcmpError(version, bytes[icmp]!)) this.quoted.parse(bytes, icmp + 8, end);
    return true;
  }

  private parseTunnel(bytes: Buffer, end: number): void {
    const header = this.outer.l4 + 8;
    if (header + 8 > end) return;
    this.tunnel = header;
    this.vni = bytes.readUIntBE(header + 4, 3);
    // VXLAN (RFC 7348): the I flag alone in the first byte. Geneve (RFC 8926): version 0, option
    // length in 4-byte words, protocol type Transparent Ethernet Bridging.
    const geneve =
      bytes[header] !== 8 && bytes.readUInt16BE(header + 2) === ETHERTYPE_TRANSPARENT_BRIDGING;
    let type = header + 8 + (geneve ? (bytes[header]! & 0x3f) * 4 : 0) + 12;
    if (type + 2 > end) return;
    let ethertype = bytes.readUInt16BE(type);
    if (ethertype === ETHERTYPE_VLAN && type + 6 <= end) {
      type += 4;
      ethertype = bytes.readUInt16BE(type);
    }
    if (ethertype === ETHERTYPE_IPV4 || ethertype === ETHERTYPE_IPV6)
      this.inner.parse(bytes, type + 2, end);
  }
}

/** Does an ICMP message of that type report an error about a packet that it quotes (RFC 792, RFC 4443)? */
function isIcmpError(version: number, type: number): boolean {
  return version === 4 ? type === 3 || type === 11 || type === 12 : type >= 1 && type <= 4;
}

/** Where a `struct tuple` has its protocol (bpf/event.h). */
export const TUPLE_PROTOCOL = 37;

/** `struct tuple` at `at` as a string key: equal to the `Layer.key` of a packet of that flow. */
export function tupleKey(bytes: Buffer, at: number): string {
  const family = bytes[at + 36];
  return family === 4
    ? bytes.toString('latin1', at, at + 12)
    : family === 6
      ? bytes.toString('latin1', at, at + 36)
      : '';
}

/** The key of the opposite direction. */
export function reverseKey(key: string): string {
  const n = key.length === 12 ? 4 : 16;
  return (
    key.slice(n, 2 * n) +
    key.slice(0, n) +
    key.slice(2 * n + 2, 2 * n + 4) +
    key.slice(2 * n, 2 * n + 2)
  );
}

/** Source address and port of a key, as a key of their own. */
export function sourceKey(key: string): string {
  return key.length === 12
    ? key.slice(0, 4) + key.slice(8, 10)
    : key.slice(0, 16) + key.slice(32, 34);
}

/** Source and destination of a key. */
export function keyEndpoints(key: string): { source: Endpoint; destination: Endpoint } {
  const bytes = Buffer.from(key, 'latin1');
  const v4 = bytes.length === 12;
  const n = v4 ? 4 : 16;
  const address = v4 ? ipv4 : ipv6;
  return {
    source: { address: address(bytes, 0), port: bytes.readUInt16BE(2 * n) },
    destination: { address: address(bytes, n), port: bytes.readUInt16BE(2 * n + 2) },
  };
}

function ipv4(bytes: Buffer, at: number): string {
  return `${bytes[at]}.${bytes[at + 1]}.${bytes[at + 2]}.${bytes[at + 3]}`;
}

function ipv6(bytes: Buffer, at: number): string {
  const parts: string[] = [];
  for (let i = 0; i < 16; i += 2) parts.push(bytes.readUInt16BE(at + i).toString(16));
  return compressZeros(parts);
}

/** RFC 5952: the longest run of two or more zero groups, the first of equals, becomes `::`. */
function compressZeros(parts: string[]): string {
  let best = 0;
  let bestAt = -1;
  for (let i = 0; i < 8; i++) {
    let n = 0;
    while (i + n < 8 && parts[i + n] === '0') n++;
    if (n > best) {
      best = n;
      bestAt = i;
    }
    i += n;
  }
  if (best < 2) return parts.join(':');
  return `${parts.slice(0, bestAt).join(':')}::${parts.slice(bestAt + best).join(':')}`;
}

/** `10.0.0.1:80` or `[2001:db8::1]:80`. */
export function formatEndpoint({ address, port }: Endpoint): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
