import type { Diagnoser } from '../../explain/diagnose.js';
import { lastAckDropped } from './last-ack.js';
import { listenQueueFull } from './listen-queue.js';
import { socketBufferFull } from './socket-buffer.js';

/** A packet came through to the socket it was for, and there was no room for it. */
export const receiveBufferFull: Diagnoser = {
  verdict: 'receive-buffer-full',
  kinds: ['tcp-connect', 'dns-lookup', 'tcp-transfer'],
  diagnose: (exchange) =>
    socketBufferFull(exchange) ?? listenQueueFull(exchange) ?? lastAckDropped(exchange),
};
