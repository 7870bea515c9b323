import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { SkbwhyError } from '../event/errors.js';
import { fileError } from '../session/file-error.js';
import { errorLine } from './common.js';
import { daemonCommand } from './daemon.js';

import { doctorCommand } from './doctor.js';
import { explainCommand } from './explain.js';
import { exportCommand } from './export.js';
import { labCommand } from './lab.js';
import { recordCommand } from './record.js';
import { replayCommand } from './replay.js';
import { startCommand } from './start.js';
import { watchCommand } from './watch.js';

/** Runs the command line; sets the process's exit status. */
export async function main(argv: readonly string[]): Promise<void> {
  // A reader that has seen enough (head, less) is no error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    const { line, exitCode } = errorLine(
      fileError('file-unwritable', 'standard output', error, 'free some space there'),
    );
    process.stderr.write(`${line}\n`);
    process.exit(exitCode);
  });
  const program = new Command('skbwhy');
  try {
    program
      .enablePositionalOptions()
      .description('why did this packet not arrive, and why did it arrive in the end?')
      .version(version())
      .addCommand(doctorCommand())
      .addCommand(recordCommand())
      .addCommand(explainCommand())
      .addCommand(daemonCommand())
      .addCommand(watchCommand())
      .addCommand(replayCommand())
      .addCommand(exportCommand(version()))
      .addCommand(await labCommand())
      .addCommand(startCommand(), { hidden: true });
    quiet(program);
    await program.parseAsync([...argv]);
  } catch (error) {
    const usage = error instanceof CommanderError;
    if (usage && error.exitCode === 0) return;
    const { line, exitCode } = errorLine(usage ? wrongUsage(program, error) : error);
    process.stderr.write(`${line}\n`);
    if (process.env['SKBWHY_DEBUG']) console.error(error);
    process.exitCode = exitCode;
  }
}

/** Errors come as one line of our own, for every command. */
function quiet(command: Command): void {
  const nothing = (): void => undefined;
  command.exitOverride().configureOutput({ outputError: nothing, writeErr: nothing });
  command.commands.forEach((sub) => quiet(sub));
}

function wrongUsage(program: Command, { code, message }: CommanderError): SkbwhyError {
  const visible = program.createHelp().visibleCommands(program);
  const names = visible.map((command) => command.name()).join(', ');
  return new SkbwhyError(
    'bad-option',
    code === 'commander.help'
      ? `which command? One of ${names}; skbwhy --help tells more`
      : message.replace(/^error: /, ''),
  );
}

function version(): string {
  const file = new URL('../../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}
