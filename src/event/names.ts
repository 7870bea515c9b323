/** What the kernel calls the numbers of an event. The index is the number. */

/** enum nf_inet_hooks, include/uapi/linux/netfilter.h */
export const HOOKS = ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'] as const;

/** The hook of an event that was seen at none. */
export const NO_HOOK = 255;

/**
 * Bits of enum ip_conntrack_status, include/uapi/linux/netfilter/nf_conntrack_common.h, without
 * their prefix IPS_.
 */
export const CONNTRACK_STATUS = [
  'EXPECTED',
  'SEEN_REPLY',
  'ASSURED',
  'CONFIRMED',
  'SRC_NAT',
  'DST_NAT',
  'SEQ_ADJUST',
  'SRC_NAT_DONE',
  'DST_NAT_DONE',
  'DYING',
  'FIXED_TIMEOUT',
  'TEMPLATE',
  'NAT_CLASH',
  'HELPER',
  'OFFLOAD',
  'HW_OFFLOAD',
] as const;

/** enum ip_conntrack_info, include/uapi/linux/netfilter/nf_conntrack_common.h, without IP_CT_ */
export const CONNTRACK_INFO = [
  'ESTABLISHED',
  'RELATED',
  'NEW',
  'ESTABLISHED_REPLY',
  'RELATED_REPLY',
] as const;

/** Checksum states of ip_summed, include/linux/skbuff.h, without CHECKSUM_ */
export const IP_SUMMED = ['NONE', 'UNNECESSARY', 'COMPLETE', 'PARTIAL'] as const;

/** include/net/tcp_states.h, without TCP_; 0 is none */
export const TCP_STATES = [
  '',
  'ESTABLISHED',
  'SYN_SENT',
  'SYN_RECV',
  'FIN_WAIT1',
  'FIN_WAIT2',
  'TIME_WAIT',
  'CLOSE',
  'CLOSE_WAIT',
  'LAST_ACK',
  'LISTEN',
  'CLOSING',
  'NEW_SYN_RECV',
] as const;

/** Bits of the TCP flags, RFC 9293, section 3.1 */
export const TCP_FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'] as const;

/** Bits of `enum event_flag` (bpf/event.h) */
export const EVENT_FLAGS = [
  'L4_HASH',
  'SW_HASH',
  'ENCAPSULATION',
  'FOLLOWED',
  'UNREADABLE',
  'TUNNEL',
  'THINNED',
  'SKIPPED',
] as const;

/** The names of the bits set in `value`; a bit without a name is left out. */
export function bitNames<Name extends string>(names: readonly Name[], value: number): Name[] {
  return names.filter((_, bit) => (value & (1 << bit)) !== 0);
}
