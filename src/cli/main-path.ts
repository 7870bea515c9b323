import { Explainer, type ExplainerOptions } from '../explain/explainer.js';
import type { Finding, Report, Seen, Unexplained } from '../explain/finding.js';
import { loadFaults } from '../faults/registry.js';
import { mergeSessions } from '../session/merge.js';
import type { Batch, Session } from '../session/session.js';

/** Tells a session to others, see stream/channel. */
export interface Publisher {
  /** The batch's memory must stay as it is. */
  send(batch: Batch): void;
  finding(finding: Finding): void;
  unexplained(entry: Unexplained): void;
  /** Resolves when more may be sent. */
  ready(): Promise<void>;
}

/** Writes a session down, see session/file-writer. */
export interface Recorder {
  write(batch: Batch): Promise<void>;
}

export interface Explained {
  report: Report;
  /** exchanges seen, healthy ones included */
  seen: Seen;
}

export interface Outlets {
  recorder?: Recorder | null;
  publisher?: Publisher | null;
  options?: ExplainerOptions;
  /** told each finding that is new or changed */
  show?: (finding: Finding) => void;
}

/**
 * The main path, whichever command runs it: records from sessions, live or not, to the file and
 * through the explainer to findings.
 */
export async function explain(
  sessions: readonly Session[],
  { recorder, publisher, show, options }: Outlets = {},
): Promise<Explained> {
  const faults = await loadFaults();
  const explainer = new Explainer(
    sessions.map((session) => session.header),
    faults.map((fault) => fault.diagnoser),
    options,
  );
  const tell = (findings: readonly Finding[]): void => {
    for (const finding of findings) {
      publisher?.finding(finding);
      show?.(finding);
    }
    for (const entry of explainer.takeUnexplained()) publisher?.unexplained(entry);
  };
  for await (const { session, batch } of mergeSessions([...sessions])) {
    if (batch === null) {
      explainer.ended(session);
      continue;
    }
    if (recorder) await recorder.write(batch);
    publisher?.send(batch);
    tell(explainer.feed(batch, session));
    if (publisher) await publisher.ready();
  }
  tell(explainer.finish());
  return { report: explainer.report(), seen: explainer.seen };
}
