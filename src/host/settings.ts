/** sysctls that decide what becomes of a packet and how long a client waits; patterns under /proc/sys. */
const SETTINGS = [
  'net/core/txrehash',
  'net/ipv4/tcp_syn_retries',
  'net/ipv4/tcp_synack_retries',
  'net/ipv4/tcp_syn_linear_timeouts',
  'net/ipv4/ip_local_port_range',
  'net/ipv4/ip_forward',
  'net/ipv4/conf/all/rp_filter',
  'net/ipv4/conf/default/rp_filter',
  'net/ipv4/vs/conntrack',
  'net/ipv6/conf/all/forwarding',
  'net/bridge/bridge-nf-call-iptables',
  'net/bridge/bridge-nf-call-ip6tables',
  'net/netfilter/nf_conntrack_buckets',
  'net/netfilter/nf_conntrack_checksum',
  'net/netfilter/nf_conntrack_max',
  'net/netfilter/nf_conntrack_tcp_be_liberal',
  'net/netfilter/nf_conntrack_tcp_timeout_syn_sent',
  'net/netfilter/nf_conntrack_timestamp',
  'net/netfilter/nf_conntrack_udp_timeout',
  'net/netfilter/nf_conntrack_udp_timeout_stream',
];

/** Script for readSections: all of them with one child; those that this kernel lacks stay away. */
export const SETTINGS_SCRIPT = `
section settings; cd /proc/sys && grep -s '' ${SETTINGS.join(' ')} /sys/module/nf_nat/parameters/udp_legacy_csum; cd /
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
