import type { SessionHeader } from '../session/session.js';

/** A record's time (CLOCK_MONOTONIC, ns) as real time: ns since 1970, exact. */
export function realTime(monotonicNs: bigint, { clock }: Pick<SessionHeader, 'clock'>): bigint {
  const us = Math.trunc(clock.realtimeOffsetUs);
  return (
    monotonicNs + BigInt(us) * 1000n + BigInt(Math.round((clock.realtimeOffsetUs - us) * 1000))
  );
}

/** ISO 8601 to the microsecond, which is what databases keep. */
export function isoMicroseconds(ns: bigint): string {
  const seconds = new Date(Number(ns / 1_000_000n)).toISOString().slice(0, 19);
  return `${seconds}.${String((ns / 1000n) % 1_000_000n).padStart(6, '0')}Z`;
}
