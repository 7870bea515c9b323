import { skbwhy, type LabReport } from './skbwhy.js';

/** Runs a lab with these settings; throws when the command fails. */
export async function runLab(
  name: string,
  settings: Record<string, string | number | boolean> = {},
  ...more: string[]
): Promise<LabReport> {
  const set = Object.entries(settings).map(([key, value]) => `${key}=${value}`);
  const { status, stdout, stderr } = await skbwhy([
    ...['lab', name, '--json'],
    ...(set.length > 0 ? ['--set', ...set] : []),
    ...more,
  ]);
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout.slice(0, 2000)}`);
  return JSON.parse(stdout) as LabReport;
}
