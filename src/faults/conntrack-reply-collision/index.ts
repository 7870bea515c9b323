import type { Fault } from '../fault.js';
import { replyCollision } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'conntrack-reply-collision',
  title:
    'lookups of two clients with one source port are translated to the same tuple at the same moment (DNAT and masquerading without random-fully): the second conntrack entry cannot be inserted and its query is dropped; the lookup then takes as long as the resolver waits (musl 2.5 s, glibc 5 s)',
  diagnoser: replyCollision,
  exposure,
  lab,
};
