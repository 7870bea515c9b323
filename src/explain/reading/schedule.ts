/**
 * When Linux retransmits a SYN, and when a retransmission escapes from a conntrack entry.
 */

/** TCP_TIMEOUT_INIT, include/net/tcp.h: the first retransmission timeout of a SYN. */
const INITIAL_RTO_MS = 1000;
/** TCP_RTO_MAX */
const MAX_RTO_MS = 120_000;

/**
 * Gaps before each retransmission of a SYN, ms: the timeout doubles once more than
 * `linearTimeouts` have passed, and there are `retries` + `linearTimeouts` retransmissions
 * (tcp_retransmit_timer and tcp_write_timeout, net/ipv4/tcp_timer.c, 6.5 on; before, and with
 * tcp_syn_linear_timeouts = 0, it doubles from the start).
 */
export function synGaps(retries: number, linearTimeouts: number): number[] {
  const gaps: number[] = [];
  let rto = INITIAL_RTO_MS;
  for (let i = 0; i < retries + linearTimeouts; i++) {
    gaps.push(rto);
    if (i >= linearTimeouts) rto = Math.min(rto * 2, MAX_RTO_MS);
  }
  return gaps;
}

/**
 * When a SYN whose first copy met a poisoned outer conntrack entry gets through, ms after it.
 *
 * A retransmission with a new hash has another outer source port, so another entry; those before it
 * refresh the entry's timeout each, and the first one whose preceding gap reaches it finds the entry
 * gone.
 *
 * @param gapsMs gaps before each retransmission
 * @param rehashFrom the first retransmission whose hash is new, from 1; Infinity: none
 * @param udpTimeoutMs net.netfilter.nf_conntrack_udp_timeout
 */
export function predictRecovery(
  gapsMs: readonly number[],
  rehashFrom: number,
  udpTimeoutMs: number,
): number | 'never' {
  let at = 0;
  for (const [i, gap] of gapsMs.entries()) {
    at += gap;
    if (i + 1 >= rehashFrom || gap >= udpTimeoutMs) return at;
  }
  return 'never';
}
