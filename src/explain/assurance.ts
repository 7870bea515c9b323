import type { Diagnosis } from './finding.js';
import { count } from './wording.js';

/**
 * A diagnosis, no surer than what it rests on: it is not proved when one of its claims is shown by no
 * event, nor when events were lost while the exchange lasted.
 */
export function assured<T extends Diagnosis>(diagnosis: T, lostEvents: number): T {
  const reasons = diagnosis.chain
    .filter(({ evidence }) => evidence.length === 0)
    .map(({ claim }) => `no event was seen that shows ${claim}`);
  if (lostEvents > 0)
    reasons.push(
      `${count(lostEvents, 'event')} ${lostEvents === 1 ? 'was' : 'were'} lost while it lasted`,
    );
  if (reasons.length === 0) return diagnosis;
  return {
    ...diagnosis,
    confidence: diagnosis.confidence === 'proved' ? 'likely' : diagnosis.confidence,
    loweredFor: [...diagnosis.loweredFor, ...reasons],
  };
}
