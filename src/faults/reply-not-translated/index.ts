import type { Fault } from '../fault.js';
import { replyNotTranslated } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'reply-not-translated',
  title:
    'the answer bypasses the NAT that its request went through, arrives from the backend’s own address and is refused: bridged past conntrack, by another way, or not tracked',
  diagnoser: replyNotTranslated,
  exposure,
  lab,
};
