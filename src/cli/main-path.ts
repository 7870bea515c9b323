import { Explainer } from '../explain/explainer.js';
import type { Finding, Report } from '../explain/finding.js';
import { loadFaults } from '../faults/registry.js';
import type { FileWriter } from '../session/file-writer.js';
import { mergeSessions } from '../session/merge.js';
import type { Session } from '../session/session.js';

export interface Explained {
  report: Report;
  /** connects seen, healthy ones included */
  exchanges: number;
}

/**
 * The main path, whichever command runs it: records from sessions, live or not, to the file and
 * through the explainer to findings.
 */
export async function explain(
  sessions: readonly Session[],
  { recorder, show }: { recorder?: FileWriter | null; show?: (finding: Finding) => void } = {},
): Promise<Explained> {
  const faults = await loadFaults();
  const explainer = new Explainer(
    sessions.map((session) => session.header),
    faults.map((fault) => fault.diagnoser),
  );
  for await (const { session, batch } of mergeSessions([...sessions])) {
    if (recorder) await recorder.write(batch);
    for (const finding of explainer.feed(batch, session)) show?.(finding);
  }
  for (const finding of explainer.finish()) show?.(finding);
  return { report: explainer.report(), exchanges: explainer.exchanges };
}
