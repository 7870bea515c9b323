import type { Fault } from '../fault.js';
import { lostOnTheWire } from './diagnosis.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'lost-on-the-wire',
  title:
    'a packet left one traced namespace in good order and never arrived, though others got through: lost out of sight, and never more than possible',
  diagnoser: lostOnTheWire,
  lab,
};
