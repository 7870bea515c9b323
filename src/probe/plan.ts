import { MECHANISMS, type Mechanism, type PlanEntry } from '../event/point.js';
import type { KernelTypes } from './kernel-types.js';
import { AND, hooksInUse, POINT_HOOKS, type Hook, type ProgramName } from './points.js';

/** What each program would do, and why those that cannot run here cannot. */
export interface Plan {
  entries: PlanEntry[];
  programs: ReadonlySet<ProgramName>;
}

function possible(
  { needs, programs }: Hook,
  kernel: KernelTypes,
  refused: ReadonlyMap<ProgramName, string>,
): boolean {
  if (programs.some((program) => refused.has(program))) return false;
  if ('tracepoint' in needs) return kernel.btf.tracepointArguments(needs.tracepoint) > 0;
  if ('symbols' in needs) return needs.symbols.every((name) => kernel.takesKprobe(name));
  return needs.functions.every((name) => kernel.hasFunction(name, needs.module));
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
  const isAllowed = ({ mechanism }: Hook) => mechanisms.includes(mechanism);
  const isPossible = (hook: Hook) => possible(hook, kernel, refused);
  const entries = POINT_HOOKS.map(({ point, hooks: all, also, otherwise }): PlanEntry => {
    const hooks = all.filter(isAllowed);
    if (hooks.length === 0 && all.length > 0)
      return { point, mechanism: null, where: '', reason: 'left out by --mechanisms' };
    const hook = hooks.find(isPossible);
    if (hook)
      return entryOf(point, also && isAllowed(also) && isPossible(also) ? [hook, also] : [hook]);
    const why = hooks
      .flatMap((candidate) => candidate.programs)
      .map((program) => refused.get(program))
      .find((reason) => reason !== undefined);
    return { point, mechanism: null, where: '', reason: why ?? otherwise };
  });
  return { entries, programs: programsOf(entries) };
}

function entryOf(point: PlanEntry['point'], [hook, also]: readonly Hook[]): PlanEntry {
  if (!hook) return { point, mechanism: null, where: '' };
  const where = [hook, also].flatMap((each) => each?.where ?? []).join(AND);
  const entry: PlanEntry = { point, mechanism: hook.mechanism, where };
  if (hook.limits !== undefined) entry.reason = hook.limits;
  return entry;
}

/** Takes a program that could not be attached out of the plan's lines, which then say why. */
export function leaveOut(entries: PlanEntry[], program: ProgramName, reason: string): void {
  for (const entry of entries) {
    const used = hooksInUse(entry);
    const left = used.filter(({ programs }) => !programs.includes(program));
    if (left.length < used.length) Object.assign(entry, entryOf(entry.point, left), { reason });
  }
}

/** The programs behind the plan's lines. */
export function programsOf(entries: readonly PlanEntry[]): ReadonlySet<ProgramName> {
  return new Set(entries.flatMap(hooksInUse).flatMap(({ programs }) => programs));
}
