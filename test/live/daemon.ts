import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Finding } from '../../src/explain/finding.js';

const BIN = fileURLToPath(new URL('../../../bin/skbwhy.js', import.meta.url));
const START_MS = 30_000;

/** A line of the daemon's log. */
export type LogLine = { level: number; msg: string; url?: string } & Record<string, unknown>;

/** A process of skbwhy that runs beside the test. */
export class Running {
  readonly lines: string[] = [];
  readonly errors: string[] = [];
  readonly exited: Promise<number | NodeJS.Signals>;
  private hear: () => void = () => undefined;

  constructor(
    readonly child: ChildProcess,
    readonly name: string,
  ) {
    createInterface(child.stdout!).on('line', (line) => this.take(this.lines, line));
    createInterface(child.stderr!).on('line', (line) => this.take(this.errors, line));
    this.exited = new Promise((resolve) =>
      child.on('close', (code, signal) => {
        resolve(code ?? signal!);
        this.hear();
      }),
    );
  }

  static start(...args: string[]): Running {
    const stdio = ['ignore', 'pipe', 'pipe'] as const;
    return new Running(spawn(process.execPath, [BIN, ...args], { stdio: [...stdio] }), args[0]!);
  }

  private take(list: string[], line: string): void {
    list.push(line);
    this.hear();
  }

  /** Waits for what `look` finds in what the process has said. */
  async until<T>(what: string, look: (running: this) => T | undefined | false): Promise<T> {
    const deadline = AbortSignal.timeout(START_MS);
    for (;;) {
      const found = look(this);
      if (found !== undefined && found !== false) return found;
      assert.ok(
        !deadline.aborted && this.child.exitCode === null,
        `${this.name}: no ${what}\n${this.errors.join('\n')}`,
      );
      await new Promise<void>((resolve) => {
        this.hear = resolve;
        setTimeout(resolve, 200);
      });
    }
  }

  /** @returns ms until it was gone */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number> {
    const start = performance.now();
    this.child.kill(signal);
    await this.exited;
    return performance.now() - start;
  }

  /** Findings that it printed, the last revision of each. */
  get findings(): Finding[] {
    const lines = this.lines.map((line) => JSON.parse(line) as Finding | object);
    return latest(lines.filter((line): line is Finding => 'verdict' in line));
  }
}

/** A daemon on a port of its own. */
export async function startDaemon(...args: string[]): Promise<Running & { url: string }> {
  const daemon = Running.start('daemon', '--listen', '127.0.0.1:0', ...args);
  const url = await daemon.until('address', () => log(daemon).find(({ url }) => url)?.url);
  return Object.assign(daemon, { url });
}

/** What it logged. */
export function log({ errors }: Running): LogLine[] {
  return errors.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as LogLine);
}

/** The last revision of each finding, by id. */
export function latest(findings: readonly Finding[]): Finding[] {
  const byId = new Map(findings.map((finding) => [finding.id, finding]));
  return [...byId.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
}
