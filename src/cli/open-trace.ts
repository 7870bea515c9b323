import type { LiveTrace } from '../session/live.js';

/** Starts a live session with everything the host can tell. Native packages are loaded only here. */
export async function openTrace(options: { filter?: string; netns?: string[] }): Promise<LiveTrace> {
  const { trace } = await import('../session/live.js');
  return trace(options);
}

/**
 * Whether openTrace() can work at all, before anything is built for it.
 * @throws SkbwhyError 'no-btf', 'no-privilege', 'library-missing', 'bad-filter'
 */
export async function checkTracing(filter?: string): Promise<void> {
  const probe = await import('../probe/probe.js');
  probe.checkTracing(filter);
}
