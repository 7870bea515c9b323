import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MECHANISMS } from '../../src/event/point.js';
import type { Report } from '../../src/explain/finding.js';
import { KERNELS, type KernelName } from './kernel.js';
import { labsOn } from './labs.js';

const PAGE = fileURLToPath(new URL('../../../docs/kernels.md', import.meta.url));
const BEGIN = '<!-- matrix: written by SKBWHY_EXPECT=write npm run test:kernels -->';
const END = '<!-- /matrix -->';
const HEAD = ['kernel', 'lab', 'traced by', 'found', 'delay', 'what became of the attempts'];

/** One row: what a kernel's guest found in a lab. */
export interface MatrixRow {
  kernel: string;
  lab: string;
  report: Report;
  /** not traced by all that the kernel has */
  part?: boolean;
}

/** What was found: `verdict/defect, confidence`, each once, in order; `nothing`. */
export function foundText({ findings }: Report): string {
  const each = findings.map(
    ({ verdict, defect, confidence }) =>
      `${[verdict, defect].filter(Boolean).join('/')}, ${confidence}`,
  );
  return [...new Set(each)].sort().join('; ') || 'nothing';
}

const tracedBy = ({ sessions }: Report): string =>
  MECHANISMS.filter((each) => sessions.some(({ mechanisms }) => mechanisms.includes(each))).join(
    ', ',
  );

/**
 * Writes rows into the table of docs/kernels.md, in the place of those of the same kernel and lab, or
 * where part of the mechanisms was used, the same mechanisms too; others stay as they are, if there
 * still are such labs.
 */
export function writeMatrix(rows: readonly MatrixRow[]): void {
  const page = readFileSync(PAGE, 'utf8');
  const [before = '', rest = ''] = page.split(BEGIN);
  const [table = '', after = ''] = rest.split(END);
  const others = table
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .slice(1)
    .filter((line) => !line.startsWith('| --'))
    .map((line) => line.split('|').slice(1, -1))
    .map((cells) => cells.map((cell) => cell.trim()))
    .filter(
      ([kernel, lab, mechanisms]) =>
        !rows.some(
          (row) =>
            row.kernel === kernel &&
            row.lab === lab &&
            (!row.part || tracedBy(row.report) === mechanisms),
        ),
    )
    .filter(([kernel, lab]) => labsOn(kernel as KernelName, '').some(([row]) => row === lab));
  const order = Object.keys(KERNELS);
  const sorted = [...others, ...rows.map(cellsOf)].sort(
    ([a = '', x = '', m = ''], [b = '', y = '', n = '']) =>
      order.indexOf(a) - order.indexOf(b) || x.localeCompare(y) || m.length - n.length,
  );
  writeFileSync(
    PAGE,
    `${before}${BEGIN}\n\n${aligned([HEAD, HEAD.map(() => ''), ...sorted])}\n\n${END}${after}`,
  );
}

function cellsOf({ kernel, lab, report }: MatrixRow): string[] {
  const [finding] = report.findings;
  const known = [kernel, lab, tracedBy(report), foundText(report)];
  if (!finding) return [...known, '', ''];
  const fates = finding.attempts.map(({ fate }) => fate);
  const counted = [...new Set(fates)].map(
    (fate) => `${fates.filter((each) => each === fate).length} ${fate}`,
  );
  const delay = `${(finding.delayMs / 1000).toFixed(2)} s`;
  return [...known, delay, counted.join(', ')];
}

/** As prettier would have it; the second row is the line below the head. */
function aligned(rows: readonly string[][]): string {
  const widths = HEAD.map((_, i) => Math.max(3, ...rows.map((row) => row[i]?.length ?? 0)));
  return rows
    .map((row, n) =>
      row.map((cell, i) => (n === 1 ? '-'.repeat(widths[i]!) : cell.padEnd(widths[i]!))),
    )
    .map((row) => `| ${row.join(' | ')} |`)
    .join('\n');
}
