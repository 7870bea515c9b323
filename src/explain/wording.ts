/** How figures are written for people, in findings and wherever they are shown. */
import type { Passage } from './finding.js';

/** `12 ms`, `1.03 s` */
export function duration(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${Number((ms / 1000).toFixed(2))} s`;
}

/** `0x4000` */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** A checksum: `0x00de` */
export function hex16(value: number): string {
  return `0x${value.toString(16).padStart(4, '0')}`;
}

/** A packet hash: `0x0000ade1` */
export function hex32(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}

/** Milliseconds to the microsecond, as findings carry them. */
export function toMicroseconds(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

/** `1 SYN`, `2 SYNs`, `3 queries` */
export function count(n: number, noun: string): string {
  if (n === 1) return `1 ${noun}`;
  return `${n} ${noun.replace(/([^aeiou])y$/, '$1ie')}s`;
}

/** A list of more than so many is shown by its first and its last. */
const SHOWN_WHOLE = 12;
const FIRST = 8;
const LAST = 2;

/** What is shown of each; of a long list only the first and the last, and one for all between them. */
export function abridged<T, R>(
  list: readonly T[],
  each: (item: T) => R,
  rest: (between: readonly T[]) => R,
): R[] {
  if (list.length <= SHOWN_WHOLE) return list.map(each);
  return [
    ...list.slice(0, FIRST).map(each),
    rest(list.slice(FIRST, -LAST)),
    ...list.slice(-LAST).map(each),
  ];
}

/** `29 µs`, else as `duration` says it. */
export function shortDuration(ms: number): string {
  return ms < 1 ? `${Math.round(ms * 1000)} µs` : duration(ms);
}

/** ` between flannel.1 and cni0`; nothing where that is not known. */
export function passageText(passage: Passage | null | undefined): string {
  return passage ? ` between ${passage.from} and ${passage.to}` : '';
}
