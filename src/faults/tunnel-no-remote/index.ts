import type { Fault } from '../fault.js';
import { tunnelNoRemote } from './diagnosis.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'tunnel-no-remote',
  title:
    'a tunnel did not know where to send: no FDB entry for the next hop (`no-fdb-entry`), no neighbour (`no-neighbour`), no route to the peer (`no-route`), or a peer that does not answer on its network (`peer-unresolved`)',
  diagnoser: tunnelNoRemote,
  lab,
};
