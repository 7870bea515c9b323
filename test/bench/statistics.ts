/** What many rounds of one measurement came to: its middle, and where eight of ten rounds lay. */
export interface Spread {
  median: number;
  low: number;
  high: number;
  rounds: number;
}

/** Median with the first and last decile. @throws RangeError without values */
export function spread(values: readonly number[]): Spread {
  if (values.length === 0) throw new RangeError('nothing was measured');
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))]!;
  return { median: at(0.5), low: at(0.1), high: at(0.9), rounds: sorted.length };
}

/** One line of the table. */
export interface Figure {
  /** what it is about: ring, kernel, explain, file, path */
  about: string;
  what: string;
  unit: string;
  value: Spread;
  /** `value` divided by something else of the same round */
  ratio?: { of: string; value: Spread };
  /** what the median of the ratio, or that of the value, is meant to be at most */
  goal?: { ratio: number } | { median: number };
}

function judged({ value, ratio, goal }: Figure): string {
  if (!goal) return '';
  const [most, is] =
    'ratio' in goal ? [goal.ratio, ratio?.value.median ?? NaN] : [goal.median, value.median];
  return `${'ratio' in goal ? 'ratio' : 'median'} ≤ ${most}: ${is <= most ? 'met' : 'MISSED'}`;
}

export function number(value: number): string {
  if (value >= 10_000) return `${Math.round(value / 100) / 10}k`;
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** The figures as aligned columns. */
export function table(figures: readonly Figure[]): string {
  const rows = [
    ['', '', 'median', 'spread', '', 'ratio', 'spread', 'of', 'goal'],
    ...figures.map((figure) => {
      const { about, what, unit, value, ratio } = figure;
      return [
        about,
        what,
        number(value.median),
        `${number(value.low)}–${number(value.high)}`,
        unit,
        ratio ? number(ratio.value.median) : '',
        ratio ? `${number(ratio.value.low)}–${number(ratio.value.high)}` : '',
        ratio?.of ?? '',
        judged(figure),
      ];
    }),
  ];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const right = new Set([2, 3, 5, 6]);
  return rows
    .map((row) =>
      row
        .map((cell, i) => (right.has(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
