import {
  BACKENDS,
  createDnsNode,
  dnsLab,
  REPEAT_AFTER,
  SERVICE,
  TIMEOUT,
} from '../../lab/dns-node.js';
import { defineLab } from '../../lab/lab.js';
import { LATE_RULES, provokeLookupCollision, RANDOM_FULLY, TRIES } from '../../lab/race.js';

/**
 * Two pods ask the cluster's DNS Service from the same source port at the same moment; the node
 * translates both to one backend and masquerades them.
 */
export const lab = defineLab({
  name: 'conntrack-reply-collision',
  title: 'two clients with one source port, masqueraded to the same tuple: one query is dropped',
  settings: [RANDOM_FULLY, LATE_RULES, REPEAT_AFTER, TRIES, TIMEOUT],
  async up({ randomFully, lateRules, ...race }, signal) {
    const masquerade = randomFully ? 'MASQUERADE --random-fully' : 'MASQUERADE';
    const namespaces = await createDnsNode(
      {
        pods: 2,
        backends: 1,
        delayMs: 0,
        lateRules,
        rules: [`-A POSTROUTING -d ${BACKENDS[0]}/32 -p udp -m udp -j ${masquerade}`],
      },
      signal,
    );
    return dnsLab(namespaces, (runSignal) =>
      provokeLookupCollision(namespaces, { ...race, server: SERVICE }, runSignal),
    );
  },
});
