import type { Fault } from '../fault.js';
import { lateAnswer } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'conntrack-late-answer',
  title:
    'A and AAAA leave one socket at the same moment and are translated to different backends: conntrack gives the second entry one second to live, and an answer that takes longer is not translated back. It is lost without a counter of conntrack’s moving. Forms: `dropped-at-the-node` (masqueraded queries), `foreign-source` (the answer reaches the client from the backend’s own address)',
  diagnoser: lateAnswer,
  exposure,
  lab,
};
