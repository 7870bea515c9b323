import type { Report } from '../explain/finding.js';
import type { Explained } from './main-path.js';
import { reportMarkdown } from './markdown.js';
import { reportText } from './text.js';

export type Format = 'text' | 'json' | 'markdown';

/** Prints a report on standard output; `extra` joins the JSON object. */
export function print(explained: Explained, format: Format, extra: object = {}): void {
  process.stdout.write(render(explained, format, extra));
}

export function render(explained: Explained, format: Format, extra: object = {}): string {
  const { report, seen } = explained;
  if (format === 'json') return jsonText({ ...report, ...extra } satisfies Report);
  if (format === 'markdown') return reportMarkdown(report, seen);
  return reportText(report, seen);
}

export function jsonText(value: object): string {
  return JSON.stringify(value, null, 2) + '\n';
}
