/** sysctls that decide what becomes of a packet and how long a client waits (under /proc/sys), and what each decides. */
const SETTINGS: Readonly<Record<string, string>> = {
  'net/core/txrehash': 'a retransmitted SYN takes another hash, and so another outer port',
  'net/core/somaxconn': 'the longest accept queue that listen() may ask for',
  'net/core/rmem_default': 'bytes of a receive buffer, unless the program sets it',
  'net/core/rmem_max': 'bytes that a program may set it to',
  'net/ipv4/tcp_abort_on_overflow': 'a full accept queue resets a finished handshake',
  'net/ipv4/tcp_max_syn_backlog': 'half-open connections, where there are no SYN cookies',
  'net/ipv4/tcp_syncookies': 'a full SYN queue is answered with cookies (1), or drops SYNs (0)',
  'net/ipv4/tcp_syn_retries': 'SYNs after the first',
  'net/ipv4/tcp_synack_retries': 'SYN-ACKs after the first',
  'net/ipv4/tcp_syn_linear_timeouts': 'SYN gaps of 1 s before they double',
  'net/ipv4/ip_local_port_range': 'ports for clients and tunnels',
  'net/ipv4/ip_forward': 'packets of others are forwarded',
  'net/ipv4/conf/all/rp_filter': 'drop what comes from where no route leads (1 strict, 2 loose)',
  'net/ipv4/conf/default/rp_filter': 'the same, for devices to come',
  'net/ipv4/vs/conntrack': 'IPVS connections have conntrack entries',
  'net/ipv6/conf/all/forwarding': 'packets of others are forwarded',
  'net/bridge/bridge-nf-call-iptables': 'bridged packets pass iptables',
  'net/bridge/bridge-nf-call-ip6tables': 'bridged packets pass ip6tables',
  'net/netfilter/nf_conntrack_buckets': 'size of the conntrack table',
  'net/netfilter/nf_conntrack_checksum': 'conntrack verifies checksums',
  'net/netfilter/nf_conntrack_max': 'conntrack entries that fit',
  'net/netfilter/nf_conntrack_tcp_be_liberal': 'out of window TCP is not invalid',
  'net/netfilter/nf_conntrack_tcp_timeout_syn_sent': 's until an unanswered SYN is forgotten',
  'net/netfilter/nf_conntrack_timestamp': 'entries know when they began',
  'net/netfilter/nf_conntrack_udp_timeout':
    's until an unanswered UDP entry (a tunnel) is forgotten',
  'net/netfilter/nf_conntrack_udp_timeout_stream': 's until an answered UDP entry is forgotten',
};

/** What a setting decides, in a few words; '' for others. */
export const meaningOf = (name: string): string => SETTINGS[name.replaceAll('.', '/')] ?? '';

/** Script for readSections: all of them with one child; those that this kernel lacks stay away. */
export const SETTINGS_SCRIPT = `
section settings; cd /proc/sys && grep -s '' ${Object.keys(SETTINGS).join(' ')} /sys/module/nf_nat/parameters/udp_legacy_csum; cd /
`;

/** `net.core.txrehash` → `1`; kernel module parameters as `nf_nat.udp_legacy_csum`. */
export function parseSettings(text: string): Record<string, string> {
  const values: Record<string, string> = {};
  for (const line of text.split('\n')) {
    const colon = line.indexOf(':');
    if (colon < 0) continue;
    const name = line
      .slice(0, colon)
      .replace(/^\/sys\/module\/(\w+)\/parameters\//, '$1/')
      .replaceAll('/', '.');
    values[name] = line
      .slice(colon + 1)
      .trim()
      .replace(/\s+/g, ' ');
  }
  return values;
}
