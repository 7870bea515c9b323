import type { Fault } from '../fault.js';
import { slowBackend } from './diagnosis.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'slow-backend',
  title:
    'the packet path is clean, the server took the time: the question was delivered at once and the answer left late',
  diagnoser: slowBackend,
  lab,
};
