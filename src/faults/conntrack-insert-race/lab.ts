import { BACKENDS, createDnsNode, dnsLab, REPEAT_AFTER, TIMEOUT } from '../../lab/dns-node.js';
import { defineLab } from '../../lab/lab.js';
import { provokeClash, TRIES } from '../../lab/race.js';
import { build } from '../../lab/topology.js';
import { twoNodes } from './two-nodes.js';

/**
 * A pod sends A and AAAA from one socket on two CPUs: two packets of one flow, neither of which finds an
 * entry, make one each. What becomes of the second one is the kernel's: from 5.7 on the two are merged
 * or both kept, and nothing is lost; before, the packet is dropped. With two nodes the pod sends them
 * one after another, and they clash on the other node.
 */
export const lab = defineLab({
  name: 'conntrack-insert-race',
  title:
    'A and AAAA clash in conntrack, and the kernel merges their entries, keeps both or drops a query',
  settings: [
    {
      key: 'nodes',
      kind: 'number',
      default: 1,
      range: [1, 2],
      help: 'with 2, the DNS server is a pod behind a bridge of another node, at the other end of a tunnel, and that is where the queries clash; of the other settings only tries counts then',
    },
    {
      key: 'backends',
      kind: 'number',
      default: 1,
      range: [1, 2],
      help: 'pods behind the DNS Service; with 2, the two queries are translated differently',
    },
    {
      key: 'masquerade',
      kind: 'boolean',
      default: true,
      help: 'the queries are masqueraded',
    },
    REPEAT_AFTER,
    TRIES,
    {
      key: 'clashes',
      kind: 'number',
      default: 1,
      range: [1, 10000],
      help: 'how many clashes conntrack must have counted until the lab is over',
    },
    TIMEOUT,
  ],
  async up({ nodes, backends, masquerade, clashes, ...race }, signal) {
    if (nodes === 2) return build(twoNodes(race.tries), signal);
    const namespaces = await createDnsNode(
      {
        pods: 1,
        backends: backends === 2 ? 2 : 1,
        delayMs: 0,
        rules: masquerade
          ? BACKENDS.map((address) => `-A POSTROUTING -d ${address}/32 -p udp -m udp -j MASQUERADE`)
          : [],
      },
      signal,
    );
    return dnsLab(namespaces, (runSignal) =>
      provokeClash(
        namespaces,
        { ...race, counters: ['clash_resolve', 'drop'], times: clashes },
        runSignal,
      ),
    );
  },
});
