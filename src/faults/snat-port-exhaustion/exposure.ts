import type { SourceNatRule } from '../../event/fact.js';
import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { Exposure, ExposureReport, Place } from '../fault.js';
import {
  insertFailures,
  keepingTexts,
  sourceNatRules,
  sureOf,
  surestOf,
} from '../source-nat-rules.js';
import { remedies } from './remedies.js';

const VERDICT = 'snat-port-exhaustion';
/** net.ipv4.ip_local_port_range, where it is not told */
const EPHEMERAL: readonly [number, number] = [32768, 60999];

/**
 * A namespace is exposed where a rule leaves fewer source ports towards a destination than one client
 * has of its own, or leaves flows the ports they have.
 */
export function exposure(place: Place): ExposureReport {
  const found = sourceNatRules(place, 'any');
  if (found === null) return onlyExposed();
  if (typeof found === 'string') return notExposedTo(VERDICT, place, found);
  const [low, high] = (place.settings['net.ipv4.ip_local_port_range'] ?? '')
    .split(/\s/)
    .map(Number);
  const own = low && high ? high - low + 1 : EPHEMERAL[1] - EPHEMERAL[0] + 1;
  const keeping = found.filter(({ random }) => !random);
  const exposures = found.flatMap((rule) =>
    rule.ports && roomOf(rule.ports) < own ? few(place, rule, rule.ports, own) : [],
  );
  if (keeping.length > 0) exposures.push(racing(place, keeping));
  return exposures.length > 0
    ? onlyExposed(...exposures)
    : notExposedTo(
        VERDICT,
        place,
        'every rule that translates sources chooses among all ports, at random',
      );
}

function few(
  place: Place,
  rule: SourceNatRule,
  [first, last]: readonly [number, number],
  own: number,
): Exposure {
  return exposedTo(VERDICT, place, {
    defect: 'no-free-port',
    confidence: sureOf(rule),
    why: [
      `\`${rule.text}\` leaves ${roomOf([first, last])} source ports (${first}–${last}) towards one destination address and port, fewer than the ${own} that one client has (net.ipv4.ip_local_port_range): when they are taken, the next packet is dropped.`,
      ...insertFailures(place),
    ],
    remedies: remedies(rule, true, null),
  });
}

function racing(place: Place, rules: readonly SourceNatRule[]): Exposure {
  return exposedTo(VERDICT, place, {
    defect: 'port-race',
    confidence: surestOf(rules),
    why: [...keepingTexts(rules), ...insertFailures(place)],
    remedies: remedies(rules[0] ?? null, false, null),
  });
}

const roomOf = ([low, high]: readonly [number, number]): number => high - low + 1;
