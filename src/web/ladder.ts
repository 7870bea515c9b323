import type { Finding, FindingAttempt } from '../explain/finding.js';
import { abridged, duration, hex, hex16, hex32, passageText } from '../explain/wording.js';
import { h, svg, together, type Child } from './dom.js';

/** The axis ends so much after the last thing on it. */
const ROOM = 1.06;
/** Marks of the axis, at most. */
const TICKS = 6;
const LANE_HEIGHT = 36;

/** What is told of the attempts, where any of them has it. */
interface Columns {
  mark: boolean;
  hash: boolean;
}

/** The time axis that all rows of a ladder share. */
class Axis {
  readonly ticks: number[] = [];
  private readonly end: number;

  constructor(lastMs: number) {
    this.end = Math.max(lastMs, 1) * ROOM;
    const rough = this.end / TICKS;
    const decade = 10 ** Math.floor(Math.log10(rough));
    const step = decade * [1, 2, 5, 10].find((n) => n * decade >= rough)!;
    for (let ms = 0; ms < 0.97 * this.end; ms += step) this.ticks.push(ms);
  }

  /** Where a moment stands, as SVG takes it; a little room at the left for the mark at 0. */
  at(ms: number): string {
    return `${(3 + (Math.min(ms, this.end) / this.end) * 96).toFixed(2)}%`;
  }
}

/**
 * What became of each attempt: one row each along a common time axis.
 * @param dropOf shows the event in which an attempt was dropped, null where it is not known
 */
export function ladder(
  finding: Finding,
  dropOf: (attempt: FindingAttempt) => (() => void) | null,
): HTMLElement {
  const { attempts, prediction } = finding;
  const predicted = typeof prediction?.recoverAtMs === 'number' ? prediction.recoverAtMs : null;
  const last = Math.max(finding.delayMs, ...attempts.map((a) => a.atMs), predicted ?? 0);
  const axis = new Axis(last);
  const columns = {
    mark: attempts.some(({ mark }) => mark !== null && mark !== 0),
    hash: attempts.some(({ hash }) => hash !== null && hash !== 0),
  };
  return h(
    'div',
    { class: finding.subject.kind === 'dns-lookup' ? 'ladder lookup' : 'ladder' },
    scale(axis, predicted),
    h(
      'ol',
      { class: 'attempts' },
      ...abridgedRows(
        attempts.map((attempt, i) =>
          row(attempt, attempts[i + 1] ?? null, axis, predicted, columns, dropOf(attempt)),
        ),
        'attempts',
      ),
    ),
  );
}

/**
 * The rows of a long list, those in the middle one click away.
 * @param list class of the list that they are in
 */
export function abridgedRows(rows: readonly HTMLElement[], list: string): HTMLElement[] {
  return abridged(
    rows,
    (each) => each,
    (between) =>
      h(
        'li',
        { class: 'more' },
        h(
          'details',
          { 'data-key': 'more-attempts' },
          h('summary', {}, `${between.length} more`),
          h('ol', { class: list }, ...between),
        ),
      ),
  );
}

/** The name of what was sent. */
export function attemptName(attempt: { n: number; what?: string }): string {
  const what = attempt.what ?? 'SYN';
  return what === 'SYN' ? `SYN ${attempt.n}` : what;
}

/** The name, a query's type apart from the name that is asked for. */
function nameParts(attempt: FindingAttempt): Child[] {
  const [type, ...asked] = attemptName(attempt).split(' ');
  if (attempt.what === 'SYN' || asked.length === 0) return [h('b', {}, attemptName(attempt))];
  return [h('b', {}, type), ' ', h('span', { class: 'asked' }, asked.join(' '))];
}

function scale(axis: Axis, predicted: number | null): HTMLElement {
  const labels = axis.ticks.map((ms) =>
    svg('text', { x: axis.at(ms), y: 26, class: 'tick' }, ms === 0 ? '0' : duration(ms)),
  );
  const flag =
    predicted === null
      ? null
      : svg('text', { x: axis.at(predicted), y: 11, class: 'predicted' }, 'predicted');
  return h(
    'div',
    { class: 'scale', 'aria-hidden': 'true' },
    svg('svg', { height: 32, class: 'lane' }, ...labels, flag),
  );
}

function row(
  attempt: FindingAttempt,
  next: FindingAttempt | null,
  axis: Axis,
  predicted: number | null,
  columns: Columns,
  showDrop: (() => void) | null,
): HTMLElement {
  return h(
    'li',
    { class: `attempt ${attempt.fate}` },
    h(
      'p',
      { class: 'who' },
      ...nameParts(attempt),
      ' ',
      h('span', { class: 'after' }, attempt.atMs === 0 ? 'at once' : `+${duration(attempt.atMs)}`),
    ),
    lane(attempt, next, axis, predicted),
    fate(attempt, showDrop),
    facts(attempt, columns),
  );
}

function lane(
  attempt: FindingAttempt,
  next: FindingAttempt | null,
  axis: Axis,
  predicted: number | null,
): SVGElement {
  const x = axis.at(attempt.atMs);
  const y = LANE_HEIGHT / 2;
  const lines: Child[] = axis.ticks.map((ms) =>
    svg('line', { x1: axis.at(ms), x2: axis.at(ms), y1: 0, y2: '100%', class: 'grid' }),
  );
  if (predicted !== null)
    lines.push(
      svg('line', {
        x1: axis.at(predicted),
        x2: axis.at(predicted),
        y1: 0,
        y2: '100%',
        class: 'predicted',
      }),
    );
  // until the next attempt the application waits
  if (next && attempt.fate !== 'delivered')
    lines.push(svg('line', { x1: x, x2: axis.at(next.atMs), y1: y, y2: y, class: 'waiting' }));
  return svg(
    'svg',
    { class: 'lane', height: LANE_HEIGHT, 'aria-hidden': 'true' },
    ...lines,
    // a nested svg, so that the mark has a place to be drawn around
    svg('svg', { x, y, overflow: 'visible', class: 'mark' }, ...mark(attempt.fate)),
  );
}

function mark(fate: FindingAttempt['fate']): SVGElement[] {
  switch (fate) {
    case 'delivered':
      return [svg('circle', { r: 9 }), svg('path', { d: 'M-4 0.5 L-1.2 3.4 L4.2 -3' })];
    case 'dropped':
    case 'drop-expected':
      return [
        svg('circle', { r: 9 }),
        svg('path', { d: 'M-3.2 -3.2 L3.2 3.2 M3.2 -3.2 L-3.2 3.2' }),
      ];
    case 'unknown':
      return [svg('circle', { r: 7 })];
  }
}

function fate(attempt: FindingAttempt, showDrop: (() => void) | null): HTMLElement {
  switch (attempt.fate) {
    case 'delivered':
      return h('p', { class: 'fate' }, h('b', {}, 'delivered'));
    case 'drop-expected':
      return h('p', { class: 'fate' }, h('b', {}, 'drop expected'), ' at the peer, not seen');
    case 'unknown':
      return h('p', { class: 'fate' }, 'what became of it is not known');
    case 'dropped': {
      const words = [
        h('b', {}, 'dropped'),
        ' ',
        h('code', {}, attempt.dropReason ?? 'no reason given'),
        ' ',
        attempt.dropLocation === null
          ? null
          : h('small', {}, `at ${attempt.dropLocation}${passageText(attempt.dropBetween)}`),
      ];
      return h(
        'p',
        { class: 'fate' },
        showDrop
          ? h(
              'button',
              {
                type: 'button',
                class: 'link',
                'data-key': `drop-${attempt.n}`,
                title: 'show the event',
                click: showDrop,
              },
              ...words,
            )
          : h('span', {}, ...words),
      );
    }
  }
}

function facts(attempt: FindingAttempt, columns: Columns): HTMLElement | null {
  const { mark, hash, outerPort, outerConntrack, checksum } = attempt;
  const cells: HTMLElement[] = [];
  const cell = (name: string, mood: string | null, ...value: Child[]): void =>
    void cells.push(
      h(
        'div',
        { class: `${name.replaceAll(' ', '-')} ${mood ?? ''}` },
        h('dt', {}, name),
        h('dd', {}, ...value),
      ),
    );
  if (mark !== null && columns.mark)
    cell('mark', mark === 0 ? null : 'odd', h('code', {}, hex(mark)));
  if (outerPort?.wire != null) {
    const { expected, wire } = outerPort;
    const changed = expected !== null && expected !== wire;
    cell(
      'outer port',
      changed ? 'odd' : null,
      h('code', {}, changed ? `${expected} → ${wire}` : String(wire)),
    );
  }
  if (outerConntrack) {
    const { state, snat, ageMs } = outerConntrack;
    const age = state === 'existing' && ageMs !== null ? `, ${duration(ageMs)} old` : '';
    cell('outer conntrack', snat ? 'odd' : null, together(`${state}${age}${snat ? ', SNAT' : ''}`));
  }
  if (checksum) {
    const { before, after, expected } = checksum;
    if (expected === null) cell('checksum', null, 'left to the device');
    else if (after === expected)
      cell(
        'checksum',
        'right',
        after === 0 ? 'none' : h('code', {}, hex16(after)),
        after !== 0 && ' right',
      );
    else
      cell(
        'checksum',
        'wrong',
        h(
          'code',
          {},
          `${before !== null && before !== after ? `${hex16(before)} → ` : ''}${hex16(after)}`,
        ),
        ', should be ',
        h('code', {}, hex16(expected)),
      );
  }
  if (hash !== null && columns.hash) cell('hash', null, h('code', {}, hex32(hash)));
  return cells.length === 0 ? null : h('dl', { class: 'facts' }, ...cells);
}
