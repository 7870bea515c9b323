import { setTimeout as sleep } from 'node:timers/promises';
import { Command, Option } from 'commander';
import { SkbwhyError } from '../event/errors.js';
import type { Mechanism } from '../event/point.js';
import type { Fault } from '../faults/fault.js';
import { loadFaults } from '../faults/registry.js';
import type { ClientResult } from '../lab/lab.js';
import { parseSettings } from '../lab/settings.js';
import { FileWriter } from '../session/file-writer.js';
import {
  exitCode,
  explainerOptions,
  maxExchangesOption,
  mechanismsOption,
  type ExplainOptions,
  failOnFindingOption,
  formatOf,
  jsonOption,
  slowOption,
  untilInterrupted,
} from './common.js';
import { explain } from './main-path.js';
import { jsonText, print } from './output.js';
import { checkTracing, openTrace } from './open-trace.js';
import { AFTERMATH_MS } from './record.js';
import { table } from './text.js';

interface LabOptions extends ExplainOptions {
  list?: boolean;
  set?: string[];
  keep?: boolean;
  json?: boolean;
  record?: string;
  failOnFinding?: boolean;
  filter?: string;
  mechanisms?: Mechanism[];
  netns?: string[];
}

export async function labCommand(): Promise<Command> {
  const faults = await loadFaults();
  const command = new Command('lab')
    .enablePositionalOptions()
    .description(
      'reproduces a fault on this kernel in namespaces of its own, traces it, explains it, cleans up',
    )
    .argument('[name]', 'which one')
    .addOption(new Option('--list', 'list the labs'))
    .addOption(jsonOption())
    .action((name: string | undefined, options: LabOptions) => {
      if (name !== undefined || !options.list)
        throw new SkbwhyError(
          'bad-option',
          `${name === undefined ? 'which lab?' : `there is no lab '${name}'.`} One of: ${faults.map(({ lab }) => lab.name).join(', ')} (skbwhy lab --list)`,
        );
      list(faults, options.json === true);
    });
  for (const fault of faults) command.addCommand(labOf(fault));
  return command;
}

function labOf(fault: Fault): Command {
  const { lab } = fault;
  return new Command(lab.name)
    .description(lab.title)
    .argument('[command...]', "after --: runs inside the lab's node instead of its own clients")
    .addOption(new Option('--set <key=value...>', 'a setting of the lab, see below'))
    .addOption(new Option('--keep', 'leave the namespaces there'))
    .addOption(new Option('--record <file>', 'keep the session'))
    .addOption(
      new Option('--netns <role...>', 'trace only these roles’ namespaces (sender, receiver …)'),
    )
    .addOption(new Option('--filter <expression>', 'pcap-filter syntax, as for record'))
    .addOption(mechanismsOption())
    .addOption(slowOption())
    .addOption(maxExchangesOption())
    .addOption(jsonOption())
    .addOption(failOnFindingOption())
    .addHelpText('after', `\nSettings:\n${settingsTable(fault)}`)
    .action(async (words: string[], options: LabOptions) => {
      process.exitCode = await runLab(fault, words, options);
    });
}

/** The keys of `--set` with unit, default and meaning, as `lab NAME --help` shows them. */
export function settingsTable({ lab }: Fault): string {
  return table(
    lab.settings.map((s) => [
      `  ${s.key}`,
      s.default === null ? '–' : `${String(s.default)}${s.unit ? ` ${s.unit}` : ''}`,
      `${s.help}${s.values ? ` (${s.values.join(', ')})` : ''}`,
    ]),
  );
}

function list(faults: readonly Fault[], json: boolean): void {
  if (json)
    process.stdout.write(
      jsonText({
        labs: faults.map(({ lab }) => ({
          name: lab.name,
          title: lab.title,
          settings: lab.settings.map(({ key, unit, default: value, values, help }) => ({
            key,
            unit: unit ?? null,
            default: value,
            values: values ?? null,
            help,
          })),
        })),
      }),
    );
  else process.stdout.write(table(faults.map(({ lab }) => [lab.name, lab.title])) + '\n');
}

export async function runLab(
  fault: Fault,
  command: string[],
  options: LabOptions,
): Promise<number> {
  if (process.env['SKBWHY_NO_LAB'])
    throw new SkbwhyError(
      'no-lab',
      'no lab is run here (SKBWHY_NO_LAB is set, as in the container image): run it in a checkout, on a machine of your own',
    );
  const settings = parseSettings(fault.lab, options.set ?? []);
  await checkTracing(options.filter);
  return untilInterrupted(async (signal) => {
    const lab = await fault.lab.up(settings, signal).catch((error: unknown) => {
      // what the interruption ended is no failure of the lab
      signal.throwIfAborted();
      throw error;
    });
    try {
      signal.throwIfAborted();
      const netns = options.netns?.map((role) => {
        const name = lab.namespaces[role];
        if (name === undefined)
          throw new SkbwhyError(
            'bad-option',
            `the lab has no ${role}; its roles are ${Object.keys(lab.namespaces).join(', ')}`,
          );
        return name;
      });
      const session = await openTrace({
        netns: netns ?? [...lab.traced],
        transient: true,
        ...(options.filter === undefined ? {} : { filter: options.filter }),
        ...(options.mechanisms === undefined ? {} : { mechanisms: options.mechanisms }),
      });
      let recorder: FileWriter | null = null;
      let clients: ClientResult[] = [];
      let status = 0;
      let explaining;
      try {
        signal.throwIfAborted();
        if (options.record) recorder = await FileWriter.create(options.record, session.header);
        explaining = explain([session], { recorder, options: explainerOptions(options) });
        explaining.catch(() => undefined);
        if (command.length > 0)
          status = await lab.exec(command, { signal, stdout: options.json ? 2 : 1 });
        else clients = await lab.run(signal);
        await sleep(AFTERMATH_MS);
      } finally {
        await session.close();
      }
      const explained = await explaining;
      await recorder?.close();
      print(explained, formatOf(options), { clients });
      return exitCode(explained.report, options, signal.aborted ? 0 : status);
    } finally {
      if (options.keep) {
        lab.keep();
        process.stderr.write(
          `Kept: ${Object.entries(lab.namespaces)
            .map(([role, name]) => `${role}=${name}`)
            .join(' ')}; the next lab removes them.\n`,
        );
      } else await lab.down();
    }
  });
}
