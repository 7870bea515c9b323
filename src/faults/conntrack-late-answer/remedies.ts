import type { Remedy } from '../../explain/finding.js';

/** What keeps two queries of one socket from clashing, or their answers from coming late. */
export function remedies(): Remedy[] {
  return [
    {
      what: 'keep DNS away from conntrack: a cache on each node whose traffic is not tracked (NodeLocal DNSCache, NOTRACK)',
      command: null,
      source: 'an untracked packet makes no entry, so none can clash',
    },
    {
      what: 'let glibc ask one after another from two sockets: options single-request-reopen in resolv.conf (dnsConfig of the pod). musl ignores it',
      command: null,
      source: 'resolv.conf(5); two sockets are two flows',
    },
    {
      what: 'or ask over TCP (options use-vc, glibc): one connection, one entry',
      command: null,
      source: 'resolv.conf(5)',
    },
    {
      what: 'make the DNS server answer within a second: look at its upstream servers and cache',
      command: null,
      source:
        'the loser’s entry lives for a second, and no setting changes that (nf_ct_resolve_clash_harder)',
    },
    {
      what: 'upgrading the kernel is not enough: kernels from 5.7 on do this, 6.18 too; before, the query was dropped instead',
      command: null,
      source:
        'kernel commit 6a757c07e51f, netfilter: conntrack: allow insertion of clashing entries; measured on 6.18.44',
    },
  ];
}
