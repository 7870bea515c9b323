import type { Remedy } from '../../explain/finding.js';
import type { Defect } from './diagnosis.js';
import type { SecondSnatRules } from './rules.js';

/** What cures the fault on this node, the surest first; says too what does not. */
export function remedies(
  defect: Defect,
  device: string | null,
  rules: SecondSnatRules | null,
): Remedy[] {
  const tunnel = device ?? '<vxlan device>';
  const list: Remedy[] = [];
  if (rules?.masqueradeFirst)
    list.push({
      what:
        `upgrading Kubernetes is not enough here: its rules already clear the mark, but another rule masquerades the inner packet before that chain is reached (${rules.inner?.text ?? 'a rule before it'}). ` +
        'Move that rule behind the chain that clears the mark, or upgrade the CNI that makes it',
      command: null,
      source:
        'order of nat/POSTROUTING on this node; flannel from 0.20.2 keeps its rules in a chain of its own',
    });
  else
    list.push({
      what: 'clear the mark before masquerading, as kube-proxy does from 1.16.13, 1.17.9 and 1.18.6 on (xor-mark): the outer packet then bears no mark. Upgrading Kubernetes is enough here; it cures both defects',
      command: null,
      source: 'kubernetes PR 92035',
    });
  list.push({
    what: `let tunnel packets pass nat/POSTROUTING untouched (until the rules above are mended)`,
    command: 'iptables -t nat -I POSTROUTING -p udp --dport <tunnel port> -j ACCEPT',
    source: 'the second SNAT is what spoils the checksum',
  });
  list.push({
    what: 'or turn checksum offload of the tunnel off on this node: the checksum is then finished before NAT, which keeps it right (costs CPU)',
    command: `ethtool -K ${tunnel} tx-checksum-ip-generic off`,
    source:
      'udp_manip_pkt updates the checksum when ip_summed is not CHECKSUM_PARTIAL; Calico from 3.20 on did so by default',
  });
  list.push(
    defect === 'legacy-zero-checksum'
      ? {
          what: 'upgrading the kernel is enough here: from 5.7 (stable 5.6.13, 5.4.41, 4.19.123, 4.14.181) NAT leaves a checksum of 0 alone',
          command: null,
          source:
            'kernel commit ea64d8d6c675, netfilter: nat: never update the UDP checksum when it’s 0',
        }
      : {
          what: 'upgrading the kernel is not enough here: this form (tunnel with outer checksums) is still there in 6.18',
          command: null,
          source: 'measured on 6.1.192 and 6.18.44; udp_manip_pkt, net/netfilter/nf_nat_proto.c',
        },
  );
  return list;
}
