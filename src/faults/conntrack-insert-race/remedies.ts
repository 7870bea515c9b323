import type { Remedy } from '../../explain/finding.js';

/** How the two entries differ: not at all, in where they lead, or in the port that NAT gave them. */
export type Clash = 'same-tuple' | 'different-backends' | 'different-ports';

const FIXES: Readonly<Record<Clash, Remedy>> = {
  'same-tuple': {
    what: 'upgrading the kernel is enough here: from 4.19 on the two entries are merged',
    command: null,
    source:
      'kernel commit ed07d9a021df, netfilter: nf_conntrack: resolve clash for matching conntracks',
  },
  'different-ports': {
    what: 'upgrading the kernel is enough here: from 5.0 on NAT gives packets of one flow the same port',
    command: null,
    source:
      'kernel commit 4e35c1cb9460, netfilter: nf_nat: skip nat clash resolution for same-origin entries',
  },
  'different-backends': {
    what: 'upgrading the kernel is enough here: from 5.7 on the second entry is kept for a second (answers that take longer are lost: conntrack-late-answer)',
    command: null,
    source: 'kernel commit 6a757c07e51f, netfilter: conntrack: allow insertion of clashing entries',
  },
};

/** What cures the race, the surest first. */
export function remedies(clash: Clash): Remedy[] {
  return [
    FIXES[clash],
    {
      what: 'if packets go through NFQUEUE on this node: that widens the race; kernels from 2024 on (8af79d3edb5f) resolve it there too',
      command: null,
      source: 'kernel commit 8af79d3edb5f',
    },
    {
      what: 'keep DNS away from conntrack: a cache on each node whose traffic is not tracked (NodeLocal DNSCache, NOTRACK)',
      command: null,
      source: 'an untracked packet makes no entry',
    },
    {
      what: 'or let glibc ask one after another from two sockets (options single-request-reopen), or over TCP (options use-vc). musl ignores both',
      command: null,
      source: 'resolv.conf(5)',
    },
  ];
}
