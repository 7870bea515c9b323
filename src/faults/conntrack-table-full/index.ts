import type { Fault } from '../fault.js';
import { tableFull } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'conntrack-table-full',
  title:
    'conntrack’s table is full, none of its entries may be dropped early, and a packet that would need a new one is dropped before it has it; with who fills it',
  diagnoser: tableFull,
  exposure,
  lab,
};
