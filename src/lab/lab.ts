import type { Setting, Settings, SettingsOf } from './settings.js';

/** What one connection of a lab's own clients measured. */
export interface ClientResult {
  /** role of the namespace that the client ran in */
  client: string;
  /** what it is there for: 'faulty', 'healthy', 'dead', 'silent' …; 'unrelated' stands for many at once */
  purpose: string;
  /** `address:port`, `[address]:port` */
  target: string;
  /** the client's own end, written like the target; null when it never had one */
  source: string | null;
  protocol: 'tcp' | 'udp';
  /** the server's answer arrived */
  ok: boolean;
  /** from connect() to established, of a lookup from question to answer, ms; null: it never was, or they were many */
  connectMs: number | null;
  /** of a connection: from connect() to the server's answer, ms; null: it never came */
  answeredMs?: number | null;
  /** errno name (ETIMEDOUT …), 'timeout' or 'aborted'; null when ok */
  error: string | null;
  /** ISO 8601 */
  startedAt: string;
}

/** How a user's command runs inside a lab. */
export interface ExecOptions {
  signal?: AbortSignal;
  /** file descriptor of ours that takes its standard output; 1 if not told */
  stdout?: 1 | 2;
}

/** A fault reproduced on this kernel. */
export interface RunningLab {
  /** role (sender, receiver, pod …) → name of its network namespace */
  readonly namespaces: Readonly<Record<string, string>>;
  /** the namespace in which `lab NAME -- COMMAND` runs */
  readonly node: string;
  /** names of the namespaces to trace: what a tracer on real nodes would see */
  readonly traced: readonly string[];
  /**
   * Runs the lab's own clients once; resolves when each has its answer or gave up.
   * On abort the pending ones are reported with error 'aborted'.
   */
  run(signal?: AbortSignal): Promise<ClientResult[]>;
  /**
   * Runs a user's command inside `node`, with our standard streams, or its output elsewhere; resolves with its exit code, 128 + n
   * when signal n ended it. The environment names the lab's addresses (`SKBWHY_SERVICE` …).
   */
  exec(command: readonly string[], options?: ExecOptions): Promise<number>;
  /** Leaves its namespaces and servers there; the next lab removes them. */
  keep(): void;
  /** Ends its processes and removes its namespaces. May be called again. */
  down(): Promise<void>;
}

export interface LabDefinition {
  readonly name: string;
  readonly title: string;
  readonly settings: readonly Setting[];
  /**
   * Builds the lab; on failure or abort nothing is left of it.
   * `settings`: complete, as `parseSettings` returns them.
   * Throws `no-privilege`, or `lab-failed` with the first line that the failing command said.
   */
  up(settings: Settings, signal?: AbortSignal): Promise<RunningLab>;
}

/** Declares a lab whose `up` sees its settings with their types. */
export function defineLab<const L extends readonly Setting[]>(lab: {
  readonly name: string;
  readonly title: string;
  readonly settings: L;
  up(settings: SettingsOf<L>, signal?: AbortSignal): Promise<RunningLab>;
}): LabDefinition {
  return { ...lab, up: (settings, signal) => lab.up(settings as SettingsOf<L>, signal) };
}
