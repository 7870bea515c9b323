/**
 * The counters that tell of a packet's loss, or of what leads to one, and what they mean. A counters
 * fact has many more.
 */
export interface CounterMeaning {
  /** what was counted, in a few words */
  meaning: string;
  /** packets were lost: more than 0 calls for attention */
  loss: boolean;
}

const lost = (meaning: string): CounterMeaning => ({ meaning, loss: true });
const told = (meaning: string): CounterMeaning => ({ meaning, loss: false });

/**
 * By name as in counters facts; conntrack's are the columns of /proc/net/stat/nf_conntrack
 * (ct_cpu_seq_show, net/netfilter/nf_conntrack_standalone.c). `clashres` is what `conntrack -S` calls
 * clash_resolve (kernel 5.10, "add clash resolution stat counter"); kernels from 4.7 (71d8c47fc653) to 5.9 count resolved
 * clashes as insert_failed.
 */
const MEANINGS: Readonly<Record<string, CounterMeaning>> = {
  'conntrack.drop': lost(
    'packets dropped: the table was full, or two entries clashed and it could not be resolved',
  ),
  'conntrack.early_drop': lost('entries that had to go early: the table was full'),
  'conntrack.chaintoolong': lost('entries refused: a bucket of the hash table was overfull'),
  'conntrack.insert_failed': told(
    'entries not inserted; before 5.10 resolved clashes count too, so ‘drop’ is what counts',
  ),
  'conntrack.clashres': told(
    'clashes that were resolved (clash_resolve): harmless, unless the answer takes more than 1 s',
  ),
  'conntrack.invalid': told('packets that fit no entry: NAT leaves them as they are'),
  'conntrack.search_restart': told('searches begun anew while the table changed: harmless'),
  'conntrack.icmp_error': told('ICMP errors that belong to no entry'),

  'Ip.InDiscards': lost('received and discarded, for want of memory or by a program'),
  'Ip.InCsumErrors': lost('a wrong IP header checksum'),
  'Ip.OutDiscards': lost('to be sent and discarded'),
  'Ip.OutNoRoutes': lost('no route'),
  'Ip.InAddrErrors': lost('for an address that is not ours to take or to forward'),
  'Ip.FragFails': lost('too large for the device, and not to be fragmented'),
  'Ip.ReasmFails': lost('fragments that gave no packet'),
  'IpExt.InNoRoutes': lost('received for where no route leads'),
  'IpExt.InCsumErrors': lost('a wrong IP header checksum'),
  'Ip6.InDiscards': lost('received and discarded, for want of memory or by a program'),
  'Ip6.OutDiscards': lost('to be sent and discarded'),
  'Ip6.OutNoRoutes': lost('no route'),
  'Ip6.InTooBigErrors': lost('too large for the device'),
  'Ip6.ReasmFails': lost('fragments that gave no packet'),
  'Icmp.InDestUnreachs': told('ICMP: destination unreachable, or fragmentation needed, received'),
  'Icmp.OutDestUnreachs': told('ICMP: destination unreachable, or fragmentation needed, sent'),
  'Icmp6.InDestUnreachs': told('ICMPv6: destination unreachable, received'),
  'Icmp6.OutDestUnreachs': told('ICMPv6: destination unreachable, sent'),
  'Icmp6.InPktTooBigs': told('ICMPv6: packet too big, received'),
  'Icmp6.OutPktTooBigs': told('ICMPv6: packet too big, sent'),

  'Udp.NoPorts': told('UDP to a port without a socket'),
  'Udp.RcvbufErrors': lost('UDP: the socket’s receive buffer was full'),
  'Udp.SndbufErrors': lost('UDP: the socket’s send buffer was full'),
  'Udp.InCsumErrors': lost('UDP: a wrong checksum'),
  'Udp.MemErrors': lost('UDP: net.ipv4.udp_mem was used up'),
  'Udp6.NoPorts': told('UDP over IPv6 to a port without a socket'),
  'Udp6.RcvbufErrors': lost('UDP over IPv6: the socket’s receive buffer was full'),
  'Udp6.SndbufErrors': lost('UDP over IPv6: the socket’s send buffer was full'),
  'Udp6.InCsumErrors': lost('UDP over IPv6: a wrong checksum'),
  'Tcp.InCsumErrors': lost('TCP: a wrong checksum'),
  'TcpExt.ListenOverflows': lost('TCP: the accept queue of a listening socket was full'),
  'TcpExt.ListenDrops': lost('TCP: SYNs dropped by a listening socket'),
  'TcpExt.TCPReqQFullDrop': lost('TCP: the SYN queue was full, without SYN cookies'),
  'TcpExt.TCPReqQFullDoCookies': told('TCP: the SYN queue was full, answered with SYN cookies'),
  'TcpExt.TCPBacklogDrop': lost('TCP: the backlog of a busy socket was full'),
  'TcpExt.TCPRcvQDrop': lost('TCP: the socket’s receive buffer was full'),
  'TcpExt.TCPZeroWindowDrop': lost('TCP: data beyond a closed window'),
  'TcpExt.IPReversePathFilter': lost('dropped by rp_filter'),
  'TcpExt.PFMemallocDrop': lost('dropped to keep memory for swapping'),

  'softnet.dropped': lost('a CPU’s backlog (net.core.netdev_max_backlog) was full'),
};

/** dev_seq_printf_stats, net/core/net-procfs.c: `drop` is rx_dropped + rx_missed_errors. */
const OF_DEVICE: Readonly<Record<string, CounterMeaning>> = {
  rx_errors: lost('damaged, on arrival'),
  rx_drop: told('not taken on arrival, or of a protocol that nobody wants'),
  tx_errors: lost('could not be sent'),
  tx_drop: lost('dropped by the device when it was to be sent'),
};

/** Conntrack's own, the most telling first. */
export const CONNTRACK_COUNTERS: readonly string[] = Object.keys(MEANINGS).filter((name) =>
  name.startsWith('conntrack.'),
);

/** What a counter means; null for those that tell nothing of a loss. */
export function counterMeaning(name: string): CounterMeaning | null {
  const device = /^device\..+\.(\w+)$/.exec(name)?.[1];
  return (device === undefined ? MEANINGS[name] : OF_DEVICE[device]) ?? null;
}

/** softnet's are counted by CPU: every namespace shows the same. */
export const isNodeWide = (name: string): boolean => name.startsWith('softnet.');
