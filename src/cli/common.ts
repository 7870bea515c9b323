import { Command, InvalidArgumentError, Option } from 'commander';
import { SkbwhyError } from '../event/errors.js';
import { MECHANISMS } from '../event/point.js';
import { MAX_EXCHANGES, type ExplainerOptions } from '../explain/explainer.js';
import type { Report } from '../explain/finding.js';
import type { Format } from './output.js';

/** Options that several commands share, defined once. */
export const jsonOption = (): Option => new Option('--json', 'print one JSON object');

/** @param when status 3 is given, for people */
export const failOnFindingOption = (when = 'there is a finding'): Option =>
  new Option('--fail-on-finding', `exit with status 3 when ${when}`);

export const filterOption = (): Option =>
  new Option(
    '--filter <expression>',
    'pcap-filter syntax; matched against the packet and both tuples of its conntrack entry, then followed',
  );

export const mechanismsOption = (): Option =>
  new Option(
    '--mechanisms <kind...>',
    'only hooks of these kinds; otherwise for each point the cheapest that this kernel has',
  ).choices(MECHANISMS);

export const slowOption = (): Option =>
  new Option(
    '--slow <ms>',
    'a connect or lookup that takes longer is looked into, and a server that takes longer is called slow (default: 500)',
  ).argParser(milliseconds);

export const maxExchangesOption = (): Option =>
  new Option(
    '--max-exchanges <n>',
    `connects and lookups kept in memory at once; of more, the oldest healthy ones are forgotten, and counted (default: ${MAX_EXCHANGES})`,
  ).argParser(exchanges);

/** What `--slow` and `--max-exchanges` say, for the explainer. */
export interface ExplainOptions {
  slow?: number;
  maxExchanges?: number;
}

export function explainerOptions({ slow, maxExchanges }: ExplainOptions): ExplainerOptions {
  return {
    ...(slow === undefined ? {} : { slowMs: slow }),
    ...(maxExchanges === undefined ? {} : { maxExchanges }),
  };
}

function exchanges(value: string): number {
  const n = Number(value);
  if (!(Number.isInteger(n) && n >= 100 && n <= 10_000_000))
    throw new InvalidArgumentError('a number from 100 to 10000000 is wanted.');
  return n;
}

function milliseconds(value: string): number {
  const n = Number(value);
  if (!(n > 0 && n <= 600_000))
    throw new InvalidArgumentError('milliseconds above 0 are wanted, at most 600000.');
  return n;
}

/**
 * Exit status of a command that printed a report. Findings that are asked about come before the user's
 * command that failed: what was found may well be why.
 * @param status that of the user's command; 0 when there was none, or we ended it
 */
export function exitCode(report: Report, options: { failOnFinding?: boolean }, status = 0): number {
  const asked = options.failOnFinding && report.findings.length > 0 ? 3 : 0;
  if (status === 0) return asked;
  const failed = new SkbwhyError('command-failed', `the command ended with status ${status}`);
  process.stderr.write(`${errorLine(failed).line}\n`);
  return asked || failed.exitCode;
}

export function formatOf(options: { json?: boolean; format?: Format }): Format {
  return options.json ? 'json' : (options.format ?? 'text');
}

/** What a timer takes: 24 days. */
const MOST_SECONDS = Math.floor(2 ** 31 / 1000) - 1;

export function seconds(value: string): number {
  const n = Number(value);
  if (!(n > 0 && n <= MOST_SECONDS))
    throw new InvalidArgumentError(
      `a number of seconds above 0 is wanted, at most ${MOST_SECONDS}.`,
    );
  return n;
}

/** The words after `--`. */
export function commandAfterDashes(command: Command): string[] {
  const { args } = command;
  return args.slice(command.registeredArguments.filter((a) => !a.variadic).length);
}

/**
 * Runs `work` with a signal that the first SIGINT or SIGTERM aborts; a second one ends the process
 * at once. An AbortError after it becomes 'interrupted'.
 */
export async function untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = (name: NodeJS.Signals): void => {
    if (controller.signal.aborted) process.exit(name === 'SIGINT' ? 130 : 143);
    controller.abort();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  try {
    return await work(controller.signal);
  } catch (error) {
    if (!controller.signal.aborted || (error as Error).name !== 'AbortError') throw error;
    throw new SkbwhyError('interrupted', 'interrupted before anything was traced', {
      cause: error,
    });
  } finally {
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}

/** An error for people: one line, its code, no stack. */
export function errorLine(error: unknown): { line: string; exitCode: number } {
  if (error instanceof SkbwhyError)
    return { line: `skbwhy: ${oneLine(error.message)} [${error.code}]`, exitCode: error.exitCode };
  const message = error instanceof Error ? error.message : String(error);
  return { line: `skbwhy: ${oneLine(message)} [internal]`, exitCode: 1 };
}

function oneLine(message: string): string {
  return message.trim().replace(/\s*\n\s*/g, ' ');
}
