import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { suite, test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import { reportMarkdown } from '../../src/cli/markdown.js';
import { findingText, unexplainedText } from '../../src/cli/text.js';
import type { Finding, Report, Unexplained } from '../../src/explain/finding.js';

const recorded = new URL('../../../src/faults/policy-drop/session.expected.json', import.meta.url);
const report = JSON.parse(readFileSync(recorded, 'utf8')) as Report;

const SEEN = { 'tcp-connect': 1, 'tcp-transfer': 0, 'dns-lookup': 0 };

function findingOf(attempts: number): Finding {
  const finding = report.findings[0]!;
  const [attempt] = finding.attempts;
  return {
    ...finding,
    attempts: Array.from({ length: attempts }, (_, i) => ({
      ...attempt!,
      n: i + 1,
      atMs: i * 1000,
      // one in the middle that alone has something to tell in its column
      mark: i === 50 ? 7 : null,
    })),
  };
}

function unexplainedOf(attempts: number): Unexplained {
  const { id, subject, startedAt, delayMs, outcome, title, lostEvents } = report.findings[0]!;
  return {
    ...{ id, subject, startedAt, delayMs, outcome, title, lostEvents, excluded: [], next: [] },
    attempts: Array.from({ length: attempts }, (_, i) => ({
      ...{ n: i + 1, what: 'SYN', atMs: i * 1000, lastSeen: 'home', drop: null, evidence: [] },
    })),
  };
}

/** The lines that tell of attempts, or of how many more there are; what comes after the number is cut. */
function linesOf(text: string): string[] {
  return stripVTControlCharacters(text)
    .split('\n')
    .flatMap(
      (line) => /^[ |-]*(SYN \d+(?= {2})|\d+ SYN|SYN \(\d+\)|… \d+ more)/.exec(line)?.[1] ?? [],
    );
}

const named = (name: (n: number) => string, ...numbers: number[]): string[] => numbers.map(name);
const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

suite('a list of attempts', () => {
  const forms: [string, (attempts: number) => string, (n: number) => string][] = [
    ['a finding as text', (n) => findingText(findingOf(n)), (n) => `SYN ${n}`],
    ['unexplained as text', (n) => unexplainedText(unexplainedOf(n)), (n) => `SYN ${n}`],
    [
      'a finding as Markdown',
      (n) => reportMarkdown({ ...report, findings: [findingOf(n)], unexplained: [] }, SEEN),
      (n) => `${n} SYN`,
    ],
    [
      'unexplained as Markdown',
      (n) => reportMarkdown({ ...report, findings: [], unexplained: [unexplainedOf(n)] }, SEEN),
      (n) => `SYN (${n})`,
    ],
  ];
  for (const [what, write, name] of forms)
    test(`${what}: up to 12 whole, of more the first 8, the last 2 and how many between`, () => {
      assert.deepEqual(linesOf(write(12)), named(name, ...range(1, 12)));
      assert.deepEqual(linesOf(write(13)), [
        ...named(name, ...range(1, 8)),
        '… 3 more',
        ...named(name, 12, 13),
      ]);
      assert.deepEqual(linesOf(write(128)), [
        ...named(name, ...range(1, 8)),
        '… 118 more',
        ...named(name, 127, 128),
      ]);
    });

  test('a column that only hidden ones would fill is not there', () => {
    const head = (attempts: number): string =>
      stripVTControlCharacters(findingText(findingOf(attempts)))
        .split('\n')
        .find((line) => line.startsWith('  sent'))!;
    assert.doesNotMatch(head(128), /mark/);
    assert.match(head(51), /mark/);
  });

  test('of a long proof the first and last events are named', () => {
    const evidence = Array.from({ length: 128 }, (_, i) => ({ session: 's', seq: i + 1 }));
    const finding = { ...findingOf(1), chain: [{ claim: 'c', text: 'so', evidence }] };
    const text = stripVTControlCharacters(findingText(finding)).replace(/\s+/g, ' ');
    assert.ok(text.includes('1. so [#1 #2 #3 #4 #5 #6 #7 #8 … 118 more … #127 #128]'), text);
    const markdown = reportMarkdown({ ...report, findings: [finding], unexplained: [] }, SEEN);
    assert.match(markdown, /so \(event 1, .* event 8, … 118 more, event 127, event 128\)/);
  });
});
