import { setTimeout as sleep } from 'node:timers/promises';
import type { PlanEntry } from '../event/point.js';
import { hooksInUse } from '../probe/points.js';
import { countRunTime } from '../probe/probe.js';
import { trace } from './live.js';

/** What a point has cost while it was measured. Programs that several points share count for each. */
export interface PointCost {
  /** runs a second */
  perSecond: number;
  /** of a run, with what counting it costs; null: there was none */
  ns: number | null;
}

/**
 * Traces all of this node for a while, keeps nothing, and says what each point has cost.
 * @returns the attach plan, and by point what it cost; nothing for those not attached
 * @throws SkbwhyError as trace(), 'kernel-refused' before Linux 5.8
 */
export async function measureCosts(
  seconds: number,
): Promise<{ plan: PlanEntry[]; costs: Map<string, PointCost> }> {
  const stopCounting = countRunTime();
  try {
    const session = await trace({ host: null, transient: true });
    const drained = (async () => {
      for await (const batch of session) void batch;
    })();
    const before = performance.now();
    await sleep(seconds * 1000);
    const took = (performance.now() - before) / 1000;
    const byProgram = new Map(session.costs().map((cost) => [cost.program, cost]));
    await session.close();
    await drained;
    const { plan } = session.header;
    const costs = new Map<string, PointCost>();
    for (const entry of plan) {
      if (entry.mechanism === null) continue;
      const own = hooksInUse(entry)
        .flatMap(({ programs }) => programs)
        .flatMap((program) => byProgram.get(program) ?? []);
      const runs = own.reduce((sum, cost) => sum + cost.runs, 0);
      const spent = own.reduce((sum, cost) => sum + cost.seconds, 0);
      costs.set(entry.point, {
        perSecond: Math.round(runs / took),
        ns: runs === 0 ? null : Math.round((spent * 1e9) / runs),
      });
    }
    return { plan, costs };
  } finally {
    stopCounting();
  }
}
