import { count } from '../../explain/wording.js';
import type { Resolver } from '../../host/resolvers.js';
import { exposedTo, notExposedTo } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';
import { remedies } from './remedies.js';

const VERDICT = 'resolver-search';
/** Wrong questions before the right one that make it worth telling. */
const MANY = 2;

/**
 * A namespace is exposed where resolv.conf lets names with some dots go through a long search list
 * first: each step asks for A and AAAA before the name itself is asked for.
 */
export function exposure(place: Place): ExposureReport {
  const { resolvers } = place;
  if (resolvers.length === 0)
    return notExposedTo(VERDICT, place, 'no process here has a resolv.conf that could be read');
  const long = resolvers.filter(({ ndots, search }) => ndots > 1 && search.length >= MANY);
  if (long.length === 0)
    return notExposedTo(
      VERDICT,
      place,
      'no search list is asked first for a name with a dot (ndots is 1, or the list has less than two entries)',
    );
  return {
    exposures: long.map((resolver) =>
      exposedTo(VERDICT, place, {
        defect: 'search-list',
        confidence: 'proved',
        why: whyOf(resolver),
        remedies: remedies('search-list', null),
      }),
    ),
    unexposed: [],
  };
}

function whyOf(resolver: Resolver): string[] {
  const { ndots, search } = resolver;
  return [
    `resolv.conf of ${whose(resolver)} has ndots:${ndots} and a search list of ${search.length} (${search.join(', ')}).`,
    `A name with fewer than ${count(ndots, 'dot')}, as www.example.com, is asked for with each of them first: ${2 * search.length} questions (A and AAAA) that nobody wants before the two that count.`,
    'Where one of these is slow or lost, so is the lookup.',
  ];
}

/** `7 namespaces: a, b, c, … (glibc)` */
function whose({ netns, libc }: Resolver): string {
  const names = netns.slice(0, NAMED).join(', ') + (netns.length > NAMED ? ', …' : '');
  const who = netns.length === 1 ? names : `${netns.length} namespaces: ${names}`;
  return libc === null ? who : `${who} (${libc})`;
}

/** More namespaces than this are not named. */
const NAMED = 3;
