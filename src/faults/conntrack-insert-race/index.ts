import type { Fault } from '../fault.js';
import { insertRace } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

// session.skbw: a kernel that still drops cannot be recorded (no ring buffer before 5.8); it is a
// recording of 6.18 in which the loser's packet was turned into the drop that older kernels make of
// it: test/unit/conntrack-insert-race.test.ts.
export const fault: Fault = {
  verdict: 'conntrack-insert-race',
  title:
    'A and AAAA leave one socket at the same moment on two CPUs and make a conntrack entry each: kernels before 5.7 drop the second (forms: `same-tuple` before 4.19, `different-ports` before 5.0, `different-backends` before 5.7); later ones resolve the clash, and nothing is found',
  diagnoser: insertRace,
  exposure,
  lab,
};
