import type { Remedy } from '../../explain/finding.js';
import { chooseAtRandom, NO_UPGRADE } from '../../explain/reading/source-nat.js';

/**
 * What keeps lookups of two clients from being translated to one tuple.
 * @param rule that masquerades them; null where not known
 */
export function remedies(rule: { text: string } | null): Remedy[] {
  return [
    chooseAtRandom(rule),
    {
      what: 'or keep DNS away from conntrack: a cache on each node whose traffic is not tracked (NodeLocal DNSCache, NOTRACK)',
      command: null,
      source: 'an untracked packet makes no entry',
    },
    {
      what: 'single-request-reopen is no cure here (two clients collide, not two queries of one), nor is an option for musl, which ignores it',
      command: null,
      source: 'the finding names two clients',
    },
    NO_UPGRADE,
  ];
}
