import { expectedOuterChecksum } from '../event/checksum.js';
import { AT, type Cursor } from '../event/cursor.js';
import {
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  keyEndpoints,
  tupleKey,
  type Endpoint,
  type Layer,
} from '../event/headers.js';
import {
  bitNames,
  CONNTRACK_INFO,
  CONNTRACK_STATUS,
  EVENT_FLAGS,
  HOOKS,
  IP_SUMMED,
  TCP_FLAGS,
  TCP_STATES,
  NO_HOOK,
} from '../event/names.js';
import { POINTS, type PointName } from '../event/point.js';
import { CHECKSUM_PARTIAL, Observation } from '../explain/exchanges/observation.js';
import { hex16 } from '../explain/wording.js';
import type { SessionHeader } from '../session/session.js';
import { isoMicroseconds, realTime } from './clock.js';
import type { Survey } from './survey.js';

/**
 * An event with its numbers named: the object of one JSON line. Every row has every key, so that
 * columns are stable; what does not apply is null. 64-bit numbers are strings.
 */
export interface EventRow {
  /** running number in the session, as evidence names it */
  seq: number;
  /** ISO 8601, to the microsecond */
  time: string;
  /** since 1970 */
  timeNs: string;
  type: 'event';
  /** `point 99` for one of a later version */
  point: PointName | `point ${number}`;
  /** netfilter hook */
  hook: string | null;
  /** name of the network namespace, and its inode number */
  netns: string;
  netnsInode: number;
  device: string | null;
  ifindex: number | null;
  direction: Direction | null;
  cpu: number;
  /** addresses in the kernel: identity while the thing lives */
  skb: string | null;
  sock: string | null;
  mark: number;
  hash: number;
  sockHash: number;
  /** enum event_flag, bpf/event.h */
  flags: string[];
  /** bytes of the packet from its IP header on, and how many of them are recorded */
  length: number | null;
  captured: number | null;
  /** the packet's own headers; of a tunnel packet the outer ones */
  outer: LayerRow | null;
  /** what a tunnel packet carries */
  inner: LayerRow | null;
  vni: number | null;
  /** an ICMP error, and the packet that it is about */
  icmp: { type: number; code: number; mtu: number | null; quoted: LayerRow } | null;
  /** how many like it were not recorded since the last one; null where all are */
  leftOut: number | null;
  checksum: ChecksumRow | null;
  conntrack: ConntrackRow | null;
  /** mark.set, nat.*: values before the hook's chains ran */
  before: { mark: number; checksum: number; sourcePort: number; destinationPort: number } | null;
  /** conntrack.insert, conntrack.delete, checksum.*: what the function said, or who asked for it */
  result: string | null;
  /** packet.drop */
  drop: { reason: string; reasonNumber: number; location: string; symbol: string } | null;
  /** socket.state, tcp.retransmit */
  socket: SocketRow | null;
  /** claims of findings that this event proves */
  proves: ProofRow[];
}

export interface ProofRow {
  finding: string;
  verdict: string;
  claim: string;
}

export type Direction = 'in' | 'out';

export interface LayerRow {
  version: number;
  protocol: string;
  source: string;
  sourcePort: number | null;
  destination: string;
  destinationPort: number | null;
  /** IPv4 identification */
  identification: number | null;
  tcpFlags: string[] | null;
  tcpSeq: number | null;
  tcpAck: number | null;
  /** of the transport header, as in the packet */
  checksum: number | null;
}

export interface ChecksumRow {
  /** without CHECKSUM_ */
  ipSummed: string;
  /** where the sum of a CHECKSUM_PARTIAL packet starts, from the IP header on */
  start: number | null;
  /** whose transport checksum is still to be finished, judged by `start` */
  unfinished: 'outer' | 'inner' | null;
  /** the outer UDP checksum that a receiver of this tunnel packet expects */
  expectedOuter: number | null;
}

export interface ConntrackRow {
  id: string;
  /** how the packet relates to the entry: enum ip_conntrack_info; null for conntrack.delete */
  info: string | null;
  status: number;
  statusNames: string[];
  zone: number;
  mark: number;
  /** null: not confirmed, or not known */
  timeoutMs: number | null;
  /** since 1970; null unless nf_conntrack_timestamp is on */
  startNs: string | null;
  original: TupleRow;
  reply: TupleRow;
}

export interface TupleRow {
  protocol: string;
  source: string;
  sourcePort: number;
  destination: string;
  destinationPort: number;
}

export interface SocketRow {
  flow: TupleRow | null;
  oldState: string;
  newState: string;
  pid: number | null;
  command: string | null;
  /** tcp.retransmit */
  retransmits: number | null;
  seq: number | null;
  rtoMs: number | null;
  /** SO_TXREHASH; null: the namespace's setting */
  txrehash: number | null;
}

const PROTOCOLS: ReadonlyMap<number, string> = new Map([
  [IPPROTO_ICMP, 'icmp'],
  [IPPROTO_TCP, 'tcp'],
  [IPPROTO_UDP, 'udp'],
  [IPPROTO_ICMPV6, 'icmp6'],
]);
const NO_CSUM_START = 65535;
const UNKNOWN = 0xffffffff;

/** The row of the event at the cursor. */
export function eventRow(
  cursor: Cursor,
  header: SessionHeader,
  survey: Pick<Survey, 'world' | 'proofs'>,
): EventRow {
  const record = cursor.bytes.subarray(cursor.base, cursor.base + cursor.size);
  const evidence = { session: header.id, seq: cursor.seq };
  const o = new Observation(record, evidence, survey.world, 0);
  const { world } = survey;
  const timeNs = realTime(record.readBigUInt64LE(AT.time), header);
  const point = POINTS[cursor.point] || (`point ${cursor.point}` as const);
  const isSocket = point === 'socket.state' || point === 'tcp.retransmit';
  const isBefore = point === 'mark.set' || point === 'nat.setup' || point === 'nat.rewrite';
  const captured = isSocket ? 0 : record[AT.packet_length]!;
  const flags = bitNames(EVENT_FLAGS, record[AT.flags]!);
  const { outer, inner, tunnel } = o.headers;
  const hasPacket = captured > 0 && outer.version !== 0;
  return {
    seq: cursor.seq,
    time: isoMicroseconds(timeNs),
    timeNs: String(timeNs),
    type: 'event',
    point,
    hook: o.hook === NO_HOOK ? null : (HOOKS[o.hook] ?? `hook ${o.hook}`),
    netns: world.netnsName(o.netns),
    netnsInode: o.netns,
    device: o.ifindex
      ? (world.device(o.netns, o.ifindex, o.time)?.fact.name ?? `device ${o.ifindex}`)
      : null,
    ifindex: o.ifindex || null,
    direction: directionOf(point, o.hook),
    cpu: record.readUInt16LE(AT.cpu),
    skb: address(record, AT.skb),
    sock: address(record, AT.sock),
    mark: o.mark,
    hash: o.hash,
    sockHash: o.sockHash,
    flags,
    length: captured > 0 ? Math.max(ipLength(record, captured) ?? 0, captured) : null,
    captured: captured > 0 ? captured : null,
    outer: hasPacket ? layerRow(outer, record) : null,
    inner: hasPacket && tunnel >= 0 && inner.version ? layerRow(inner, record) : null,
    vni: hasPacket && tunnel >= 0 ? o.headers.vni : null,
    icmp: o.icmpError ? { ...o.icmpError, quoted: layerRow(o.headers.quoted, record) } : null,
    leftOut: flags.includes('THINNED') ? record.readUInt16LE(AT.left_out) : null,
    checksum: hasPacket ? checksumRow(o) : null,
    conntrack: conntrackRow(o),
    before: isBefore
      ? {
          mark: o.beforeMark,
          checksum: o.beforeCheck,
          sourcePort: o.beforeSport,
          destinationPort: record.readUInt16LE(AT.before_dport),
        }
      : null,
    result: resultOf(point, o, record),
    drop:
      point === 'packet.drop'
        ? {
            reason: header.reasons[o.reason] ?? `reason ${o.reason}`,
            reasonNumber: o.reason,
            location: o.location,
            symbol: world.symbol(o.location),
          }
        : null,
    socket: isSocket ? socketRow(o) : null,
    proves: proofRows(cursor.seq, survey),
  };
}

const VERDICTS = ['NF_DROP', 'NF_ACCEPT'];

function resultOf(
  point: EventRow['point'],
  { reason }: Observation,
  record: Buffer,
): string | null {
  switch (point) {
    case 'conntrack.insert':
      return VERDICTS[reason] ?? `verdict ${reason}`;
    case 'conntrack.delete': {
      const port = record.readUInt32LE(AT.pid);
      return port === 0 ? 'by the kernel' : `asked for by netlink port ${port}`;
    }
    case 'checksum.fill':
      return reason === 0 ? 'computed' : `failed with errno ${reason}`;
    case 'checksum.verify':
      return `wrong: the sum is ${hex16(reason)} instead of 0`;
    default:
      return null;
  }
}

/** Claims of findings that this record proves. */
export function proofRows(seq: number, survey: Pick<Survey, 'proofs'>): ProofRow[] {
  const proofs = survey.proofs.get(seq) ?? [];
  return proofs.map(({ finding, claim }) => ({
    finding: finding.id,
    verdict: finding.verdict,
    claim,
  }));
}

/** Which way the packet goes at a point; null where the point does not tell. */
export function directionOf(point: EventRow['point'], hook: number): Direction | null {
  switch (point) {
    case 'tcp.transmit':
    case 'tunnel.transmit':
    case 'checksum.fill':
    case 'device.queue':
    case 'device.transmit':
    case 'hook.FORWARD':
    case 'hook.OUTPUT':
    case 'hook.POSTROUTING':
      return 'out';
    case 'tunnel.receive':
    case 'checksum.verify':
    case 'device.receive':
    case 'hook.PREROUTING':
    case 'hook.INPUT':
      return 'in';
    case 'mark.set':
    case 'nat.setup':
    case 'nat.rewrite':
    case 'conntrack.insert':
      return hook === NO_HOOK ? null : hook <= 1 ? 'in' : 'out';
    default:
      return null;
  }
}

/**
 * Length of the packet as its IP header says; skb->len counts a link header where the packet
 * leaves, and no IP header where a socket looks at it. Null where the header does not say (a
 * segmentation offload beyond 64 KiB leaves it 0).
 */
function ipLength(record: Buffer, captured: number): number | null {
  const at = AT.packet;
  const version = record[at]! >> 4;
  if (version === 4 && captured >= 4) return record.readUInt16BE(at + 2) || null;
  const payload = version === 6 && captured >= 6 ? record.readUInt16BE(at + 4) : 0;
  return payload ? 40 + payload : null;
}

function layerRow(layer: Layer, record: Buffer): LayerRow {
  const known = layer.l4 >= 0;
  const isTcp = known && layer.protocol === IPPROTO_TCP;
  const hasChecksum = known && (isTcp || layer.protocol === IPPROTO_UDP);
  return {
    version: layer.version,
    protocol: protocolName(layer.protocol),
    source: layer.source(record).address,
    sourcePort: known ? layer.sport : null,
    destination: layer.destination(record).address,
    destinationPort: known ? layer.dport : null,
    identification: layer.version === 4 ? layer.identification(record) : null,
    tcpFlags: isTcp ? bitNames(TCP_FLAGS, layer.flags) : null,
    tcpSeq: isTcp ? layer.seq(record) : null,
    tcpAck: isTcp ? layer.ack(record) : null,
    checksum: hasChecksum ? layer.check(record) : null,
  };
}

function checksumRow(o: Observation): ChecksumRow {
  const { outer, inner, tunnel } = o.headers;
  const partial = o.ipSummed === CHECKSUM_PARTIAL && o.csumStart !== NO_CSUM_START;
  const start = AT.packet + o.csumStart;
  const isInner = partial && tunnel >= 0 && inner.version !== 0 && start === inner.l4;
  return {
    ipSummed: IP_SUMMED[o.ipSummed] ?? String(o.ipSummed),
    start: partial ? o.csumStart : null,
    unfinished: isInner ? 'inner' : partial && start === outer.l4 ? 'outer' : null,
    expectedOuter: inner.version ? expectedOuterChecksum(o.headers, o.record) : null,
  };
}

function conntrackRow(o: Observation): ConntrackRow | null {
  const { record } = o;
  const id = address(record, AT.ct);
  const original = tupleRow(record, AT.original);
  const reply = tupleRow(record, AT.reply);
  if (!id || !original || !reply) return null;
  const status = record.readUInt32LE(AT.ct_status);
  const timeout = record.readUInt32LE(AT.ct_timeout);
  const start = record.readBigUInt64LE(AT.ct_start);
  const info = record[AT.ctinfo]!;
  return {
    id,
    info: o.point === 'conntrack.delete' ? null : (CONNTRACK_INFO[info] ?? String(info)),
    status,
    statusNames: bitNames(CONNTRACK_STATUS, status),
    zone: record.readUInt16LE(AT.ct_zone),
    mark: record.readUInt32LE(AT.ct_mark),
    timeoutMs: timeout === UNKNOWN ? null : timeout,
    startNs: start === 0n ? null : String(start),
    original,
    reply,
  };
}

function socketRow(o: Observation): SocketRow {
  const { record } = o;
  const retransmit = o.point === 'tcp.retransmit';
  return {
    flow: tupleRow(record, AT['socket.flow']),
    oldState: TCP_STATES[o.oldState] ?? String(o.oldState),
    newState: TCP_STATES[o.newState] ?? String(o.newState),
    pid: o.pid || null,
    command: o.comm || null,
    retransmits: retransmit ? o.reason : null,
    seq: retransmit ? record.readUInt32LE(AT['socket.seq']) : null,
    rtoMs: retransmit ? record.readUInt32LE(AT['socket.rto']) : null,
    txrehash: o.txrehash,
  };
}

function tupleRow(record: Buffer, at: number): TupleRow | null {
  const key = tupleKey(record, at);
  if (key === '') return null;
  const { source, destination } = keyEndpoints(key);
  return { protocol: protocolName(record[at + 37]!), ...ends(source, destination) };
}

function ends(source: Endpoint, destination: Endpoint): Omit<TupleRow, 'protocol'> {
  return {
    source: source.address,
    sourcePort: source.port,
    destination: destination.address,
    destinationPort: destination.port,
  };
}

function protocolName(protocol: number): string {
  return PROTOCOLS.get(protocol) ?? String(protocol);
}

function address(record: Buffer, at: number): string | null {
  const value = record.readBigUInt64LE(at);
  return value === 0n ? null : `0x${value.toString(16)}`;
}
