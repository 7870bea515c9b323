import type { Fault } from '../fault.js';
import { noListener } from './diagnosis.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'no-listener',
  title:
    'nobody listens on the port: the stack of the destination’s namespace refused the packet (a RST, or ICMP port unreachable), no rule did',
  diagnoser: noListener,
  lab,
};
