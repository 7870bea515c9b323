import type { Diagnoser } from '../../explain/diagnose.js';
import { crossings } from './crossing.js';
import { fromReceiver } from './from-receiver.js';
import { fromSender } from './from-sender.js';

/**
 * A packet is masqueraded, encapsulated with its mark still on, and masqueraded again as the outer
 * packet; the second SNAT leaves the outer UDP checksum wrong, and the peer drops it.
 */
export const doubleSnat: Diagnoser = {
  verdict: 'double-snat',

  diagnose(exchange) {
    const all = crossings(exchange);
    const broken = all.filter((c) => c.badChecksum && c.fate !== 'delivered');
    const first = broken.find((c) => c.sent) ?? broken[0];
    if (!first) return null;
    return first.sent ? fromSender(exchange, all, first) : fromReceiver(exchange, all, first);
  },
};
