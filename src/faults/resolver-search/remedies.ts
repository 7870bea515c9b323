import type { Remedy } from '../../explain/finding.js';
import type { Defect } from './defect.js';

/** @param server the name server it is about, `address:port` */
export function remedies(defect: Defect, server: string | null): Remedy[] {
  switch (defect) {
    case 'search-list':
      return [
        {
          what: 'ask for the full name with a dot at its end, which no search list is applied to',
          command: null,
          source: 'resolv.conf(5), ndots',
        },
        {
          what: 'or let names with fewer dots be tried as they are first (in Kubernetes: the pod’s dnsConfig, where ndots is 5 by default)',
          command: 'options ndots:1',
          source: 'resolv.conf(5), ndots; Kubernetes, DNS for Services and Pods',
        },
        {
          what: 'or let the server follow the search list itself, in one answer',
          command: null,
          source: 'CoreDNS plugin autopath',
        },
      ];
    case 'truncation':
      return [
        {
          what: `let TCP port 53 through to the name server as well as UDP`,
          command: `nc -zv ${server?.replace(/:(\d+)$/, ' $1') ?? 'SERVER 53'}`,
          source: 'RFC 7766, section 5: every DNS server speaks TCP',
        },
        {
          what: 'let the resolver say that larger answers fit (glibc), so that fewer are truncated',
          command: 'options edns0',
          source: 'resolv.conf(5), edns0; RFC 6891',
        },
      ];
    case 'dead-name-server':
      return [
        {
          what: `take ${server ?? 'it'} out of the client’s resolv.conf, or bring it back`,
          command: null,
          source: 'this finding',
        },
        {
          what: 'until then: wait less, and do not always begin with the same one (glibc; musl asks all at once)',
          command: 'options timeout:1 attempts:2 rotate',
          source: 'resolv.conf(5)',
        },
      ];
  }
}
