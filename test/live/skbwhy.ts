import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Finding, Report } from '../../src/explain/finding.js';
import type { ClientResult } from '../../src/lab/lab.js';

export const BIN = fileURLToPath(new URL('../../../bin/skbwhy.js', import.meta.url));

export interface Result {
  status: number;
  stdout: string;
  stderr: string;
}

export type LabReport = Report & { clients: ClientResult[] };

/** Runs the command line as a user would. `onStart` gets the process, to interrupt it. */
export function skbwhy(
  args: readonly string[],
  onStart?: (child: ReturnType<typeof spawn>) => void,
): Promise<Result> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [BIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (data: Buffer) => out.push(data));
    child.stderr.on('data', (data: Buffer) => err.push(data));
    child.on('error', reject);
    child.on('close', (code, signal) =>
      resolve({
        status: code ?? (signal ? 128 : 1),
        stdout: Buffer.concat(out).toString(),
        stderr: Buffer.concat(err).toString(),
      }),
    );
    onStart?.(child);
  });
}

/** Runs the double-SNAT lab with these settings; throws when the command fails. */
export function doubleSnatLab(
  settings: Record<string, string | number | boolean> = {},
  ...more: string[]
): Promise<LabReport> {
  return runLab('double-snat', settings, ...more);
}

/**
 * Runs a lab with these settings; throws when the command fails. Where the kernel did not run what
 * should have seen a packet, as the report says, and so nothing about it is proved: again.
 */
export async function runLab(
  name: string,
  settings: Record<string, string | number | boolean> = {},
  ...more: string[]
): Promise<LabReport> {
  return wholly(() => runLabOnce(name, settings, ...more));
}

/** Takes `run` again, twice at most, while the kernel skipped programs (docs/kernels.md). */
export async function wholly<R extends Report>(run: () => Promise<R>): Promise<R> {
  for (let left = 2; ; left--) {
    const report = await run();
    const { lost, findings, unexplained } = report;
    const unseen = [...findings, ...unexplained].filter(({ lostEvents }) => lostEvents > 0).length;
    if (lost.missed + unseen === 0 || left === 0) return report;
    console.log(`the kernel skipped programs (${lost.missed} runs, ${unseen} exchanges): again`);
  }
}

/** Runs a lab once, whatever it saw; for those whom somebody else watches too. */
export async function runLabOnce(
  name: string,
  settings: Record<string, string | number | boolean> = {},
  ...more: string[]
): Promise<LabReport> {
  const set = Object.entries(settings).map(([key, value]) => `${key}=${value}`);
  const { status, stdout, stderr } = await skbwhy([
    'lab',
    name,
    '--json',
    ...(set.length > 0 ? ['--set', ...set] : []),
    ...more,
  ]);
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout.slice(0, 2000)}`);
  return JSON.parse(stdout) as LabReport;
}

/** The one finding of a report; anything else is shown. */
export function onlyFinding(report: Report): Finding {
  if (report.findings.length !== 1)
    throw new Error(`${report.findings.length} findings\n${JSON.stringify(report, null, 1)}`);
  return report.findings[0]!;
}

/**
 * Asserts that a client measured what a finding says.
 * @param lateMs the client is a process that must be scheduled to notice: so much later than the kernel
 */
export function assertNoticed(
  measuredMs: number | null | undefined,
  { delayMs }: { delayMs: number },
  lateMs = 50,
): void {
  const late = (measuredMs ?? 0) - delayMs;
  assert.ok(late > -50 && late < lateMs, `measured ${measuredMs} ms, found ${delayMs} ms`);
}
