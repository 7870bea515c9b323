import type { Fault } from '../fault.js';
import { tunnelWrongVni } from './diagnosis.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'tunnel-wrong-vni',
  title:
    'the tunnel packet arrived, but the receiver has no such tunnel: another VNI (`vni-unknown`), or another UDP port (`port-unknown`)',
  diagnoser: tunnelWrongVni,
  lab,
};
