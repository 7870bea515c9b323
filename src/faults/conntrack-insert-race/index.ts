import type { Fault } from '../fault.js';
import { insertRace } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

// session.skbw: 6.12 built with a switch that takes the resolution of clashes away (test/vm/defect-kernel):
// what kernels that still drop have cannot be recorded there, as they have no ring buffer (5.8).
export const fault: Fault = {
  verdict: 'conntrack-insert-race',
  title:
    'A and AAAA leave one socket at the same moment and make a conntrack entry each, on two CPUs or on one that takes both out of a tunnel at once: kernels before 5.7 drop the second (forms: `same-tuple` before 4.19, `different-ports` before 5.0, `different-backends` before 5.7); later ones resolve the clash, and nothing is found',
  diagnoser: insertRace,
  exposure,
  lab,
};
