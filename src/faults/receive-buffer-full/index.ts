import type { Fault } from '../fault.js';
import { receiveBufferFull } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'receive-buffer-full',
  title:
    'the packet came to its socket, which had no room: a receive buffer, an accept queue or a SYN queue was full. Forms: `socket-buffer` (UDP; the drop itself says so), `accept-queue` and `syn-queue` (a listening socket drops SYNs without a trace: only counters tell)',
  diagnoser: receiveBufferFull,
  exposure,
  lab,
};
