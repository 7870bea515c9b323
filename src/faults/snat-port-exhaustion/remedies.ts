import { isIPv6 } from 'node:net';
import type { SourceNatRule } from '../../event/fact.js';
import { IPPROTO_UDP } from '../../event/headers.js';
import type { Remedy } from '../../explain/finding.js';
import type { Conntrack, Observation } from '../../explain/exchanges/observation.js';
import { chooseAtRandom, NO_UPGRADE } from '../../explain/reading/source-nat.js';

/**
 * @param rule that chooses the port; null where not known
 * @param taken no port is free; else two flows are given one at the same moment
 * @param drop the packet that died of it, if one did
 */
export function remedies(
  rule: Pick<SourceNatRule, 'text' | 'ports'> | null,
  taken: boolean,
  drop: Pick<Observation, 'ct'> | null,
): Remedy[] {
  if (!taken) return [chooseAtRandom(rule), NO_UPGRADE];
  const ct = drop?.ct ?? null;
  const udp = ct?.protocol === IPPROTO_UDP;
  return [
    {
      what: `see who holds the ports${ct ? ' to this destination' : ''}: entries by client`,
      command: `conntrack -L ${ct ? selecting(ct) : '--src-nat'} 2>/dev/null | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^src=/) { print $i; break } }' | sort | uniq -c | sort -rn | head`,
      source: 'conntrack(8): the first src= of an entry is its client’s',
    },
    ...(rule?.ports
      ? [
          {
            what: `let the rule choose from more ports: \`${rule.text}\` leaves ${rule.ports[1] - rule.ports[0] + 1}`,
            command: null,
            source: 'iptables-extensions(8), MASQUERADE and SNAT; nft(8), NAT statements',
          },
        ]
      : []),
    {
      what: 'translate to more source addresses (SNAT to a range of them): each has all the ports again, and so has each other destination address and port',
      command: null,
      source: 'a tuple is taken as a whole: nf_nat_used_tuple, net/netfilter/nf_nat_core.c',
    },
    {
      what: udp
        ? 'let entries end sooner: a UDP flow that lasts keeps its port for 120 s after its last packet, another for 30 s'
        : 'let the holder use fewer connections at once (keep-alive, a pool), and let conntrack forget dead ones sooner: established ones without traffic stay for 5 days, ended ones keep their port for 120 s (nf_conntrack_tcp_timeout_time_wait), but for a SYN whose sequence number is ahead',
      command: udp
        ? 'sysctl -w net.netfilter.nf_conntrack_udp_timeout_stream=60'
        : 'sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=86400',
      source: 'Documentation/networking/nf_conntrack-sysctl.rst',
    },
    {
      what: 'choosing at random (--random-fully) is no cure here: it makes no more ports',
      command: null,
      source: 'the tuple was taken by an entry that was in the table already',
    },
    NO_UPGRADE,
  ];
}

/** Options of conntrack(8) for the entries that lead where this one does. */
function selecting({ protocol, reply }: Conntrack): string {
  const { address, port } = reply.source;
  const family = isIPv6(address) ? '-f ipv6 ' : '';
  return `${family}-p ${protocol === IPPROTO_UDP ? 'udp' : 'tcp'} --reply-src ${address} --reply-port-src ${port}`;
}
