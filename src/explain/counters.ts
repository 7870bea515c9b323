import { counterMeaning, isNodeWide } from '../event/counters.js';
import type { CounterRise } from './finding.js';
import type { Observation } from './exchanges/observation.js';
import { toMicroseconds } from './wording.js';
import type { World } from './world.js';

/** A namespace that packets of an exchange passed. */
export interface Passed {
  world: World;
  netns: number;
}

/**
 * A sample is read a little before the record that tells it: what happened up to the end of an
 * exchange is in the first one that comes so long after it, ns.
 */
const READING = 0.5e9;
/** By then the sample after an exchange has come, where a namespace is sampled each second, ns. */
export const SAMPLED_AFTER = 2.5e9;

/** The namespaces that an exchange was seen in, in that order. */
export function passedBy(observations: readonly Observation[]): Passed[] {
  const passed: Passed[] = [];
  for (const { world, netns } of observations)
    if (netns !== 0 && !passed.some((known) => known.world === world && known.netns === netns))
      passed.push({ world, netns });
  return passed;
}

/**
 * The counters that rose while an exchange lasted, in the namespaces that it passed: between the last
 * sample before it and the first after it. Whether it was this exchange that moved them is not said.
 *
 * @param from CLOCK_MONOTONIC ns, first packet of the exchange
 * @param to its end, or its last packet so far
 */
export function countersRisen(passed: readonly Passed[], from: number, to: number): CounterRise[] {
  const risen: CounterRise[] = [];
  const toldOfNode = new Set<World>();
  for (const { world, netns } of passed) {
    const window = world.samplesAround(netns, from, to + READING);
    if (!window) continue;
    const { first, last } = window;
    const ms = (time: number): number => toMicroseconds((time - from) / 1e6);
    for (const [name, { before, after }] of window.changed) {
      const known = after > before ? counterMeaning(name) : null;
      if (!known || (isNodeWide(name) && toldOfNode.has(world))) continue;
      risen.push({
        name,
        meaning: known.meaning,
        netns: isNodeWide(name) ? null : world.netnsName(netns),
        from: before,
        to: after,
        rise: after - before,
        betweenMs: [ms(first.time), ms(last.time)],
        evidence: [first.evidence, last.evidence],
      });
    }
    toldOfNode.add(world);
  }
  return risen;
}
