import { statSync } from 'node:fs';
import { arch, release, version } from 'node:os';
import { Command, Option } from 'commander';
import pc from 'picocolors';
import { SkbwhyError } from '../event/errors.js';
import type { DeviceFact, Fact, RulesFact, SettingsFact } from '../event/fact.js';
import type { PlanEntry } from '../event/point.js';
import type { Exposure, Unexposed } from '../faults/fault.js';
import { loadFaults } from '../faults/registry.js';
import { datapathOf, type Datapath } from '../host/datapath.js';
import { discoverNamespaces, type Namespace } from '../host/namespaces.js';
import { meaningOf } from '../host/settings.js';
import { HostWatch } from '../host/watch.js';
import { failOnFindingOption, jsonOption } from './common.js';
import { requireLinux } from './open-trace.js';
import { jsonText } from './output.js';
import { table, wrap } from './text.js';

export interface DoctorOptions {
  json?: boolean;
  /** status 3 when the node is exposed */
  failOnFinding?: boolean;
  /** namespaces to examine by name; none: the one the command runs in */
  netns?: readonly string[];
}

/** What `doctor --json` prints. `datapath` and `settings` are those of the first namespace examined. */
export interface DoctorReport {
  kernel: { release: string; version: string; machine: string };
  netns: string;
  datapath: Datapath;
  points: PlanEntry[];
  /** why the points could not be found out, null when they could */
  pointsUnknown: string | null;
  settings: Record<string, string>;
  exposures: Exposure[];
  notExposed: Unexposed[];
  /** rules that are there and could not be read, and the like */
  unread: string[];
  /** the further namespaces given with --netns */
  others: { netns: string; datapath: Datapath; settings: Record<string, string> }[];
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description(
      'what this kernel allows, and which faults this node is exposed to; changes nothing',
    )
    .addOption(
      new Option('--netns <name...>', 'these network namespaces; otherwise the one it runs in'),
    )
    .addOption(jsonOption())
    .addOption(failOnFindingOption())
    .action(async (options: DoctorOptions) => {
      process.exitCode = await doctor(options);
    });
}

/**
 * Says what this kernel allows, what forwards packets here, which settings matter, and which
 * faults this node is exposed to before any packet is lost. Changes nothing, loads no module.
 * @returns the exit status
 * @throws SkbwhyError 'not-linux', 'netns-missing'
 */
export async function doctor(options: DoctorOptions = {}): Promise<number> {
  requireLinux();
  const report = await examine(options.netns ?? []);
  process.stdout.write(options.json ? jsonText(report) : doctorText(report));
  return options.failOnFinding && report.exposures.length > 0 ? 3 : 0;
}

/** @throws SkbwhyError 'netns-missing' */
export async function examine(names: readonly string[]): Promise<DoctorReport> {
  const namespaces = await wanted(names);
  const [facts, datapaths, { points, pointsUnknown }, faults] = await Promise.all([
    new HostWatch(() => namespaces).start(),
    Promise.all(namespaces.map(datapathOf)),
    attachPlan(),
    loadFaults(),
  ]);
  const exposures: Exposure[] = [];
  const notExposed: Unexposed[] = [];
  const unread: string[] = [];
  const looked = namespaces.map((namespace, at) => {
    const here = facts.filter((fact): fact is Fact & { netns: number } => 'netns' in fact);
    const own = here.filter(({ netns }) => netns === namespace.inode);
    const datapath = datapaths[at];
    if (!datapath || own.length === 0)
      throw new SkbwhyError(
        'netns-missing',
        `namespace ${namespace.name} is gone or may not be entered: run as root`,
      );
    const settings = own.find((fact): fact is SettingsFact => fact.fact === 'settings');
    const place = {
      netns: namespace.name,
      kernel: release(),
      devices: own.filter((fact): fact is DeviceFact => fact.fact === 'device'),
      rules: own.find((fact): fact is RulesFact => fact.fact === 'rules') ?? null,
      settings: settings?.values ?? {},
    };
    unread.push(...(place.rules?.unread ?? []));
    for (const fault of faults) {
      const judged = fault.exposure?.(place);
      exposures.push(...(judged?.exposures ?? []));
      notExposed.push(...(judged?.unexposed ?? []));
    }
    return { netns: namespace.name, datapath, settings: place.settings };
  });
  const [first, ...others] = looked;
  return {
    kernel: { release: release(), version: version(), machine: arch() },
    ...first!,
    points,
    pointsUnknown,
    exposures,
    notExposed,
    unread,
    others,
  };
}

async function wanted(names: readonly string[]): Promise<Namespace[]> {
  const known = await discoverNamespaces();
  if (names.length > 0)
    return names.map((name) => {
      const found = known.find((namespace) => namespace.name === name);
      if (!found)
        throw new SkbwhyError(
          'netns-missing',
          `there is no network namespace '${name}': 'ip netns list' names those there are`,
        );
      return found;
    });
  const path = '/proc/self/ns/net';
  const inode = statSync(path).ino;
  const name = known.find((namespace) => namespace.inode === inode)?.name;
  // named after a process: who may look into no others finds itself first
  return [{ inode, name: !name || name.startsWith('pid:') ? 'this namespace' : name, path }];
}

/** The attach plan without attaching: what the kernel really takes, else what its BTF promises. */
async function attachPlan(): Promise<{ points: PlanEntry[]; pointsUnknown: string | null }> {
  try {
    const { checkedPoints, possiblePoints } = await import('../probe/probe.js');
    try {
      return { points: checkedPoints(), pointsUnknown: null };
    } catch (error) {
      if (!(error instanceof SkbwhyError) || error.code === 'no-btf') throw error;
      return { points: possiblePoints(), pointsUnknown: error.message };
    }
  } catch (error) {
    return { points: [], pointsUnknown: error instanceof Error ? error.message : String(error) };
  }
}

const WIDTH = 100;

/** The report for people. */
export function doctorText(report: DoctorReport): string {
  const { kernel } = report;
  const parts = [
    `${pc.dim('kernel')}     ${pc.bold(kernel.release)} (${kernel.machine}) ${pc.dim(kernel.version)}`,
    pointsText(report),
  ];
  for (const { netns, datapath, settings } of [report, ...report.others])
    parts.push(
      `${pc.bold(`Namespace ${netns}`)}\n${datapathText(datapath, report.unread.length === 0)}`,
      settingsText(settings),
    );
  if (report.unread.length > 0)
    parts.push(report.unread.map((line) => pc.yellow(`not read: ${line}`)).join('\n'));
  parts.push(...report.exposures.map(exposureText));
  if (report.notExposed.length > 0) parts.push(report.notExposed.map(unexposedText).join('\n'));
  return parts.join('\n\n') + '\n';
}

function pointsText({ points, pointsUnknown }: DoctorReport): string {
  const lines = [pc.bold('Observation points')];
  if (pointsUnknown !== null) lines.push(pc.yellow(wrap(`  ${pointsUnknown}`, WIDTH, '  ')));
  lines.push(
    table(
      points.map(({ point, mechanism, where, reason }) => [
        `  ${point}`,
        mechanism ?? pc.yellow('none'),
        mechanism ? where : pc.yellow(reason ?? ''),
      ]),
    ),
  );
  return lines.filter((line) => line !== '').join('\n');
}

function datapathText(datapath: Datapath, allRead: boolean): string {
  const rules = [
    datapath.iptablesLegacy.length > 0
      ? `iptables legacy (${datapath.iptablesLegacy.join(', ')})`
      : '',
    datapath.nft.length > 0 ? `nft (${datapath.nft.join(', ')})` : '',
  ].filter(Boolean);
  const bridge = { true: 'on', false: 'off', null: 'not in the kernel' } as const;
  return [
    `  rules             ${rules.join('; ') || (allRead ? 'none' : 'not readable')}`,
    `  IPVS              ${datapath.ipvs ? 'in use' : 'not in use'}`,
    `  Cilium            ${datapath.cilium ? 'in use' : 'not in use'}`,
    `  bridge netfilter  ${bridge[`${datapath.bridgeNetfilter}`]}`,
    ...(datapath.invisible.length > 0
      ? datapath.invisible.map((text) => pc.yellow(wrap(`  invisible: ${text}`, WIDTH, '    ')))
      : ['  invisible         nothing known of']),
  ].join('\n');
}

function settingsText(settings: Record<string, string>): string {
  return table([
    [pc.bold('Settings')],
    ...Object.entries(settings).map(([name, value]) => [
      `  ${name}`,
      value,
      pc.dim(meaningOf(name)),
    ]),
  ]);
}

function exposureText(exposure: Exposure): string {
  const { verdict, defect, confidence, why, remedies } = exposure;
  const word = confidence === 'proved' ? 'exposed' : 'possibly exposed';
  return [
    pc.bold(pc.red(`${word}: ${verdict}${defect ? ` (${defect})` : ''} at ${placeText(exposure)}`)),
    ...why.map((text) => wrap(`  - ${text}`, WIDTH, '    ')),
    pc.bold('  What to do'),
    ...remedies.map(
      ({ what, command, source }) =>
        wrap(`  - ${what} ${pc.dim(`(${source})`)}`, WIDTH, '    ') +
        (command === null ? '' : `\n      ${pc.cyan(command)}`),
    ),
  ].join('\n');
}

function unexposedText(unexposed: Unexposed): string {
  const [only, ...more] = unexposed.why;
  const head = `${pc.green('not exposed')}: ${unexposed.verdict} at ${placeText(unexposed)}`;
  return more.length === 0
    ? wrap(`${head}: ${only ?? ''}`, WIDTH, '    ')
    : [head, ...unexposed.why.map((text) => wrap(`  - ${text}`, WIDTH, '    '))].join('\n');
}

const placeText = ({ where }: Pick<Unexposed, 'where'>): string =>
  where.device === null ? where.netns : `${where.netns}, ${where.device}`;
