import { BACKENDS, createDnsNode, dnsLab, REPEAT_AFTER, TIMEOUT } from '../../lab/dns-node.js';
import { defineLab } from '../../lab/lab.js';
import { provokeClash, TRIES } from '../../lab/race.js';

/**
 * A pod sends A and AAAA from one socket on two CPUs; the DNS Service has two backends, and each query
 * is translated to another one. The entry of the loser lives for a second, and its answer takes longer.
 */
export const lab = defineLab({
  name: 'conntrack-late-answer',
  title:
    'A and AAAA clash in conntrack, and the answer to one comes after the second its entry lives',
  settings: [
    {
      key: 'delay',
      kind: 'number',
      unit: 's',
      fraction: true,
      default: 1.3,
      range: [0.01, 30],
      help: 'how long the server takes for the answers to a lookup whose queries went to two backends',
    },
    {
      key: 'masquerade',
      kind: 'boolean',
      default: true,
      help: 'the queries are masqueraded: late answers end on the node, else they reach the client from the backend’s own address',
    },
    REPEAT_AFTER,
    TRIES,
    TIMEOUT,
  ],
  async up({ delay, masquerade, ...race }, signal) {
    const namespaces = await createDnsNode(
      {
        pods: 1,
        backends: 2,
        delayMs: delay * 1000,
        delayed: 'divided',
        rules: masquerade
          ? BACKENDS.map((address) => `-A POSTROUTING -d ${address}/32 -p udp -m udp -j MASQUERADE`)
          : [],
      },
      signal,
    );
    return dnsLab(namespaces, (runSignal) =>
      provokeClash(namespaces, { ...race, counters: ['clash_resolve'] }, runSignal),
    );
  },
});
