import type { Fault } from '../fault.js';
import { portExhaustion } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'snat-port-exhaustion',
  title:
    'source NAT had no port to give. Forms: `no-free-port` (every port that the rule may choose towards a destination is another flow’s: the packet is dropped, with who holds them), `port-race` (without random-fully, two connects that begin at the same moment are given the same port: one SYN is dropped, and the connect takes 1 s; 3 s where it happens twice, 2 s from Linux 6.5 on)',
  diagnoser: portExhaustion,
  exposure,
  lab,
};
