import { spawn, spawnSync, type ChildProcess, type StdioOptions } from 'node:child_process';
import {
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { constants } from 'node:os';
import { SkbwhyError } from '../event/errors.js';
import { hasCapabilities } from '../host/capabilities.js';
import { run } from './command.js';
import type { ExecOptions } from './lab.js';
import { identify, mayLive, type ProcessIdentity } from './owner.js';

/** Where labs say what they own, so that the next one can clear up behind a dead one. */
const STATE = '/run/skbwhy';
/** Where iproute2 keeps the names of network namespaces. */
const NAMES = '/run/netns';
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

interface State {
  owner: ProcessIdentity;
  namespaces: string[];
}

/** A virtual Ethernet cable: a device of a role at each end. */
export type Cable = readonly [end: CableEnd, other: CableEnd];
type CableEnd = readonly [role: string, device: string];

/** This process's own, to be removed when it ends. */
const live = new Set<Namespaces>();
let count = 0;

/**
 * The network namespaces of one lab, with everything in them. Their names are `skbwhy-ID-role`; a file
 * in /run/skbwhy names their owner, so that they are found when it could not remove them (SIGKILL).
 * Removed when the process exits, by SIGINT, SIGTERM or SIGHUP too.
 */
export class Namespaces {
  /** role → name */
  readonly names: Readonly<Record<string, string>>;
  readonly #stateFile: string;
  readonly #children = new Map<ChildProcess, Promise<void>>();

  private constructor(roles: readonly string[]) {
    const id = ++count === 1 ? `${process.pid}` : `${process.pid}.${count}`;
    this.names = Object.fromEntries(roles.map((role) => [role, `skbwhy-${id}-${role}`]));
    this.#stateFile = `${STATE}/lab-${id}.json`;
  }

  /**
   * Makes a namespace for each role, joined by `cables` (their devices down and without addresses).
   * Removes what dead labs left first. Throws `no-privilege`, `lab-failed`.
   */
  static async create(
    roles: readonly string[],
    cables: readonly Cable[],
    signal?: AbortSignal,
  ): Promise<Namespaces> {
    if (!hasCapabilities('CAP_SYS_ADMIN', 'CAP_NET_ADMIN')) {
      throw new SkbwhyError(
        'no-privilege',
        'a lab makes network namespaces: run it as root, in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN',
      );
    }
    removeOrphans();
    const namespaces = new Namespaces(roles);
    const { names } = namespaces;
    namespaces.#claim();
    try {
      await run(['ip', '-batch', '-'], {
        label: 'ip netns add',
        input: lines(Object.values(names).map((name) => `netns add ${name}`)),
        signal,
      });
      await run(['ip', '-batch', '-'], {
        label: 'ip link add',
        input: lines(
          cables.map(
            ([[role, device], [peerRole, peer]]) =>
              `link add ${device} netns ${names[role]} type veth peer name ${peer} netns ${names[peerRole]}`,
          ),
        ),
        signal,
      });
      return namespaces;
    } catch (error) {
      await namespaces.remove();
      throw error;
    }
  }

  /** Runs a shell script in a namespace; it ends at its first failing command, as `lab-failed`. */
  async script(role: string, text: string, signal?: AbortSignal): Promise<string> {
    const command = ['ip', 'netns', 'exec', this.#name(role), 'sh', '-e', '-s'];
    return run(command, { label: `namespace '${role}'`, input: text, signal });
  }

  /** Starts a process in a namespace; it is ended with the lab. `detached`: out of Ctrl-C's reach. */
  spawn(
    role: string,
    command: readonly string[],
    options: { stdio: StdioOptions; env?: NodeJS.ProcessEnv; detached?: boolean },
  ): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this.#name(role), ...command], options);
    const closed = new Promise<void>((resolve) => {
      child.once('close', () => resolve());
      child.once('error', () => resolve());
    }).then(() => void this.#children.delete(child));
    this.#children.set(child, closed);
    return child;
  }

  /**
   * Runs a user's command in a namespace, with our standard streams and `environment` besides our own;
   * resolves with its exit code, 128 + n when signal n ended it, 127 when there is no such command (a
   * shell says so). On abort it gets SIGTERM.
   */
  async exec(
    role: string,
    command: readonly string[],
    environment: Readonly<Record<string, string>>,
    { signal, stdout = 1 }: ExecOptions = {},
  ): Promise<number> {
    const env = { ...process.env, ...environment };
    const child = this.spawn(role, ['sh', '-c', 'exec "$@"', 'lab', ...command], {
      stdio: ['inherit', stdout, 'inherit'],
      env,
    });
    const stop = () => child.kill('SIGTERM');
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted) stop();
    try {
      return await new Promise((resolve, reject) => {
        child.once('error', reject);
        child.once('exit', (code, name) =>
          resolve(code ?? 128 + (name ? constants.signals[name] : 0)),
        );
      });
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  /** Ends every process in the namespaces and removes them. May be called again. */
  async remove(): Promise<void> {
    this.removeNow();
    await Promise.all(this.#children.values());
  }

  /** The same, without waiting for the end of the processes it has killed. */
  removeNow(): void {
    if (!live.delete(this)) return;
    if (live.size === 0) watchExit('off');
    for (const child of this.#children.keys()) child.kill('SIGKILL');
    removeNamespaces(Object.values(this.names));
    rmSync(this.#stateFile, { force: true });
  }

  /** Leaves everything there when this process ends, servers too; the next lab removes it. */
  keep(): void {
    if (!live.delete(this)) return;
    if (live.size === 0) watchExit('off');
    for (const child of this.#children.keys()) {
      child.stdin?.end('stay\n');
      child.stdout?.destroy();
      child.stderr?.destroy();
      child.unref();
    }
  }

  #name(role: string): string {
    const name = this.names[role];
    if (name === undefined)
      throw new SkbwhyError('lab-failed', `this lab has no namespace '${role}'`);
    return name;
  }

  /** Says whose they are before they exist: whenever we die, nothing is left unclaimed. */
  #claim(): void {
    const owner = identify(process.pid);
    if (!owner) throw new SkbwhyError('lab-failed', '/proc is not readable');
    const state: State = { owner, namespaces: Object.values(this.names) };
    mkdirSync(STATE, { recursive: true });
    writeFileSync(`${this.#stateFile}.new`, JSON.stringify(state));
    renameSync(`${this.#stateFile}.new`, this.#stateFile); // never seen half written
    if (live.size === 0) watchExit('on');
    live.add(this);
  }
}

function watchExit(turn: 'on' | 'off'): void {
  process[turn]('exit', removeAll);
  for (const signal of SIGNALS) process[turn](signal, onSignal);
}

function removeAll(): void {
  for (const namespaces of live) namespaces.removeNow();
}

function onSignal(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) > 1) return; // somebody else decides, and comes to remove()
  removeAll();
  process.kill(process.pid, signal);
}

/** Removes the namespaces whose owner died without doing so, and ends the processes in them. */
export function removeOrphans(): void {
  let files: string[];
  try {
    files = readdirSync(STATE).filter((file) => /^lab-.*\.json$/.test(file));
  } catch {
    return; // there never was a lab here
  }
  for (const file of files) {
    const state = readState(`${STATE}/${file}`);
    if (!state || mayLive(state.owner)) continue;
    removeNamespaces(state.namespaces);
    rmSync(`${STATE}/${file}`, { force: true });
  }
}

function readState(path: string): State | null {
  try {
    const state = JSON.parse(readFileSync(path, 'utf8')) as State;
    const ours = state.namespaces.every((name) => /^skbwhy-[\w.]+-[\w-]+$/.test(name));
    return ours && typeof state.owner.pid === 'number' ? state : null;
  } catch {
    return null;
  }
}

function removeNamespaces(names: readonly string[]): void {
  const inodes = new Set(names.map(inode).filter((found) => found !== null));
  if (inodes.size === 0) return;
  // A tracer may have stepped into a namespace for a moment: only who is there twice lives there.
  const first = processesIn(inodes);
  if (first.length > 0) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    const still = new Set(processesIn(inodes));
    for (const pid of first) if (still.has(pid)) end(pid);
  }
  const input = lines(names.map((name) => `netns del ${name}`));
  // -force: go on when one is missing (an abort in the middle of `netns add`)
  spawnSync('ip', ['-force', '-batch', '-'], { input, stdio: ['pipe', 'ignore', 'ignore'] });
  const left = names.filter((name) => inode(name) !== null);
  if (left.length > 0) {
    throw new SkbwhyError('lab-failed', `cannot remove: ip netns del ${left.join(', ')}`);
  }
}

function inode(name: string): number | null {
  return statSync(`${NAMES}/${name}`, { throwIfNoEntry: false })?.ino ?? null;
}

function processesIn(inodes: ReadonlySet<number>): number[] {
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry));
  return pids.map(Number).filter((pid) => {
    if (pid === process.pid) return false;
    try {
      return inodes.has(Number(/\d+/.exec(readlinkSync(`/proc/${pid}/ns/net`))?.[0]));
    } catch {
      return false; // it ended meanwhile, or is a kernel thread of another user namespace
    }
  });
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it ended by itself
  }
}

function lines(list: readonly string[]): string {
  return list.map((line) => `${line}\n`).join('');
}
