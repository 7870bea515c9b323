import { isIPv6 } from 'node:net';
import type { SourceNatRule } from '../../event/fact.js';
import { IPPROTO_TCP } from '../../event/headers.js';
import type { Remedy } from '../../explain/finding.js';
import type { Observation } from '../../explain/observation.js';
import { chooseAtRandom, NO_UPGRADE } from '../../explain/source-nat.js';

/**
 * @param rule that chose the port; null where not known
 * @param taken no port was free; else two flows were given one at the same moment
 */
export function remedies(
  rule: Pick<SourceNatRule, 'text' | 'ports'> | null,
  taken: boolean,
  { ct }: Pick<Observation, 'ct'>,
): Remedy[] {
  if (!taken) return [chooseAtRandom(rule), NO_UPGRADE];
  const { protocol, reply } = ct!;
  const tcp = protocol === IPPROTO_TCP;
  const { address, port } = reply.source;
  const family = isIPv6(address) ? '-f ipv6 ' : '';
  return [
    {
      what: 'see who holds the ports to this destination: entries by client',
      command: `conntrack -L ${family}-p ${tcp ? 'tcp' : 'udp'} --reply-src ${address} --reply-port-src ${port} 2>/dev/null | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^src=/) { print $i; break } }' | sort | uniq -c | sort -rn | head`,
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
      what: tcp
        ? 'let the holder use fewer connections at once (keep-alive, a pool), and let conntrack forget dead ones sooner: established ones without traffic stay for 5 days'
        : 'let entries end sooner: an answered UDP flow keeps its port for 120 s, another for 30 s',
      command: tcp
        ? 'sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=86400'
        : 'sysctl -w net.netfilter.nf_conntrack_udp_timeout_stream=60',
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
