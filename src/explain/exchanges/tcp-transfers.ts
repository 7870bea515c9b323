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
import { Exchange, MAX_ATTEMPTS } from './exchange.js';
import type { Registry, Seen, Tracker } from './tracker.js';

/** Longer than a first retransmission timeout takes (RTO_MAX aside), ns. */
const PATIENCE = 3e9;
/** The shortest retransmission timeout, and the longest (TCP_RTO_MIN, TCP_RTO_MAX, include/net/tcp.h), ns. */
const RTO = { min: 0.2e9, max: 120e9 };
/** How long the kernel may still repeat what nobody waits for (tcp_orphan_retries), ns. */
const ORPHANED = 120e9;
/** Connections that were given up, remembered. */
const MAX_ORPHANS = 4096;
/** Sequence numbers further behind are ahead: no window is as wide (RFC 7323, 2.3). */
const WINDOW = 1 << 30;
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
  /** an event told of a loss on its way: a drop, an ICMP error */
  lossSeen = false;
  /** timeouts before the latest that was seen (icsk_retransmits) */
  timeouts = 0;
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

  /** Until it was over, or as long as it was seen to last: what is sent besides says nothing. */
  override get delayMs(): number {
    return ((this.endedAt || this.attempts.at(-1)!.startedAt) - this.startedAt) / 1e6;
  }

  /** How long it may be until the missing segment is sent again, ns. */
  get patience(): number {
    const last = this.attempts.at(-1)!.startedAt;
    const before = this.attempts.at(-2)?.startedAt;
    if (before !== undefined) return 2 * (last - before) + MARGIN;
    return Math.max(PATIENCE, Math.min(RTO.min * 2 ** (this.timeouts + 2), 2 * RTO.max) + MARGIN);
  }

  /**
   * The missing segment was sent again, or died. The kernel tells of the sending afterwards
   * (tcp_retransmit_skb), and not at all when the packet died in its own node's output.
   * @param late longer after an attempt began it is another one's, ns
   */
  saw(what: 'sent' | 'dropped', time: number, late = Infinity): void {
    const { latest } = this;
    const began = this.attempts.at(-1)!.startedAt;
    if ((latest[what] || time - began > late) && this.attempts.length < MAX_ATTEMPTS) {
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
  /** by flow: given up by its process, until when */
  private readonly orphans = new BoundedMap<string, number>(MAX_ORPHANS);

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
    transfer ??= this.begin(key, flow.seq(bytes), cursor.netns, time);
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
    transfer.lossSeen = true;
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
    let transfer = this.underWay(key, time);
    // a FIN alone: nobody waits for it
    if (!transfer && cursor.u32(AT.length) === 0) return;
    transfer ??= this.begin(key, seq, cursor.netns, time);
    if (!transfer) return;
    this.alias(transfer, key);
    // The one that is missing is sent again and again; later ones are probes, or holes of their own.
    // What the other end sends has numbers of its own.
    transfer.sock ||= cursor.sock;
    const behind = (transfer.seq - seq) | 0;
    if (transfer.sock === cursor.sock && behind >= 0 && behind < WINDOW) {
      const timeouts = cursor.u32(AT.reason);
      transfer.seq = seq;
      transfer.timeouts = timeouts;
      transfer.saw('sent', time, timeouts > 0 ? LATE.timeout : LATE.probe);
    }
    transfer.add(cursor, session, time);
    if (transfer.lossSeen) this.judge(transfer);
  }

  /** socket.state of a socket that had to retransmit: it still waits, or all was acknowledged. */
  socketState(cursor: Cursor, session: number, time: number): void {
    const key = flowOf(tupleKey(cursor.bytes, cursor.base + AT['socket.flow']));
    const transfer = this.byFlow.get(key);
    if (!transfer) return;
    transfer.add(cursor, session, time);
    const waits = cursor.u32(AT.reason) > 0;
    if (waits) {
      this.orphans.set(key, time + ORPHANED);
      this.registry.close(transfer, time, 'failed');
    } else this.registry.close(transfer, transfer.attempts.at(-1)!.startedAt, 'recovered');
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
    if (now - last <= transfer.patience) return false;
    this.registry.close(transfer, last, 'recovered');
    return true;
  }

  isHealthy(exchange: Exchange): boolean {
    const transfer = exchange as Transfer;
    const { attempts, outcome, timeouts } = transfer;
    const repeated = attempts.length > 1 || (outcome === 'failed' && timeouts > 1);
    return transfer.delayMs < this.slowMs || !repeated;
  }

  forget(transfer: Exchange): void {
    for (const key of transfer.keys) if (this.byFlow.get(key) === transfer) this.byFlow.delete(key);
  }

  private begin(flow: string, seq: number, netns: number, time: number): Transfer | undefined {
    if ((this.orphans.get(flow) ?? -Infinity) > time) return undefined;
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
