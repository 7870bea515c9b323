import { spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { SkbwhyError } from '../event/errors.js';
import { discoverNamespaces, type Namespace } from '../host/namespaces.js';
import { run } from './command.js';

const LIMIT = '/proc/sys/net/netfilter/nf_conntrack_max';
const COUNT = '/proc/sys/net/netfilter/nf_conntrack_count';
const STATE = '/run/skbwhy';

/**
 * Lowers net.netfilter.nf_conntrack_max for some seconds. The limit is one for all network namespaces
 * (each has its own count), so nobody else may be near it: looked at first, `lab-failed` when somebody
 * is. A process of its own, which no signal of a terminal ends, puts the old value back; the value is
 * kept in /run/skbwhy until then, so that the next one puts it back when that process was killed.
 *
 * @param except name of the namespace that is to have more entries
 * @returns when it is low; `restored` resolves when it is as before
 */
export async function lowerConntrackLimit(
  limit: number,
  seconds: number,
  except: string,
): Promise<{ restored: Promise<void> }> {
  if (!existsSync(LIMIT))
    throw new SkbwhyError('lab-failed', 'conntrack is not loaded, or this kernel has none');
  for (const namespace of await discoverNamespaces())
    if (namespace.name !== except) await assertRoom(namespace, limit);
  mkdirSync(STATE, { recursive: true });
  const script = `
    trap '' INT TERM HUP
    saved=${STATE}/nf_conntrack_max
    test -s $saved || cat ${LIMIT} > $saved
    echo ${limit} > ${LIMIT} && echo lowered
    sleep ${seconds}
    cat $saved > ${LIMIT} && rm $saved`;
  const child = spawn('flock', ['-w', '30', `${STATE}/nf_conntrack_max.lock`, 'sh', '-c', script], {
    detached: true,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', () => resolve());
  });
  const lowered = new Promise<boolean>((resolve) => child.stdout.once('data', () => resolve(true)));
  if (!(await Promise.race([lowered, ended.then(() => false)])))
    throw new SkbwhyError(
      'lab-failed',
      `${LIMIT} cannot be set from here: only from the initial network namespace`,
    );
  return { restored: ended };
}

async function assertRoom({ name, path }: Namespace, limit: number): Promise<void> {
  let entries: number;
  try {
    entries = Number(await run(['nsenter', `--net=${path}`, 'cat', COUNT]));
  } catch {
    return; // it is gone
  }
  if (entries > limit / 2)
    throw new SkbwhyError(
      'lab-failed',
      `network namespace '${name}' has ${entries} conntrack entries, and the limit (${limit} for the lab) is one for all: run this lab elsewhere, as in a virtual machine`,
    );
}
