import type { Fault } from '../fault.js';
import { reversePathFilter } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'reverse-path-filter',
  title:
    'the packet came by a device through which no route leads back to its source, and rp_filter dropped it (asymmetric routing, several devices, source addresses of others)',
  diagnoser: reversePathFilter,
  exposure,
  lab,
};
