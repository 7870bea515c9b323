import pc from 'picocolors';
import stringWidth from 'string-width';
import type {
  CounterRise,
  Evidence,
  Finding,
  FindingAttempt,
  Prediction,
  Report,
  Seen,
  Unexplained,
} from '../explain/finding.js';
import { abridged, count, duration, hex, hex16, passageText } from '../explain/wording.js';
import { closingLines } from './closing.js';

const TONES = { good: pc.green, plain: String, quiet: pc.dim, warning: pc.yellow } as const;

/** A report as people read it: verdict first, then the ladder of attempts, the proof, what to do. */
export function reportText(report: Report, seen: Seen): string {
  const parts: string[] = [];
  for (const group of byCause(report.findings)) parts.push(causeText(group));
  if (report.unexplained.length > 0)
    parts.push(
      [pc.bold('Unexplained'), ...report.unexplained.map((entry) => unexplainedText(entry))].join(
        '\n\n',
      ),
    );
  parts.push(
    closingLines(report, seen)
      .map(({ text, tone }) => TONES[tone](text))
      .join('\n'),
  );
  return parts.join('\n\n') + '\n';
}

/** Findings with one root, the worst first. */
function byCause(findings: readonly Finding[]): Finding[][] {
  const groups = new Map<string, Finding[]>();
  for (const finding of findings) {
    const group = groups.get(finding.cause);
    if (group) group.push(finding);
    else groups.set(finding.cause, [finding]);
  }
  return [...groups.values()].map((group) => group.sort((a, b) => b.delayMs - a.delayMs));
}

function causeText(group: readonly Finding[]): string {
  const worst = group[0]!;
  const text = findingText(worst);
  if (group.length === 1) return text;
  return `${text}\n\n${pc.bold(`The same cause, ${count(group.length, 'time')}`)} (the worst is shown above):\n${table(
    group.map((f) => [
      `  ${f.subject.client}`,
      f.subject.service ?? f.subject.backend ?? '',
      f.outcome,
      duration(f.delayMs),
      count(f.attempts.length, 'attempt'),
    ]),
  )}`;
}

/** One finding, whole. */
export function findingText(finding: Finding): string {
  const colour =
    finding.outcome === 'failed' ? pc.red : finding.outcome === 'pending' ? pc.yellow : pc.yellow;
  const { subject } = finding;
  const head = [
    pc.bold(colour(finding.title)),
    `${pc.dim('verdict')}    ${pc.bold(finding.verdict)}${finding.defect ? ` (${finding.defect})` : ''}, ${finding.confidence}`,
    `${pc.dim('who')}        ${subject.client} → ${[subject.service, subject.backend].filter(Boolean).join(' → ')}`,
    `${pc.dim('where')}      ${subject.netns}${subject.tunnel ? `, tunnel ${subject.tunnel.device ?? ''} ${subject.tunnel.local} → ${subject.tunnel.remote} (${subject.tunnel.kind} ${subject.tunnel.vni}, port ${subject.tunnel.port})` : ''}`,
  ];
  if (subject.command !== null)
    head.push(
      `${pc.dim('process')}    ${subject.command}${subject.pid === null ? '' : ` (pid ${subject.pid})`}${subject.pod ? `, pod ${subject.pod}` : ''}`,
    );
  for (const reason of finding.loweredFor)
    head.push(wrap(`${pc.dim('not sure')}   ${reason}`, 100, '           '));
  const parts = [head.join('\n'), wrap(finding.summary, 100), ladder(finding.attempts)];
  if (finding.prediction) parts.push(predictionText(finding.prediction));
  parts.push(
    [
      pc.bold('Proof'),
      ...finding.chain.map((claim, i) =>
        wrap(
          `${String(i + 1).padStart(3)}. ${claim.text} ${pc.dim(`[${numbersText(claim.evidence)}]`)}`,
          100,
          '     ',
        ),
      ),
    ].join('\n'),
  );
  if (finding.counters.length > 0) parts.push(countersText(finding.counters));
  if (finding.ruledOut.length > 0)
    parts.push(
      [
        pc.bold('Ruled out'),
        ...finding.ruledOut.map((r) => wrap(`  ${r.verdict}: ${r.text}`, 100, '    ')),
      ].join('\n'),
    );
  if (finding.remedies.length > 0)
    parts.push(
      [
        pc.bold('What to do'),
        ...finding.remedies.map(
          (r) =>
            wrap(`  - ${r.what} ${pc.dim(`(${r.source})`)}`, 100, '    ') +
            (r.command === null ? '' : `\n      ${pc.cyan(r.command)}`),
        ),
      ].join('\n'),
    );
  return parts.join('\n\n');
}

function numbersText(evidence: readonly Evidence[]): string {
  return abridged(
    evidence,
    ({ seq }) => `#${seq}`,
    (between) => `… ${between.length} more …`,
  ).join(' ');
}

function countersText(counters: readonly CounterRise[]): string {
  return [
    pc.bold('Counters that rose meanwhile'),
    ...counters.map((c) =>
      wrap(
        `  ${c.netns ?? 'whole node'}: ${c.name} +${c.rise} ${pc.dim(`(${c.from} → ${c.to}; ${c.meaning})`)}`,
        100,
        '    ',
      ),
    ),
  ].join('\n');
}

function predictionText({ recoverAtMs, observedMs, text }: Prediction): string {
  const when =
    recoverAtMs === null ? 'nothing' : recoverAtMs === 'never' ? 'never' : duration(recoverAtMs);
  const seen = observedMs === null ? '' : `, observed ${duration(observedMs)}`;
  return wrap(`${pc.dim('predicted')}  ${when}${seen}: ${text}`, 100, '           ');
}

/** A row for each attempt; what is known of none of them has no column. */
function ladder(attempts: readonly FindingAttempt[]): string {
  const names = COLUMNS.map(([name]) => pc.dim(name));
  const rows = abridged(
    attempts,
    (attempt) => COLUMNS.map(([, cell]) => cell(attempt)),
    (between) => [`  ${more(between)}`],
  );
  const known = [...COLUMNS.keys()].filter((i) => rows.some((row) => (row[i] ?? '–') !== '–'));
  return table([names, ...rows].map((row) => known.map((i) => row[i] ?? '')));
}

/** The line for attempts that have none of their own. */
function more(attempts: readonly unknown[]): string {
  return pc.dim(`… ${attempts.length} more`);
}

const COLUMNS: readonly [string, (attempt: FindingAttempt) => string][] = [
  ['  sent', (a) => `  ${a.what} ${a.what === 'SYN' ? a.n : ''}`],
  ['after', (a) => duration(a.atMs)],
  ['mark', (a) => (a.mark === null ? '–' : hex(a.mark))],
  ['outer port', outerPortText],
  ['outer conntrack', outerConntrackText],
  ['checksum', checksumText],
  ['what became of it', fateText],
];

function outerPortText({ outerPort }: FindingAttempt): string {
  if (outerPort?.wire == null) return '–';
  const { expected, wire } = outerPort;
  return expected === null || expected === wire ? String(wire) : `${expected} → ${wire}`;
}

function outerConntrackText({ outerConntrack }: FindingAttempt): string {
  if (outerConntrack === null) return '–';
  const { state, snat, ageMs } = outerConntrack;
  return `${state}${snat ? ', SNAT' : ''}${state === 'existing' && ageMs !== null ? `, ${duration(ageMs)} old` : ''}`;
}

function checksumText({ checksum }: FindingAttempt): string {
  if (!checksum) return '–';
  const { before, after, expected } = checksum;
  if (expected === null) return 'left to the device';
  if (after === expected) return after === 0 ? 'none' : `${hex16(after)} right`;
  return `${before !== null && before !== after ? `${hex16(before)} → ` : ''}${hex16(after)}, not ${hex16(expected)}`;
}

function fateText(a: FindingAttempt): string {
  switch (a.fate) {
    case 'delivered':
      return pc.green('delivered');
    case 'dropped':
      return pc.red(`dropped: ${a.dropReason} at ${a.dropLocation}${passageText(a.dropBetween)}`);
    case 'drop-expected':
      return pc.red('drop at the peer expected, not seen');
    case 'unknown':
      return 'not known';
  }
}

/** One exchange without a verdict. */
export function unexplainedText(entry: Unexplained): string {
  return [
    `  ${pc.yellow(entry.title)}${entry.subject.command ? pc.dim(` (${entry.subject.command})`) : ''}`,
    table(
      abridged(
        entry.attempts,
        (a) => [
          `    ${a.what === 'SYN' ? `SYN ${a.n}` : a.what}`,
          duration(a.atMs),
          `last seen at ${a.lastSeen}`,
          a.drop === null ? '' : pc.red(`dropped: ${a.drop}`),
        ],
        (between) => [`    ${more(between)}`],
      ),
    ),
    ...entry.excluded.map((text) => wrap(`    excluded: ${text}`, 100, '      ')),
    ...entry.next.map((text) => wrap(`    next: ${text}`, 100, '      ')),
  ]
    .filter((line) => line !== '')
    .join('\n');
}

/** Columns aligned by what a terminal shows of them, two spaces apart. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, stringWidth(cell))));
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell + ' '.repeat(widths[i]! - stringWidth(cell)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** Breaks a paragraph between words; continuation lines start with `indent`. */
export function wrap(text: string, width: number, indent = ''): string {
  const lines: string[] = [];
  const lead = /^ */.exec(text)![0];
  let line = lead;
  for (const word of text.trim().split(' ')) {
    if (line.trim() !== '' && stringWidth(line) + 1 + stringWidth(word) > width) {
      lines.push(line);
      line = indent + word;
    } else line += (line.trim() === '' ? '' : ' ') + word;
  }
  lines.push(line);
  return lines.join('\n');
}
