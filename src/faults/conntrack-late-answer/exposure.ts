import { atLeast } from '../../host/kernel.js';
import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';
import { pairedQueries } from '../paired-queries.js';
import { remedies } from './remedies.js';

const VERDICT = 'conntrack-late-answer';

/**
 * A namespace is exposed where A and AAAA of one socket are translated to different backends and the
 * kernel lets the second entry live for a second: whether an answer takes longer only packets tell.
 */
export function exposure(place: Place): ExposureReport {
  const { kernel, counters } = place;
  if (!atLeast(kernel, 5, 7))
    return notExposedTo(
      VERDICT,
      place,
      `kernel ${kernel} drops the second query of a clash instead (before 6a757c07e51f, 5.7)`,
    );
  const paired = pairedQueries(place);
  if (typeof paired === 'string') return notExposedTo(VERDICT, place, paired);
  const clashes = counters['conntrack.clashres'] ?? 0;
  return onlyExposed(
    exposedTo(VERDICT, place, {
      confidence: 'possible',
      why: [
        ...paired.why,
        `Kernel ${kernel} keeps the second of two clashing entries for one second: with several backends, an answer that takes longer is lost.`,
        clashes > 0
          ? `${clashes} clashes were resolved since the namespace came to be (conntrack.clashres).`
          : 'No clash was resolved yet since the namespace came to be (conntrack.clashres is 0).',
      ],
      remedies: remedies(),
    }),
  );
}
