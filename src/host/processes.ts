import { readFileSync, readdirSync } from 'node:fs';
import type { ProcessFact } from '../event/fact.js';
import { nodeFile } from './node-file.js';

/** Longer command lines are cut: a fact is no place for a whole script. */
const COMMAND_LENGTH = 256;

/**
 * The process behind a socket: its command line, and the container and pod its cgroup names
 * (cgroup v1 and v2; Docker, containerd, CRI-O). The pod is `namespace/name` where the kubelet's
 * log links tell it, else its uid. null: there is no such process (any more).
 */
export function processFact(pid: number): ProcessFact | null {
  const read = (file: string): string | null => {
    try {
      return readFileSync(`/proc/${pid}/${file}`, 'utf8');
    } catch {
      return null;
    }
  };
  const comm = read('comm');
  if (comm === null) return null;
  const command = (read('cmdline') ?? '').replace(/\0+$/, '').replaceAll('\0', ' ');
  const cgroup = read('cgroup') ?? '';
  const container = /[0-9a-f]{64}/.exec(cgroup)?.[0] ?? null;
  const uid = /pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})/.exec(
    cgroup,
  )?.[1];
  return {
    fact: 'process',
    pid,
    command: command.slice(0, COMMAND_LENGTH) || comm.trim(),
    container,
    pod: (container && podName(container)) ?? uid?.replaceAll('_', '-') ?? null,
  };
}

/** The kubelet links each container's log as `pod_namespace_container-id.log`. */
function podName(container: string): string | null {
  try {
    const link = readdirSync(nodeFile('/var/log/containers')).find((name) =>
      name.endsWith(`-${container}.log`),
    );
    const [pod, namespace] = link?.split('_') ?? [];
    return pod && namespace ? `${namespace}/${pod}` : null;
  } catch {
    return null;
  }
}
