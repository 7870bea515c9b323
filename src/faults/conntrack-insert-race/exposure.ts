import { atLeast, isDistribution } from '../../host/kernel.js';
import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';
import { pairedQueries } from '../paired-queries.js';
import { remedies, type Clash } from './remedies.js';

const VERDICT = 'conntrack-insert-race';

/** A namespace is exposed where A and AAAA of one socket are translated and the kernel drops a clash. */
export function exposure(place: Place): ExposureReport {
  const { kernel } = place;
  const clash = clashOf(kernel);
  if (clash === null)
    return notExposedTo(
      VERDICT,
      place,
      `kernel ${kernel} resolves clashes of entries (since 6a757c07e51f, 5.7)`,
    );
  const paired = pairedQueries(place);
  if (typeof paired === 'string') return notExposedTo(VERDICT, place, paired);
  return onlyExposed(
    exposedTo(VERDICT, place, {
      defect: clash,
      confidence: paired.sure && !isDistribution(kernel) ? 'proved' : 'possible',
      why: [
        ...paired.why,
        `Kernel ${kernel} drops the second query when both make an entry at the same moment on two CPUs${isDistribution(kernel) ? ', unless its distribution has taken in the fixes' : ''}.`,
      ],
      enough: { kubernetes: false, kernel: true },
      remedies: remedies(clash),
    }),
  );
}

/** The widest form of the race on this kernel; null: it resolves them all. */
function clashOf(kernel: string): Clash | null {
  if (!atLeast(kernel, 4, 19)) return 'same-tuple';
  if (!atLeast(kernel, 5, 0)) return 'different-ports';
  return atLeast(kernel, 5, 7) ? null : 'different-backends';
}
