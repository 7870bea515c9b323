import type { Fault } from '../fault.js';
import { tunnelMtu } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'tunnel-mtu',
  title:
    'a packet does not fit into a tunnel, or the tunnel packet into the network below, and who sends it is not told (`sender-not-told`) or does not heed it (`told-in-vain`)',
  diagnoser: tunnelMtu,
  exposure,
  lab,
};
