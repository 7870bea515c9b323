import { AT, type Cursor } from '../../event/cursor.js';
import {
  reverseKey,
  sourceKey,
  TCP_ACK,
  TCP_RST,
  TCP_SYN,
  tupleKey,
  type Layer,
} from '../../event/headers.js';
import { Point } from '../../event/point.js';
import { BoundedMap } from '../bounded-map.js';
import { Exchange, placeOf } from './exchange.js';
import { IPS_DST_NAT, IPS_SRC_NAT } from './observation.js';
import { RecentKeys } from './recent-keys.js';
import type { Registry, Seen, Tracker } from './tracker.js';

/** How long a packet may be on its way, ns. */
const LIFETIME = 5e9;
/** Sockets between connect() and their first SYN. */
const MAX_PENDING_SOCKETS = 4096;

const TCP_ESTABLISHED = 1;
const TCP_SYN_SENT = 2;

interface PendingSocket {
  record: Buffer;
  session: number;
  seq: number;
  time: number;
}

/** A TCP connect. */
class Connect extends Exchange {
  constructor(
    isn: number,
    netns: number,
    startedAt: number,
    /** the flow of its first SYN, as first seen; '' when none was */
    public flow: string,
  ) {
    super('tcp-connect', isn, netns, startedAt);
  }
}

/** TCP connects: the SYNs with one initial sequence number, in every shape NAT gives their flow. */
export class TcpConnects implements Tracker {
  private readonly byKey = new Map<string, Connect>();
  private readonly bySocket = new Map<number, Connect>();
  private readonly pending = new BoundedMap<number, PendingSocket>(MAX_PENDING_SOCKETS);
  private readonly done = new RecentKeys();

  constructor(
    private readonly registry: Registry,
    /** a connect that took longer than this, or needed a second SYN, is looked into, ms */
    private readonly slowMs: number,
  ) {}

  packet(seen: Seen): void {
    const { flow } = seen.headers;
    const handshake = flow.flags & (TCP_SYN | TCP_ACK | TCP_RST);
    if (handshake === TCP_SYN) this.syn(seen, flow);
    else this.answer(seen, flow, (handshake & TCP_RST) !== 0);
  }

  /** What a function did to a packet: belongs to its exchange, begins none and is no new attempt. */
  witness({ cursor, headers, session, time, tunnel }: Seen): void {
    const { flow } = headers;
    const { bytes, base } = cursor;
    const request = (flow.flags & (TCP_SYN | TCP_ACK | TCP_RST)) === TCP_SYN;
    const isn = request ? flow.seq(bytes) : (flow.ack(bytes) - 1) >>> 0;
    const own = request ? flow.key(bytes) : flow.reverseKey(bytes);
    const original = tunnel || cursor.ct === 0 ? own : tupleKey(bytes, base + AT.original);
    const connect = this.byKey.get(keyOf(own, isn)) ?? this.byKey.get(keyOf(original, isn));
    const attempt = request ? connect?.attemptOf(flow.identification(bytes)) : undefined;
    connect?.add(cursor, session, time, attempt);
  }

  isHealthy(connect: Exchange): boolean {
    return (
      connect.outcome === 'recovered' &&
      connect.attempts.length <= 1 &&
      !connect.dropped &&
      connect.delayMs < this.slowMs
    );
  }

  forget(connect: Exchange): void {
    for (const key of connect.keys) if (this.byKey.get(key) === connect) this.byKey.delete(key);
    // What is still on its way, or comes out of order, belongs to nothing any more.
    this.done.add(connect.keys, connect.lastTime + LIFETIME);
    if (connect.sock && this.bySocket.get(connect.sock) === connect)
      this.bySocket.delete(connect.sock);
  }

  /** Without a socket that says so, a client has given up when its next SYN is long overdue. */
  expire(now: number): void {
    for (const connect of this.registry.open) {
      if (connect.kind !== 'tcp-connect') continue;
      const { attempts } = connect;
      const last = attempts.at(-1)?.startedAt ?? connect.startedAt;
      const gap = attempts.length > 1 ? last - attempts.at(-2)!.startedAt : 1e9;
      const patience = connect.sock ? 600e9 : 2 * gap + 5e9;
      if (now - last > patience) this.registry.close(connect, connect.lastTime, 'failed');
    }
  }

  /** socket.state */
  socketState(cursor: Cursor, session: number, time: number): void {
    const sock = cursor.sock;
    const to = cursor.u8(AT.new_state);
    if (to === TCP_SYN_SENT) {
      const record = Buffer.from(cursor.bytes.subarray(cursor.base, cursor.base + cursor.size));
      this.pending.set(sock, { record, session, seq: cursor.seq, time });
      return;
    }
    if (cursor.u8(AT.old_state) !== TCP_SYN_SENT) return;
    let connect = this.bySocket.get(sock);
    const pending = this.pending.get(sock);
    if (!connect && pending) {
      // No SYN of it was ever seen: it failed before the first point, or was not wanted.
      this.pending.delete(sock);
      if (to === TCP_ESTABLISHED) return;
      connect = this.begin(0, cursor.netns, pending.time, '');
      connect?.addRecord(pending.record, pending.session, pending.seq);
    }
    if (!connect) return;
    connect.add(cursor, session, time);
    this.registry.close(connect, time, to === TCP_ESTABLISHED ? 'recovered' : 'failed');
  }

  /**
   * A socket's connection stands, as a later event of it shows. Where nobody saw that it came to
   * stand, a program was not run and not counted as skipped either (tell_if_skipped, bpf/device.bpf.c).
   */
  stands(sock: number): void {
    const connect = this.bySocket.get(sock);
    if (connect?.outcome !== 'pending') return;
    connect.unseen++;
    this.registry.close(connect, connect.lastTime, 'recovered');
  }

  /** tcp.retransmit */
  retransmit(cursor: Cursor, session: number, time: number): void {
    const isn = cursor.u32(AT['socket.seq']);
    const connect =
      this.bySocket.get(cursor.sock) ??
      this.byKey.get(keyOf(tupleKey(cursor.bytes, cursor.base + AT['socket.flow']), isn));
    if (connect?.isn === isn) connect.add(cursor, session, time);
  }

  private syn({ cursor, session, time, point, tunnel, headers }: Seen, flow: Layer): void {
    const { bytes, base } = cursor;
    const isn = flow.seq(bytes);
    const own = flow.key(bytes);
    const key = keyOf(own, isn);
    const client = keyOf(sourceKey(own), isn);
    // The entry of a tunnel packet is that of the tunnel.
    const translated = !tunnel && (cursor.ctStatus & (IPS_SRC_NAT | IPS_DST_NAT)) !== 0;
    const before = translated ? keyOf(tupleKey(bytes, base + AT.original), isn) : key;
    const after = translated ? keyOf(reverseKey(tupleKey(bytes, base + AT.reply)), isn) : key;
    let connect = this.byKey.get(before) ?? this.byKey.get(key) ?? this.byKey.get(client);
    connect ??= this.byKey.get(after);
    if (!connect && this.done.have([before, key, client, after], time)) return;
    // A first SYN that waited for a neighbour until it died began when connect() was called.
    const drop = point === Point['packet.drop'];
    const began = drop ? (this.pending.get(cursor.sock)?.time ?? time) : time;
    connect ??= this.begin(isn, cursor.netns, began, own);
    if (!connect) return;
    this.alias(connect, key);
    this.alias(connect, client);
    if (translated) {
      this.alias(connect, before);
      this.alias(connect, after);
    }

    if (!drop && connect.beganAt(cursor, session, time)) connect.flow = own;
    const ipId = headers.flow.identification(bytes);
    const previous = connect.attempts.length;
    if (!drop || previous === 0) {
      const again = connect.arrive(placeOf(cursor), ipId, previous === 0 ? began : time);
      if (again && previous > 0) this.registry.judge(connect);
    }
    this.adopt(connect, cursor.sock);
    connect.add(cursor, session, time, connect.attemptOf(ipId));
    if (drop) {
      connect.dropped = true;
      this.registry.judge(connect);
    }
  }

  /** A SYN-ACK or RST: both acknowledge the SYN they answer. */
  private answer({ cursor, session, time, point }: Seen, flow: Layer, reset: boolean): void {
    const { bytes } = cursor;
    const isn = (flow.ack(bytes) - 1) >>> 0;
    const asked = flow.reverseKey(bytes);
    let connect = this.byKey.get(keyOf(asked, isn)) ?? this.byKey.get(keyOf(sourceKey(asked), isn));
    const refused = reset && !connect;
    if (refused) connect = this.refusedBy(flow.key(bytes), flow.seq(bytes));
    if (!connect) return;
    connect.add(cursor, session, time);
    if (refused) {
      // The client's own RST: the answer came from an address that it did not call.
      this.registry.judge(connect);
      return;
    }
    if (reset) connect.reset = true;
    // A local socket tells by its state when the answer was taken; without one, the answer is there
    // when it is back where the SYN came from.
    if (
      !reset &&
      connect.sock === 0 &&
      cursor.netns === connect.netns &&
      (asked === connect.flow || cursor.ct !== 0) &&
      point !== Point['packet.drop']
    )
      this.registry.close(connect, time, 'recovered');
  }

  /** The connect whose client refuses an answer: its RST bears the number that was acknowledged. */
  private refusedBy(flow: string, seq: number): Connect | undefined {
    const isn = (seq - 1) >>> 0;
    return this.byKey.get(keyOf(flow, isn)) ?? this.byKey.get(keyOf(sourceKey(flow), isn));
  }

  private begin(isn: number, netns: number, time: number, flow: string): Connect | undefined {
    const connect = new Connect(isn, netns, time, flow);
    return this.registry.begin(connect, this) ? connect : undefined;
  }

  private alias(connect: Connect, key: string): void {
    const other = this.byKey.get(key);
    if (other === connect) return;
    this.byKey.set(key, connect);
    connect.keys.push(key);
    // Behind NAT it was seen first: in another session, or out of order.
    if (other?.keys[0] === key) this.unite(connect, other);
  }

  private unite(whole: Connect, part: Connect): void {
    if (part.sock !== 0) this.bySocket.delete(part.sock);
    if (whole.sock === 0 && part.sock !== 0) this.bySocket.set((whole.sock = part.sock), whole);
    whole.absorb(part);
    for (const key of part.keys) this.alias(whole, key);
    this.registry.unite(whole, part);
  }

  /** Ties the socket that connect() was called on to the exchange of its first SYN. */
  private adopt(connect: Connect, sock: number): void {
    if (sock === 0 || connect.sock !== 0) return;
    const pending = this.pending.get(sock);
    if (!pending) return;
    this.pending.delete(sock);
    connect.sock = sock;
    this.bySocket.set(sock, connect);
    connect.addRecord(pending.record, pending.session, pending.seq);
  }
}

/** Ports come again, and namespaces may share addresses: the sequence number makes a flow a connect. */
function keyOf(tuple: string, isn: number): string {
  return tuple + String.fromCharCode(isn >>> 16, isn & 0xffff);
}
