import type { Namespaces } from './namespaces.js';

/** States of sockets (include/net/tcp_states.h), as /proc/net/tcp has them: a SYN was sent, or came. */
const STATES = { 'syn-sent': '02', 'syn-received': '03' };

/** Resolves when a namespace has so many connections in this state; throws when it has not after 10 s. */
export async function untilThereAre(
  connections: number,
  state: keyof typeof STATES,
  namespaces: Namespaces,
  role: string,
  signal?: AbortSignal,
): Promise<void> {
  const there = `until [ $(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -c " ${STATES[state]} ") -ge ${connections} ]; do sleep 0.01; done`;
  await namespaces.script(role, `timeout 10 sh -c '${there}'`, signal);
}
