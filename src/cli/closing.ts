import type { Report, Seen } from '../explain/finding.js';
import { count } from '../explain/wording.js';

/** A line at the end of a report, and how it is meant. */
export interface ClosingLine {
  text: string;
  tone: 'good' | 'plain' | 'quiet' | 'warning';
}

/** What was seen at all, and what was not: events lost, points not watched, sessions cut. */
export function closingLines(report: Report, seen: Seen): ClosingLine[] {
  const lines: ClosingLine[] = [];
  const add = (tone: ClosingLine['tone'], text: string): number => lines.push({ tone, text });
  const { lost, omitted } = report;
  const what = [
    count(seen['tcp-connect'], 'TCP connect'),
    ...(seen['dns-lookup'] > 0 ? [count(seen['dns-lookup'], 'DNS lookup')] : []),
  ].join(' and ');
  const blind = report.sessions.flatMap((session) => session.blind);
  const lossless = lost.ring + lost.missed + lost.exchanges === 0;
  if (report.findings.length === 0 && report.unexplained.length === 0) {
    const nothing =
      seen['tcp-connect'] + seen['dns-lookup'] === 0
        ? 'no connection attempt and no lookup was seen.'
        : `${what} seen, each answered at once.`;
    if (blind.length === 0 && lossless) add('good', `Nothing was wrong: ${nothing}`);
    else add('plain', `Nothing wrong was seen, as far as could be: ${nothing}`);
  } else
    add(
      'quiet',
      `${what} seen; ${count(report.findings.length + omitted.findings, 'finding')}, ${report.unexplained.length + omitted.unexplained} unexplained.`,
    );
  if (omitted.findings + omitted.unexplained > 0)
    add(
      'warning',
      `Only the latest are listed, not ${count(omitted.findings, 'earlier finding')} and ${omitted.unexplained} unexplained before them.`,
    );
  if (!lossless)
    add(
      'warning',
      `Lost: ${count(lost.ring, 'event')} for want of room, ${count(lost.missed, 'program run')} skipped by the kernel, ${count(lost.exchanges, 'exchange')} forgotten. What is not listed may have happened.`,
    );
  for (const { point, reason } of blind)
    add('warning', `Not watched: ${point} (${reason}). What happened there is not known.`);
  for (const { truncated } of report.sessions) if (truncated !== null) add('warning', truncated);
  return lines;
}
