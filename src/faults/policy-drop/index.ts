import type { Fault } from '../fault.js';
import { policyDrop } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'policy-drop',
  title:
    'a rule (iptables, nft) dropped or rejected the packet: which table, chain and rule, as far as the place in the kernel and the recorded rules tell',
  diagnoser: policyDrop,
  exposure,
  lab,
};
