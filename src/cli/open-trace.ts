import { setFlagsFromString } from 'node:v8';
import { SkbwhyError } from '../event/errors.js';
import type { Mechanism } from '../event/point.js';
import type { LiveTrace } from '../session/live.js';

/**
 * What is traced, or looked at for that, is this machine's kernel.
 * @throws SkbwhyError 'not-linux'
 */
export function requireLinux(): void {
  if (process.platform !== 'linux')
    throw new SkbwhyError(
      'not-linux',
      'only Linux is traced; sessions recorded there can be explained, replayed, watched and exported here',
    );
}

/**
 * Starts a live session with everything the host can tell. Native packages are loaded only here.
 * @throws SkbwhyError 'not-linux', and what trace() throws
 */
export async function openTrace(options: {
  filter?: string;
  netns?: string[];
  mechanisms?: Mechanism[];
  transient?: boolean;
}): Promise<LiveTrace> {
  requireLinux();
  // a guest on a busy node: memory counts for more than the two fifths of its speed this may cost
  setFlagsFromString('--optimize-for-size');
  const { trace } = await import('../session/live.js');
  return trace(options);
}

/**
 * Whether openTrace() can work at all, before anything is built for it.
 * @throws SkbwhyError 'not-linux', 'no-btf', 'no-privilege', 'library-missing', 'bad-filter'
 */
export async function checkTracing(filter?: string): Promise<void> {
  requireLinux();
  const probe = await import('../probe/probe.js');
  probe.checkTracing(filter);
}
