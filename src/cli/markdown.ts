import type { Evidence, Finding, Report, Seen } from '../explain/finding.js';
import { abridged, duration, hex, hex16, passageText } from '../explain/wording.js';
import { closingLines } from './closing.js';

/** A report for an issue tracker or a chat. */
export function reportMarkdown(report: Report, seen: Seen): string {
  const parts = report.findings.map(findingMarkdown);
  if (report.unexplained.length > 0)
    parts.push(
      [
        '## Unexplained',
        ...report.unexplained.map((entry) =>
          [
            `- ${escape(entry.title)}`,
            ...abridged(
              entry.attempts,
              (a) =>
                `  - ${escape(a.what)} (${a.n}) after ${duration(a.atMs)}: last seen at ${escape(a.lastSeen)}${a.drop === null ? '' : `, dropped: ${escape(a.drop)}`}`,
              (between) => `  - ${moreText(between)}`,
            ),
            ...entry.excluded.map((text) => `  - excluded: ${escape(text)}`),
            ...entry.next.map((text) => `  - next: ${escape(text)}`),
          ].join('\n'),
        ),
      ].join('\n\n'),
    );
  parts.push(...closingLines(report, seen).map(({ text }) => escape(text)));
  return parts.join('\n\n') + '\n';
}

function findingMarkdown(f: Finding): string {
  const rows = abridged(
    f.attempts,
    (a) =>
      [
        `${a.n} ${escape(a.what)}`,
        duration(a.atMs),
        a.mark === null ? '' : hex(a.mark),
        a.outerPort ? `${a.outerPort.expected ?? '?'} → ${a.outerPort.wire ?? '?'}` : '',
        a.outerConntrack ? `${a.outerConntrack.state}${a.outerConntrack.snat ? ', SNAT' : ''}` : '',
        a.checksum
          ? `${hex16(a.checksum.after)} (expected ${a.checksum.expected === null ? 'by the device' : hex16(a.checksum.expected)})`
          : '',
        a.fate +
          (a.dropReason
            ? `: ${a.dropReason} at \`${a.dropLocation}\`${passageText(a.dropBetween)}`
            : ''),
      ].join(' | '),
    (between) => `${moreText(between)} | | | | | | `,
  );
  return [
    `## ${escape(f.title)}`,
    `**${f.verdict}**${f.defect ? ` (${f.defect})` : ''}, ${f.confidence}. ${escape(f.summary)}`,
    ...f.loweredFor.map((reason) => `Not sure: ${escape(reason)}`),
    [
      '| attempt | after | mark | outer port | outer conntrack | checksum | fate |',
      '|---|---|---|---|---|---|---|',
      ...rows.map((row) => `| ${row} |`),
    ].join('\n'),
    ...(f.prediction ? [`Predicted: ${escape(f.prediction.text)}.`] : []),
    '### Proof',
    f.chain
      .map(
        (claim, i) =>
          `${i + 1}. ${escape(claim.text)} (${abridged(claim.evidence, eventText, moreText).join(', ')})`,
      )
      .join('\n'),
    ...(f.counters.length > 0
      ? [
          '### Counters that rose meanwhile',
          f.counters
            .map(
              (c) =>
                `- ${escape(c.netns ?? 'whole node')}: \`${c.name}\` +${c.rise} (${c.from} → ${c.to}; ${escape(c.meaning)})`,
            )
            .join('\n'),
        ]
      : []),
    ...(f.ruledOut.length > 0
      ? ['### Ruled out', f.ruledOut.map((r) => `- ${r.verdict}: ${escape(r.text)}`).join('\n')]
      : []),
    '### What to do',
    f.remedies
      .map(
        (r) =>
          `- ${escape(r.what)} (${escape(r.source)})${r.command === null ? '' : `\n  \`${r.command}\``}`,
      )
      .join('\n'),
  ].join('\n\n');
}

const eventText = ({ seq }: Evidence): string => `event ${seq}`;

const moreText = (between: readonly unknown[]): string => `… ${between.length} more`;

/** Names come from the wire and from other people's rules: they stay text. */
function escape(text: string): string {
  return text.replace(/[\\`*_<>|[\]]/g, '\\$&');
}
