import type { Evidence } from '../finding.js';
import type { World } from '../world.js';

/**
 * A sample is read a little before it is told, and told up to a moment before the events that were
 * there already (records stay in the order of time), ns.
 */
const READING = 0.2e9;

/** How far a counter rose, and between which samples. */
export interface Rise {
  rise: number;
  /** of the last sample, CLOCK_MONOTONIC ns */
  time: number;
  evidence: Evidence[];
}

/** How far a counter of a namespace rose from before `from` to after `to`, ns; null where it is not sampled. */
export function riseAround(
  world: World,
  netns: number,
  name: string,
  from: number,
  to: number,
): Rise | null {
  const samples = world.samplesAround(netns, from - READING, to + READING);
  if (!samples) return null;
  const { first, last, changed } = samples;
  const { before, after } = changed.get(name) ?? { before: 0, after: 0 };
  return {
    rise: Math.max(after - before, 0),
    time: last.time,
    evidence: [first.evidence, last.evidence],
  };
}
