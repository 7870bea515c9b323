import type { NatRule, SnatPath } from '../../event/fact.js';
import type { Remedy } from '../../explain/finding.js';
import type { Defect } from './defect.js';

/**
 * What cures the fault on the sending node, the surest first; says too what does not.
 * @param tunnel its device there, null where not known, its UDP port, and the family of its packets
 * @param path the way through the node's rules, null where not known
 * @param anyMark the second SNAT meets marked and unmarked packets; null: not known
 */
export function remedies(
  defect: Defect,
  tunnel: { device: string | null; port: number | null; outerFamily: 'ip' | 'ip6' },
  path: SnatPath | null,
  anyMark: boolean | null = path?.mark === 0,
): Remedy[] {
  const device = tunnel.device ?? '<tunnel device>';
  const port = tunnel.port ?? '<tunnel port>';
  const iptables = tunnel.outerFamily === 'ip6' ? 'ip6tables' : 'iptables';
  return [
    ...(anyMark === null ? [] : [rulesRemedy(path, port, anyMark)]),
    {
      what: 'until the rules are mended: let the tunnel’s packets pass nat/POSTROUTING untouched',
      command: `${iptables} -t nat -I POSTROUTING -p udp --dport ${port} -j ACCEPT`,
      source: 'the second SNAT is what spoils the checksum',
    },
    {
      what: 'or turn checksum offload of the tunnel off on this node: checksums are then finished before NAT, which keeps them right (costs CPU)',
      command: `ethtool -K ${device} tx-checksum-ip-generic off`,
      source:
        'udp_manip_pkt updates the checksum when ip_summed is not CHECKSUM_PARTIAL; Calico from 3.20 on did so by default',
    },
    defect === 'legacy-zero-checksum'
      ? {
          what: 'upgrading the kernel is enough here: from 5.7 (stable 5.6.13, 5.4.41, 4.19.123, 4.14.181) on NAT leaves a checksum of 0 alone',
          command: null,
          source:
            'kernel commit ea64d8d6c675, netfilter: nat: never update the UDP checksum when it’s 0',
        }
      : {
          what: 'upgrading the kernel is not enough here: this form (a tunnel with outer checksums) is still there in 6.18',
          command: null,
          source: 'measured on 6.1.192 and 6.18.44; udp_manip_pkt, net/netfilter/nf_nat_proto.c',
        },
  ];
}

function rulesRemedy(path: SnatPath | null, port: number | string, anyMark: boolean): Remedy {
  if (anyMark)
    return {
      what: `upgrading Kubernetes is not enough here: except the tunnel’s packets (udp port ${port}) from the rule that source-NATs them without asking for a mark${path ? `: ${quoteRule(path.second)}` : ' (iptables-save -t nat, nft list ruleset)'}`,
      command: null,
      source: 'order of nat/POSTROUTING on this node',
    };
  if (path && !path.curedByClearing)
    return {
      what: path.first
        ? `upgrading Kubernetes is not enough here: ${quoteRule(path.first)} masquerades the inner packet before the chain that clears the mark is reached. Move it behind that chain, or upgrade the CNI that makes it`
        : 'upgrading Kubernetes is not enough here: the inner packet leaves nat/POSTROUTING before the chain that clears the mark is reached, without being masqueraded. Move the rule that lets it go behind that chain, or upgrade the CNI that makes it',
      command: null,
      source:
        'order of nat/POSTROUTING on this node; flannel from 0.20.2 on keeps its rules in a chain of its own',
    };
  return {
    what: `clear the mark before masquerading, as kube-proxy does from 1.16.13, 1.17.9 and 1.18.6 on: the outer packet then bears none. It cures both forms of the defect${path ? '; upgrading Kubernetes is enough here' : ''}`,
    command: null,
    source: 'kubernetes PR 92035 (xor-mark)',
  };
}

/** A rule as its own tool prints it, with where it stands when that does not show. */
export function quoteRule(rule: NatRule): string {
  return rule.backend === 'nft'
    ? `\`${rule.text}\` (nft ${rule.family} ${rule.table} ${rule.chain}, handle ${rule.handle})`
    : `\`${rule.text}\``;
}
