import type { Fault } from '../fault.js';
import { checksumOffload } from './diagnosis.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'checksum-offload',
  title:
    'a packet arrives with a wrong checksum, and no NAT stands between the place where that was right, or left to a device to finish, and the place where it is wrong: a device, its driver or a hypervisor spoils it',
  diagnoser: checksumOffload,
  lab,
};
