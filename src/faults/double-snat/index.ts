import type { Fault } from '../fault.js';
import { doubleSnat } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'double-snat',
  title: 'a Service behind a tunnel answers after 1 s, 3 s, 63 s or never',
  diagnoser: doubleSnat,
  exposure,
  lab,
};
