import { MECHANISMS, type Mechanism, type PlanEntry } from '../event/point.js';
import type { KernelTypes } from './kernel-types.js';
import { POINT_HOOKS, type Hook, type ProgramName } from './points.js';

/** What each program would do, and why those that cannot run here cannot. */
export interface Plan {
  entries: PlanEntry[];
  programs: Set<ProgramName>;
}

function possible(
  { needs, programs }: Hook,
  kernel: KernelTypes,
  refused: ReadonlyMap<ProgramName, string>,
): boolean {
  if (programs.some((program) => refused.has(program))) return false;
  return 'tracepoint' in needs
    ? kernel.btf.tracepointArguments(needs.tracepoint) > 0
    : needs.functions.every((name) => kernel.hasFunction(name, needs.module));
}

/**
 * The attach plan: each observation point with the first of its hooks that this kernel has, or the
 * one sentence that says why there is none.
 * @param mechanisms only hooks of these kinds
 * @param refused programs that the kernel did not load, with its reason
 */
export function planPoints(
  kernel: KernelTypes,
  mechanisms: readonly Mechanism[] = MECHANISMS,
  refused: ReadonlyMap<ProgramName, string> = new Map(),
): Plan {
  const programs = new Set<ProgramName>();
  const entries = POINT_HOOKS.map(({ point, hooks: all, otherwise }): PlanEntry => {
    const hooks = all.filter(({ mechanism }) => mechanisms.includes(mechanism));
    if (hooks.length === 0 && all.length > 0)
      return { point, mechanism: null, where: '', reason: 'left out by --mechanisms' };
    const hook = hooks.find((candidate) => possible(candidate, kernel, refused));
    if (hook) {
      for (const program of hook.programs) programs.add(program);
      const entry: PlanEntry = { point, mechanism: hook.mechanism, where: hook.where };
      if (hook.limits !== undefined) entry.reason = hook.limits;
      return entry;
    }
    const why = hooks
      .flatMap((candidate) => candidate.programs)
      .map((program) => refused.get(program))
      .find((reason) => reason !== undefined);
    return { point, mechanism: null, where: '', reason: why ?? otherwise };
  });
  return { entries, programs };
}
