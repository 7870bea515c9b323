import type { Fault } from '../fault.js';
import { doubleSnat } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'double-snat',
  title:
    'a packet is masqueraded, encapsulated with its mark still on, and masqueraded again as the outer packet, whose UDP checksum is then wrong: the peer drops it, and a Service behind the tunnel answers after 1 s, 3 s, 63 s or never. Flows that no rule marks suffer too, where they come to an outer port, or to an entry, that a masqueraded one has. Forms: `udpcsum-not-updated` (tunnels with outer checksums, every kernel up to 6.18 at least), `legacy-zero-checksum` (tunnels without, before 5.7)',
  diagnoser: doubleSnat,
  exposure,
  lab,
};
