import type { Resolver } from '../host/resolvers.js';
import type { Place } from './fault.js';

/** A and AAAA that leave one socket at the same moment for a name server that is translated here. */
export interface PairedQueries {
  /** why, one sentence each */
  why: string[];
  /** every condition was read here */
  sure: boolean;
}

/** Options of glibc by which the two queries do not share a socket, a moment, or UDP. */
const APART = /^(single-request|single-request-reopen|use-vc|no-aaaa)$/;

/**
 * Whether two conntrack entries can be made at once for the two queries of one lookup.
 * @returns the reason where they cannot
 */
export function pairedQueries({ rules, passing }: Place): PairedQueries | string {
  const services = rules?.dnsServices;
  if (services?.length === 0) return 'no rule does destination NAT for DNS (port 53) here';
  const asking = passing.filter(asksTogether);
  if (passing.length > 0 && asking.length === 0)
    return 'every resolver known here asks for A and AAAA one after the other (options of resolv.conf)';
  const translated = asking.filter(({ nameServers }) =>
    nameServers.some((server) => services?.includes(server)),
  );
  const elsewhere = asking.length > 0 && services !== undefined && translated.length === 0;
  if (elsewhere)
    return `no resolver here asks a translated name server (${services.join(', ')}), as far as resolvers could be read`;
  const [first] = translated;
  return {
    sure: first !== undefined && first.libc !== null,
    why: [
      services
        ? `Rules do destination NAT for DNS at ${services.join(', ')}.`
        : 'Whether rules do destination NAT for DNS could not be read.',
      first
        ? `${first.netns.length === 1 ? `A resolver of ${first.netns[0]}` : `Resolvers of ${first.netns.length} namespaces`} (${first.libc ?? 'C library not known'}) asks there for A and AAAA at once, from one socket.`
        : 'What asks there could not be read; resolvers of musl and glibc ask for A and AAAA at once, from one socket.',
    ],
  };
}

/** musl always does, glibc unless an option keeps them apart (res_send, resolv.conf(5)). */
const asksTogether = ({ libc, options }: Resolver): boolean =>
  libc === 'musl' || !options.some((option) => APART.test(option));
