import type { Remedy } from '../../explain/finding.js';
import type { Way } from './way.js';

/** @param node namespace that translates the request, null where not known */
export function remedies(way: Way, node: string | null): Remedy[] {
  const where = node ?? 'the node';
  switch (way) {
    case 'bridged':
      return [
        {
          what: `let bridged packets pass conntrack on ${where} (module br_netfilter must be loaded)`,
          command: 'sysctl -w net.bridge.bridge-nf-call-iptables=1',
          source:
            'Kubernetes, container runtimes: forwarding IPv4 and letting iptables see bridged traffic',
        },
        {
          what: 'or masquerade what a pod sends to a Service whose backend is on the same bridge, so that the answer must come back to the node',
          command: null,
          source: 'kube-proxy --masquerade-all',
        },
      ];
    case 'another-way':
      return [
        {
          what: `let the backend’s answers go back through ${where}: look at its routes and at the rules that choose among them`,
          command: 'ip route get CLIENT from BACKEND',
          source: 'conntrack translates what passes it',
        },
        {
          what: `or masquerade the request on ${where}, so that the backend answers to it`,
          command: null,
          source: 'externalTrafficPolicy: Cluster does so for NodePorts',
        },
      ];
    case 'not-tracked':
      return [
        {
          what: `look for NOTRACK rules and for what conntrack calls INVALID on ${where}`,
          command:
            'conntrack -S; sysctl net.netfilter.nf_conntrack_log_invalid; iptables-save -t raw',
          source: 'nf_conntrack_in, net/netfilter/nf_conntrack_core.c',
        },
      ];
    case 'unknown':
      return [
        {
          what: 'trace the node that translates, too',
          command: 'skbwhy record FILE',
          source: 'the confidence of this finding',
        },
      ];
  }
}
