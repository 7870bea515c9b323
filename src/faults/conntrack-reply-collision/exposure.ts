import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';
import { insertFailures, keepingTexts, sourceNatRules, surestOf } from '../source-nat-rules.js';
import { remedies } from './remedies.js';

const VERDICT = 'conntrack-reply-collision';

/** A namespace is exposed where lookups of several clients at a Service are masqueraded and keep their ports. */
export function exposure(place: Place): ExposureReport {
  const services = place.rules?.dnsServices;
  if (!services) return onlyExposed();
  if (services.length === 0)
    return notExposedTo(VERDICT, place, 'no rule does destination NAT for DNS (port 53) here');
  const found = sourceNatRules(place, 'udp');
  if (found === null) return onlyExposed();
  if (typeof found === 'string') return notExposedTo(VERDICT, place, found);
  const keeping = found.filter(({ random }) => !random);
  if (keeping.length === 0)
    return notExposedTo(
      VERDICT,
      place,
      'every rule that translates sources of lookups chooses ports at random',
    );
  return onlyExposed(
    exposedTo(VERDICT, place, {
      defect: 'race',
      confidence: surestOf(keeping),
      why: [
        `Rules do destination NAT for DNS at ${services.join(', ')}.`,
        ...keepingTexts(keeping),
        ...insertFailures(place),
      ],
      remedies: remedies(keeping[0] ?? null),
    }),
  );
}
