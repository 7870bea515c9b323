import type { RulesFact } from '../../event/fact.js';
import type { Remedy, Subject } from '../../explain/finding.js';

/**
 * What keeps two flows from being translated to one tuple.
 * @param rules of the node that dropped; null where not known
 * @param race whether the two were made at the same moment
 */
export function remedies(rules: RulesFact | null, kind: Subject['kind'], race: boolean): Remedy[] {
  const rule = rules?.masquerade.find(({ randomFully }) => !randomFully);
  const random: Remedy = {
    what:
      'let masquerading choose ports at random, so that two flows hardly ever choose the same: --random-fully (nft: fully-random)' +
      (rule ? `; the rule that does not is \`${rule.text}\`` : ''),
    command: null,
    source:
      'nf_nat_l4proto_unique_tuple, net/netfilter/nf_nat_core.c; measured: the collisions are gone with it',
  };
  const dns: Remedy[] =
    kind === 'dns-lookup'
      ? [
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
        ]
      : [];
  return [
    ...(race
      ? [random]
      : [
          {
            what: 'give NAT more tuples: more source addresses (SNAT to a range), a wider port range, or shorter timeouts for the entries that hold them',
            command: null,
            source: 'the tuple was taken by an entry that was in the table already',
          },
        ]),
    ...dns,
    {
      what: 'upgrading the kernel is not enough: such an insertion still fails on 6.18',
      command: null,
      source: 'nf_ct_resolve_clash, net/netfilter/nf_conntrack_core.c; measured on 6.18.44',
    },
  ];
}
