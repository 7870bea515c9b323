import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';
import { remedies } from './remedies.js';

const VERDICT = 'conntrack-table-full';

/** Shares of the table taken: from here on it is filling, from here on a burst fills it. */
const FILLING = 0.7;
const NEARLY_FULL = 0.9;

/** A namespace is exposed when its conntrack table is filling, or was full since it came to be. */
export function exposure(place: Place): ExposureReport {
  const { settings, counters } = place;
  const room = Number(settings['net.netfilter.nf_conntrack_max'] ?? NaN);
  if (!(room > 0))
    return notExposedTo(VERDICT, place, 'conntrack is not in use, or has no limit here');
  const entries = counters['conntrack.entries'] ?? 0;
  const early = counters['conntrack.early_drop'] ?? 0;
  const tooLong = counters['conntrack.chaintoolong'] ?? 0;
  const buckets = Number(settings['net.netfilter.nf_conntrack_buckets'] ?? NaN);
  const taken = entries / room;
  const fill = `${entries} of ${room} entries are taken (${Math.floor(taken * 100)} %)`;
  if (taken < FILLING && early === 0 && tooLong === 0)
    return notExposedTo(VERDICT, place, `${fill}, and none had to go early`);
  const why = [
    `In the conntrack table ${fill}${taken >= FILLING ? ': once it is full, a packet that needs a new entry is dropped' : ''}.`,
  ];
  if (early > 0)
    why.push(
      `It has been full: ${early} entries had to go early (early_drop) since the namespace came to be.`,
    );
  if (tooLong > 0)
    why.push(
      `${tooLong} entries were refused because a bucket of the hash was overfull (chaintoolong): it has ${buckets} buckets for ${room} entries.`,
    );
  return onlyExposed(
    exposedTo(VERDICT, place, {
      confidence: taken >= NEARLY_FULL ? 'likely' : 'possible',
      why,
      remedies: remedies(room),
    }),
  );
}
