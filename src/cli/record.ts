import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { Command, Option } from 'commander';
import { SkbwhyError } from '../event/errors.js';
import type { Mechanism } from '../event/point.js';
import { FileWriter } from '../session/file-writer.js';
import {
  exitCode,
  explainerOptions,
  maxExchangesOption,
  type ExplainOptions,
  failOnFindingOption,
  filterOption,
  mechanismsOption,
  formatOf,
  jsonOption,
  seconds,
  slowOption,
  untilInterrupted,
} from './common.js';
import { explain } from './main-path.js';
import { print } from './output.js';
import { openTrace } from './open-trace.js';

/** After the traffic ends, what is still under way (a drop at the peer) has this long to be seen, ms. */
export const AFTERMATH_MS = 300;

interface RecordOptions extends ExplainOptions {
  filter?: string;
  mechanisms?: Mechanism[];
  netns?: string[];
  duration?: number;
  json?: boolean;
  failOnFinding?: boolean;
}

export function recordCommand(): Command {
  return new Command('record')
    .description('records a session and explains it on the fly')
    .argument('<file>', 'session file to write (.skbw)')
    .argument('[command...]', 'after --: record for as long as this runs')
    .addOption(filterOption())
    .addOption(mechanismsOption())
    .addOption(
      new Option(
        '--netns <name...>',
        'only these network namespaces; otherwise every one that can be found, also those that appear',
      ),
    )
    .addOption(new Option('--duration <seconds>', 'stop after this long').argParser(seconds))
    .addOption(slowOption())
    .addOption(maxExchangesOption())
    .addOption(jsonOption())
    .addOption(failOnFindingOption())
    .action(async (file: string, command: string[], options: RecordOptions) => {
      process.exitCode = await record(file, command, options);
    });
}

async function record(file: string, command: string[], options: RecordOptions): Promise<number> {
  return untilInterrupted(async (signal) => {
    const session = await openTrace({ ...options, transient: true });
    let recorder: FileWriter;
    try {
      recorder = await FileWriter.create(file, session.header);
    } catch (error) {
      await session.close();
      throw error;
    }
    const explaining = explain([session], { recorder, options: explainerOptions(options) });
    explaining.catch(() => undefined);
    if (!options.json && command.length === 0)
      process.stderr.write(
        `Recording to ${file}${options.duration ? ` for ${options.duration} s` : '; Ctrl-C ends it'}.\n`,
      );
    let status = 0;
    try {
      if (command.length > 0) {
        if (!signal.aborted)
          status = await run(command, options.json === true, options.duration, signal);
      } else await Promise.race([waitFor(options.duration, signal), explaining]);
      if (!signal.aborted) await waitFor(AFTERMATH_MS / 1000, signal);
    } finally {
      await session.close();
    }
    const explained = await explaining;
    await recorder.close();
    print(explained, formatOf(options));
    return exitCode(explained.report, options, signal.aborted ? 0 : status);
  });
}

function waitFor(duration: number | undefined, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer =
      duration === undefined
        ? setInterval(() => undefined, 2 ** 30)
        : setTimeout(resolve, duration * 1000);
    signal.addEventListener('abort', () => {
      clearInterval(timer);
      resolve();
    });
  });
}

/**
 * Runs the user's command; with JSON on standard output, its own output goes to standard error.
 * @returns its exit status, 128 + n when signal n ended it; 0 when we ended it
 */
function run(
  command: readonly string[],
  json: boolean,
  duration: number | undefined,
  signal: AbortSignal,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command[0]!, command.slice(1), {
      stdio: ['inherit', json ? 2 : 'inherit', 'inherit'],
    });
    let ended = false;
    const end = (): void => void (ended = child.kill('SIGTERM'));
    const kill = (): void => void child.kill('SIGKILL');
    process.once('exit', kill);
    const timer = duration === undefined ? undefined : setTimeout(end, duration * 1000);
    signal.addEventListener('abort', end);
    child.on('error', (error) =>
      reject(
        new SkbwhyError('command-failed', `cannot run ${command[0]}: ${error.message}`, {
          cause: error,
        }),
      ),
    );
    child.on('exit', (code, name) => {
      clearTimeout(timer);
      process.off('exit', kill);
      resolve(ended ? 0 : (code ?? 128 + constants.signals[name!]));
    });
  });
}
