import type { Session } from '../session/session.js';

/** Starts a live session with everything the host can tell. Native packages are loaded only here. */
export async function openTrace(options: { filter?: string; netns?: string[] }): Promise<Session> {
  const { trace } = await import('../session/live.js');
  return trace(options);
}
