import type { Remedy } from '../../explain/finding.js';

/** @param room how many entries fit now; null where not known */
export function remedies(room: number | null): Remedy[] {
  return [
    {
      what: 'see who fills the table: entries by source address',
      command:
        "conntrack -L 2>/dev/null | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^src=/) { print $i; break } }' | sort | uniq -c | sort -rn | head",
      source: 'conntrack(8): the first src= of an entry is its client’s',
    },
    {
      what: 'give the table more room (and its hash as many buckets); an entry takes some 300 bytes. The limit is one for all network namespaces, the count is each one’s own; kube-proxy sets it from --conntrack-max-per-core and --conntrack-min',
      command: `sysctl -w net.netfilter.nf_conntrack_max=${room === null ? '<twice as many>' : 2 * room}`,
      source: 'Documentation/networking/nf_conntrack-sysctl.rst',
    },
    {
      what: 'let entries of finished connections end sooner: nf_conntrack_tcp_timeout_time_wait, _close_wait, _established (5 days)',
      command: 'sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=86400',
      source: 'Documentation/networking/nf_conntrack-sysctl.rst',
    },
    {
      what: 'keep traffic that needs no NAT out of the table (NOTRACK), DNS to a cache on the node first',
      command: null,
      source: 'an untracked packet makes no entry',
    },
  ];
}
