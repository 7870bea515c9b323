import type { Fault } from '../fault.js';
import { staleBackend } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'stale-backend',
  title:
    'an old conntrack entry keeps leading a busy UDP socket to a backend that is gone, while the Service leads elsewhere',
  diagnoser: staleBackend,
  exposure,
  lab,
};
