import { AT, type Cursor } from '../../event/cursor.js';
import { Point } from '../../event/point.js';
import {
  IPPROTO_TCP,
  IPPROTO_UDP,
  reverseKey,
  TCP_RST,
  TCP_SYN,
  tupleKey,
  type Layer,
} from '../../event/headers.js';
import { BoundedMap } from '../bounded-map.js';
import { Exchange } from './exchange.js';
import type { Registry, Seen, Tracker } from './tracker.js';

/** Longer than a first retransmission timeout takes (RTO_MAX aside), ns. */
const PATIENCE = 3e9;
/** A retransmission is late by so much at most, ns. */
const MARGIN = 1e9;
/** How long before a tunnel packet dies the error about it is made, ns. */
const AT_ONCE = 10e6;
/**
 * How late it may be told that a segment was sent again, ns: the processor of a guest may stand still
 * meanwhile. Before a timeout (icsk_retransmits > 0) nothing else was sent for TCP_RTO_MIN, by default
 * 200 ms (include/net/tcp.h); a tail loss probe comes sooner (tcp_schedule_loss_probe: two jiffies).
 */
const LATE = { timeout: 100e6, probe: 10e6 };
const MAX_ERRORS = 256;

/** An ICMP error about a UDP packet, which may turn out to be a tunnel packet that carries a segment. */
interface TunnelError {
  record: Buffer;
  session: number;
  seq: number;
  time: number;
}

/** Data of a connection that does not get through: from its first loss until it moves on. */
class Transfer extends Exchange {
  /** what was seen of the latest attempt */
  private latest = { sent: false, dropped: false };

  constructor(
    /** sequence number of the first segment that is missing */
    public seq: number,
    netns: number,
    startedAt: number,
  ) {
    super('tcp-transfer', seq, netns, startedAt);
    this.attempts.push(attemptAt(startedAt));
  }

  /**
   * The missing segment was sent again, or died. The kernel tells of the sending afterwards
   * (tcp_retransmit_skb), and not at all when the packet died in its own node's output.
   * @param late longer after an attempt began it is another one's, ns
   */
  saw(what: 'sent' | 'dropped', time: number, late = Infinity): void {
    const { latest } = this;
    const began = this.attempts.at(-1)!.startedAt;
    if (latest[what] || time - began > late) {
      this.attempts.push(attemptAt(time));
      latest.sent = latest.dropped = false;
    }
    latest[what] = true;
  }
}

/**
 * Connections that stall after their handshake. Healthy data is not recorded; what is are drops of
 * it and ICMP errors about it (both thinned), retransmissions, and the end of a socket that
 * retransmits. A stall is over when the next retransmission does not come in time: TCP goes on with
 * them until the segment is acknowledged or the socket ends.
 */
export class TcpTransfers implements Tracker {
  private readonly byFlow = new Map<string, Transfer>();
  /** the first one of each moment, by the flow of the packet that it is about */
  private readonly errors = new BoundedMap<string, TunnelError>(MAX_ERRORS);

  constructor(
    private readonly registry: Registry,
    /** a stall of less than this is nothing to look into, ms */
    private readonly slowMs: number,
  ) {}

  /** A drop of data, or an ICMP error about a TCP segment. */
  packet({ cursor, headers, session, time, point, tunnel }: Seen): void {
    const { bytes } = cursor;
    const quoted = headers.quoted.version !== 0;
    const flow = quoted ? headers.quoted : headers.flow;
    if (quoted && flow.protocol === IPPROTO_UDP) this.remember(cursor, flow, session, time);
    if (flow.protocol !== IPPROTO_TCP || flow.l4 < 0) return;
    if (!isData(flow)) return;
    const key = flowOf(flow.key(bytes));
    // The entry of a tunnel packet is that of the tunnel.
    const others =
      tunnel || cursor.ct === 0
        ? []
        : [
            flowOf(tupleKey(bytes, cursor.base + AT.original)),
            flowOf(tupleKey(bytes, cursor.base + AT.reply)),
          ];
    let transfer = this.underWay(key, time);
    for (const other of others) transfer ??= this.underWay(other, time);
    transfer ??= this.begin(flow.seq(bytes), cursor.netns, time);
    if (!transfer) return;
    this.alias(transfer, key);
    for (const other of others) this.alias(transfer, other);
    if (tunnel && point === Point['packet.drop']) {
      const error = this.errors.get(headers.outer.key(bytes));
      if (error && time - error.time < AT_ONCE)
        transfer.addRecord(error.record, error.session, error.seq);
    }
    if (!quoted && flow.seq(bytes) === transfer.seq) transfer.saw('dropped', time);
    transfer.add(cursor, session, time);
    this.judge(transfer);
  }

  /** A segment passed while nothing could tell what became of it. */
  unseen({ cursor, headers, time }: Seen): void {
    if (headers.flow.protocol !== IPPROTO_TCP) return;
    const transfer = this.underWay(flowOf(headers.flow.key(cursor.bytes)), time);
    if (transfer) transfer.unseen++;
  }

  private remember(cursor: Cursor, flow: Layer, session: number, time: number): void {
    const key = flow.key(cursor.bytes);
    const before = this.errors.get(key);
    if (before && time - before.time < AT_ONCE) return;
    const record = Buffer.from(cursor.bytes.subarray(cursor.base, cursor.base + cursor.size));
    this.errors.set(key, { record, session, seq: cursor.seq, time });
  }

  /** tcp.retransmit of a connection that stands. */
  retransmit(cursor: Cursor, session: number, time: number): void {
    const key = flowOf(tupleKey(cursor.bytes, cursor.base + AT['socket.flow']));
    const seq = cursor.u32(AT['socket.seq']);
    const transfer = this.underWay(key, time) ?? this.begin(seq, cursor.netns, time);
    if (!transfer) return;
    this.alias(transfer, key);
    transfer.sock = cursor.sock;
    // The one that is missing is sent again and again; later ones are probes, or holes of their own.
    const missing = ((seq - transfer.seq) | 0) <= 0;
    if (missing) {
      transfer.seq = seq;
      transfer.saw('sent', time, cursor.u32(AT.reason) > 0 ? LATE.timeout : LATE.probe);
    }
    transfer.add(cursor, session, time);
    this.judge(transfer);
  }

  /** socket.state of a socket that had to retransmit: it still waits, or all was acknowledged. */
  socketState(cursor: Cursor, session: number, time: number): void {
    const transfer = this.byFlow.get(
      flowOf(tupleKey(cursor.bytes, cursor.base + AT['socket.flow'])),
    );
    if (!transfer) return;
    transfer.add(cursor, session, time);
    const waits = cursor.u32(AT.reason) > 0;
    if (waits) this.registry.close(transfer, time, 'failed');
    else this.registry.close(transfer, transfer.attempts.at(-1)!.startedAt, 'recovered');
  }

  expire(now: number): void {
    for (const transfer of this.registry.open)
      if (transfer instanceof Transfer) this.closeWhenOver(transfer, now);
  }

  /** The stall of a flow that is not over by then. */
  private underWay(flow: string, time: number): Transfer | undefined {
    const transfer = this.byFlow.get(flow);
    return transfer && !this.closeWhenOver(transfer, time) ? transfer : undefined;
  }

  private closeWhenOver(transfer: Transfer, now: number): boolean {
    const last = transfer.attempts.at(-1)!.startedAt;
    const before = transfer.attempts.at(-2)?.startedAt;
    const patience = before === undefined ? PATIENCE : 2 * (last - before) + MARGIN;
    if (now - Math.max(last, transfer.lastTime) <= patience) return false;
    this.registry.close(transfer, last, 'recovered');
    return true;
  }

  isHealthy(transfer: Exchange): boolean {
    return transfer.delayMs < this.slowMs || transfer.attempts.length < 2;
  }

  forget(transfer: Exchange): void {
    for (const key of transfer.keys) if (this.byFlow.get(key) === transfer) this.byFlow.delete(key);
  }

  private begin(seq: number, netns: number, time: number): Transfer | undefined {
    const transfer = new Transfer(seq, netns, time);
    return this.registry.begin(transfer, this) ? transfer : undefined;
  }

  private alias(transfer: Transfer, key: string): void {
    if (this.byFlow.get(key) === transfer) return;
    this.byFlow.set(key, transfer);
    transfer.keys.push(key);
  }

  private judge(transfer: Transfer): void {
    if (!this.isHealthy(transfer)) this.registry.judge(transfer);
  }
}

const attemptAt = (startedAt: number) => ({ startedAt, message: 0, ipId: 0, places: [] });

function isData({ flags }: Layer): boolean {
  return (flags & (TCP_SYN | TCP_RST)) === 0;
}

/** Both directions of a flow are one. */
function flowOf(tuple: string): string {
  const reverse = reverseKey(tuple);
  return tuple < reverse ? tuple : reverse;
}
