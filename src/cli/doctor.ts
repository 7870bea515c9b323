import { statSync } from 'node:fs';
import { machine, release, version } from 'node:os';
import { Command, Option } from 'commander';
import pc from 'picocolors';
import stringWidth from 'string-width';
import { SkbwhyError } from '../event/errors.js';
import { CONNTRACK_COUNTERS, counterMeaning } from '../event/counters.js';
import type {
  CountersFact,
  DatapathFact,
  DeviceFact,
  Fact,
  RulesFact,
  SettingsFact,
} from '../event/fact.js';
import type { PlanEntry } from '../event/point.js';
import { blindnessOf, type Blindness } from '../explain/blindness.js';
import type { Exposure, Place, Unexposed } from '../faults/fault.js';
import { loadFaults } from '../faults/registry.js';
import { discoverNamespaces, type Namespace } from '../host/namespaces.js';
import { resolversOf, type Resolver } from '../host/resolvers.js';
import { meaningOf } from '../host/settings.js';
import { HostWatch } from '../host/watch.js';
import type { PointCost } from '../session/costs.js';
import { failOnFindingOption, jsonOption, seconds } from './common.js';
import { requireLinux } from './open-trace.js';
import { jsonText } from './output.js';
import { table, wrap } from './text.js';

export interface DoctorOptions {
  /** measure for so many seconds */
  cost?: number;
  json?: boolean;
  /** status 3 when the node is exposed */
  failOnFinding?: boolean;
  /** namespaces to examine by name; none: the one the command runs in */
  netns?: readonly string[];
}

/** By what packets are forwarded, and what cannot be seen there. */
export interface Datapath extends Omit<DatapathFact, 'fact' | 'netns'> {
  /** one sentence each */
  invisible: string[];
  /** the same, with the points that it hides packets from */
  blind: Pick<Blindness, 'by' | 'points'>[];
}

/** A counter since its namespace (or, where it is one for the node, the node) came to be. */
export interface CounterReport {
  name: string;
  value: number;
  meaning: string;
  /** packets were lost: worth a look */
  attention: boolean;
}

/** What is told of a namespace. */
export interface NamespaceReport {
  netns: string;
  datapath: Datapath;
  /** conntrack's table; null: conntrack is not in use */
  conntrack: { entries: number; max: number; buckets: number } | null;
  /** conntrack's, and those of others that tell of lost packets */
  counters: CounterReport[];
  settings: Record<string, string>;
}

/** What `doctor --json` prints; what it says of a namespace is about the first one examined. */
export interface DoctorReport extends NamespaceReport {
  kernel: { release: string; version: string; machine: string };
  /** with `--cost`: what each has cost */
  points: (PlanEntry & { cost?: PointCost | null })[];
  /** why the points could not be found out, null when they could */
  pointsUnknown: string | null;
  /** how processes look names up: in the namespaces given with --netns, otherwise in all there are */
  resolvers: Resolver[];
  exposures: Exposure[];
  notExposed: Unexposed[];
  /** rules that are there and could not be read, and the like */
  unread: string[];
  /** the further namespaces given with --netns */
  others: NamespaceReport[];
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description(
      'what this kernel allows, and which faults this node is exposed to; changes nothing',
    )
    .addOption(
      new Option('--netns <name...>', 'these network namespaces; otherwise the one it runs in'),
    )
    .addOption(
      new Option(
        '--cost <seconds>',
        'attaches everything for so long, and says what each point has cost',
      ).argParser(seconds),
    )
    .addOption(jsonOption())
    .addOption(failOnFindingOption('the node is exposed to a fault'))
    .action(async (options: DoctorOptions) => {
      process.exitCode = await doctor(options);
    });
}

/**
 * Says what this kernel allows, what forwards packets here, which settings matter, and which
 * faults this node is exposed to before any packet is lost. Changes nothing, loads no module.
 * @returns the exit status
 * @throws SkbwhyError 'not-linux', 'netns-missing'; of `cost`, after the report: 'no-privilege' and what
 *   else a trace may throw
 */
export async function doctor(options: DoctorOptions = {}): Promise<number> {
  requireLinux();
  const report = await examine(options.netns ?? []);
  let refused: SkbwhyError | null = null;
  if (options.cost !== undefined) {
    const { measureCosts } = await import('../session/costs.js');
    try {
      const { plan, costs } = await measureCosts(options.cost);
      report.points = plan.map((entry) => ({ ...entry, cost: costs.get(entry.point) ?? null }));
    } catch (error) {
      if (!(error instanceof SkbwhyError)) throw error;
      refused = error;
    }
  }
  process.stdout.write(options.json ? jsonText(report) : doctorText(report));
  if (refused) throw refused;
  return options.failOnFinding && report.exposures.length > 0 ? 3 : 0;
}

/** @throws SkbwhyError 'netns-missing' */
export async function examine(names: readonly string[]): Promise<DoctorReport> {
  const known = await discoverNamespaces();
  const namespaces = wanted(names, known);
  const [facts, resolvers, { points, pointsUnknown }, faults] = await Promise.all([
    new HostWatch(() => namespaces).start(),
    resolversOf(names.length > 0 ? namespaces : named(known, namespaces)),
    attachPlan(),
    loadFaults(),
  ]);
  const exposures: Exposure[] = [];
  const notExposed: Unexposed[] = [];
  const unread: string[] = [];
  const looked = namespaces.map((namespace, at): NamespaceReport => {
    const here = facts.filter((fact): fact is Fact & { netns: number } => 'netns' in fact);
    const own = here.filter(({ netns }) => netns === namespace.inode);
    const datapath = own.find((fact): fact is DatapathFact => fact.fact === 'datapath');
    if (!datapath)
      throw new SkbwhyError(
        'netns-missing',
        `namespace ${namespace.name} is gone or may not be entered: run as root`,
      );
    const settings = own.find((fact): fact is SettingsFact => fact.fact === 'settings');
    const counters = own.find((fact): fact is CountersFact => fact.fact === 'counters');
    const place: Place = {
      netns: namespace.name,
      kernel: release(),
      devices: own.filter((fact): fact is DeviceFact => fact.fact === 'device'),
      rules: own.find((fact): fact is RulesFact => fact.fact === 'rules') ?? null,
      settings: settings?.values ?? {},
      counters: counters?.values ?? {},
      resolvers: resolvers.filter(({ netns }) =>
        // those of pods go with the node, which is examined first
        at === 0
          ? netns.some((name) => name === namespace.name || !isExamined(name, namespaces))
          : netns.includes(namespace.name),
      ),
      passing: resolvers,
    };
    unread.push(...(place.rules?.unread ?? []));
    for (const fault of faults) {
      const judged = fault.exposure?.(place);
      exposures.push(...(judged?.exposures ?? []));
      notExposed.push(...(judged?.unexposed ?? []));
    }
    return {
      netns: namespace.name,
      datapath: datapathOf(datapath, place.devices),
      conntrack: conntrackOf(place),
      counters: countersOf(place),
      settings: place.settings,
    };
  });
  const [first, ...others] = looked;
  return {
    kernel: { release: release(), version: version(), machine: machine() },
    ...first!,
    points,
    pointsUnknown,
    resolvers,
    exposures: exposures.sort((a, b) => SURE[a.confidence] - SURE[b.confidence]),
    notExposed,
    unread,
    others,
  };
}

function datapathOf(known: DatapathFact, devices: readonly DeviceFact[]): Datapath {
  const { fact: _fact, netns: _netns, ...datapath } = known;
  const blind = blindnessOf(known, devices);
  return {
    ...datapath,
    invisible: blind.map(({ text }) => text),
    blind: blind.map(({ by, points }) => ({ by, points })),
  };
}

/** What is certain comes first. */
const SURE = { proved: 0, likely: 1, possible: 2 } as const;

const isExamined = (name: string, namespaces: readonly Namespace[]): boolean =>
  namespaces.some((namespace) => namespace.name === name);

function conntrackOf({ settings, counters }: Place): NamespaceReport['conntrack'] {
  const number = (name: string): number => Number(settings[`net.netfilter.${name}`] ?? NaN);
  const max = number('nf_conntrack_max');
  return max > 0
    ? { entries: counters['conntrack.entries'] ?? 0, max, buckets: number('nf_conntrack_buckets') }
    : null;
}

/** Conntrack's where it is in use, those that are 0 too: that nothing was dropped is worth knowing. */
function countersOf(place: Place): CounterReport[] {
  const conntrack = conntrackOf(place) ? CONNTRACK_COUNTERS : [];
  const names = [...new Set([...conntrack, ...Object.keys(place.counters)])];
  return names.flatMap((name) => {
    const known = counterMeaning(name);
    const value = place.counters[name] ?? 0;
    if (!known || !(known.loss || conntrack.includes(name))) return [];
    return [{ name, value, meaning: known.meaning, attention: known.loss && value > 0 }];
  });
}

function wanted(names: readonly string[], known: readonly Namespace[]): Namespace[] {
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

/** All that are known, under the names that they are examined by. */
const named = (known: readonly Namespace[], examined: readonly Namespace[]): Namespace[] =>
  known.map((one) => examined.find(({ inode }) => inode === one.inode) ?? one);

/** The attach plan without attaching: what the kernel really takes; where it may not be asked, none, and what its BTF promises. */
async function attachPlan(): Promise<{ points: PlanEntry[]; pointsUnknown: string | null }> {
  try {
    const { checkedPoints, possiblePoints } = await import('../probe/probe.js');
    try {
      return { points: checkedPoints(), pointsUnknown: null };
    } catch (error) {
      if (!(error instanceof SkbwhyError) || error.code === 'no-btf') throw error;
      const points = possiblePoints().map((entry) => (entry.mechanism ? untried(entry) : entry));
      return { points, pointsUnknown: error.message };
    }
  } catch (error) {
    return { points: [], pointsUnknown: error instanceof Error ? error.message : String(error) };
  }
}

const untried = ({ point, mechanism, where }: PlanEntry): PlanEntry => ({
  point,
  mechanism: null,
  where: '',
  reason: `not tried; its BTF would have ${mechanism} ${where}`,
});

/** A terminal of a machine room. */
const WIDTH = 80;

/** The report for people: what is worth most stands last, where a terminal shows it. */
export function doctorText(report: DoctorReport): string {
  const { kernel, exposures, notExposed, unread } = report;
  const parts = [
    wrap(
      `${pc.dim('kernel')}     ${pc.bold(kernel.release)} (${kernel.machine}) ${pc.dim(kernel.version)}`,
      WIDTH,
      '           ',
    ),
    pointsText(report),
  ];
  for (const namespace of [report, ...report.others])
    parts.push(
      `${pc.bold(`Namespace ${namespace.netns}`)}\n${datapathText(namespace.datapath, unread.length === 0)}`,
      settingsText(namespace.settings),
      countersText(namespace),
    );
  parts.push(resolversText(report.resolvers));
  if (unread.length > 0)
    parts.push(unread.map((line) => pc.yellow(wrap(`not read: ${line}`, WIDTH, '  '))).join('\n'));
  for (const { netns } of [report, ...report.others]) {
    const here = notExposed.filter(({ where }) => where.netns === netns).map(unexposedText);
    const head = report.others.length > 0 ? `Not exposed: ${netns}` : 'Not exposed';
    if (here.length > 0) parts.push([pc.bold(head), ...here].join('\n'));
  }
  parts.push(...exposures.map(exposureText), conclusion(report));
  return parts.filter((part) => part !== '').join('\n\n') + '\n';
}

function pointsText({ points, pointsUnknown }: DoctorReport): string {
  const lines = [pc.bold('Observation points')];
  if (pointsUnknown !== null) lines.push(pc.yellow(wrap(`  ${pointsUnknown}`, WIDTH, '  ')));
  if (points.length > 0)
    lines.push(
      columns(
        together(points).map(({ name, mechanism, text, cost }) => [
          `  ${name}`,
          mechanism ?? pc.yellow('none'),
          ...(cost === '' ? [] : [cost]),
          mechanism ? text : pc.yellow(text),
        ]),
      ),
    );
  return lines.join('\n');
}

/** Points of one family that are hooked alike, as one: `hook.*`. */
function together(points: DoctorReport['points']) {
  const rows: { name: string; mechanism: PlanEntry['mechanism']; text: string; cost: string }[] =
    [];
  for (const { point, mechanism, where, reason, cost: measured } of points) {
    const text = mechanism ? where : (reason ?? '');
    const cost = measured === undefined ? '' : costText(measured);
    const last = rows.at(-1);
    const family = point.replace(/\..*/, '.');
    if (last?.name.startsWith(family) && last.mechanism === mechanism && last.text === text)
      last.name = `${family}*`;
    else rows.push({ name: point, mechanism, text, cost });
  }
  return rows;
}

const costText = (cost: PointCost | null): string =>
  cost === null ? '–' : cost.ns === null ? 'no run' : `${cost.perSecond}/s × ${cost.ns} ns`;

function datapathText(datapath: Datapath, allRead: boolean): string {
  const rules = [
    datapath.iptablesLegacy.length > 0
      ? `iptables legacy (${datapath.iptablesLegacy.join(', ')})`
      : '',
    datapath.nft.length > 0 ? `nft (${datapath.nft.join(', ')})` : '',
  ].filter(Boolean);
  const bridge = { true: 'on', false: 'off', null: 'not in the kernel' } as const;
  return columns([
    ['  rules', rules.join('; ') || (allRead ? 'none' : 'not readable')],
    ['  IPVS', datapath.ipvs ? 'in use' : 'not in use'],
    ['  Cilium', datapath.cilium ? 'in use' : 'not in use'],
    ['  bridge netfilter', bridge[`${datapath.bridgeNetfilter}`]],
    ...(datapath.invisible.length > 0
      ? datapath.invisible.map((text, i) => [
          pc.yellow('  invisible'),
          pc.yellow(`${text} (blind: ${datapath.blind[i]?.points.join(', ')})`),
        ])
      : [['  invisible', 'nothing known of']]),
  ]);
}

/** What most names begin with, so that there is room for what they mean. */
const PREFIXES = [
  'net.core.',
  'net.ipv4.',
  'net.ipv6.',
  'net.bridge.',
  'net.netfilter.nf_conntrack_',
];

function settingsText(settings: Record<string, string>): string {
  const groups = new Map<string, string[][]>();
  for (const [name, value] of Object.entries(settings)) {
    const prefix = PREFIXES.find((known) => name.startsWith(known)) ?? '';
    const rows = groups.get(prefix) ?? [];
    groups.set(prefix, rows);
    rows.push([`    ${name.slice(prefix.length)}`, value, pc.dim(meaningOf(name))]);
  }
  if (groups.size === 0) return '';
  const texts = [...groups].map(([prefix, rows]) => `  ${prefix || 'others'}\n${columns(rows)}`);
  return [pc.bold('Settings'), ...texts].join('\n');
}

function countersText({ conntrack, counters }: NamespaceReport): string {
  const lines: string[] = [];
  if (conntrack) {
    const { entries, max, buckets } = conntrack;
    lines.push(
      pc.bold('Conntrack'),
      `  ${entries} of ${max} entries (${Math.floor((entries / max) * 100)} %) in ${buckets} buckets`,
    );
  }
  const [own, others] = [true, false].map((of) =>
    counters.filter(({ name }) => name.startsWith('conntrack.') === of),
  );
  const rows = (some: readonly CounterReport[] = []): string =>
    columns(
      some.map(({ name, value, meaning, attention }) => [
        `  ${name.replace('conntrack.', '')}`,
        attention ? pc.red(String(value)) : String(value),
        pc.dim(meaning),
      ]),
    );
  if (own && own.length > 0) lines.push(rows(own));
  if (others && others.length > 0)
    lines.push(
      ...(lines.length > 0 ? [''] : []),
      pc.bold('Other counters of lost packets'),
      pc.dim('  since the namespace came to be; softnet: the node'),
      rows(others),
    );
  return lines.join('\n');
}

function resolversText(resolvers: readonly Resolver[]): string {
  if (resolvers.length === 0) return '';
  return [
    pc.bold('Resolvers'),
    columns(
      resolvers.map(({ netns, libc, nameServers, search, ndots, options }) => [
        `  ${netns.length === 1 ? netns[0] : `${netns.length} namespaces`}`,
        libc ?? pc.dim('libc not known'),
        [
          nameServers.join(', ') || 'no name server',
          search.length > 0 ? `search ${search.join(' ')}` : 'no search list',
          `ndots:${ndots}`,
          ...options,
        ].join('; '),
      ]),
    ),
  ].join('\n');
}

const WORDS = {
  proved: 'exposed',
  likely: 'likely exposed',
  possible: 'possibly exposed',
} as const;

function exposureText(exposure: Exposure): string {
  const { verdict, defect, confidence, why, remedies } = exposure;
  const head = `${WORDS[confidence]}: ${verdict}${defect ? ` (${defect})` : ''} at ${placeText(exposure)}`;
  return [
    wrap(head, WIDTH, '    ')
      .split('\n')
      .map((line) => pc.bold(confidence === 'possible' ? pc.yellow(line) : pc.red(line)))
      .join('\n'),
    ...why.map((text) => wrap(`  - ${text}`, WIDTH, '    ')),
    pc.bold('  What to do'),
    ...remedies.map(
      ({ what, command, source }) =>
        wrap(`  - ${what} ${pc.dim(`(${source})`)}`, WIDTH, '    ') +
        (command === null ? '' : `\n      ${pc.cyan(command)}`),
    ),
  ].join('\n');
}

function unexposedText({ verdict, where: { device }, why: [only, ...more] }: Unexposed): string {
  const head = `  ${pc.green(verdict)}${device === null ? '' : ` at ${device}`}:`;
  return more.length === 0
    ? wrap(`${head} ${only ?? ''}`, WIDTH, '    ')
    : [head, ...[only ?? '', ...more].map((text) => wrap(`    - ${text}`, WIDTH, '      '))].join(
        '\n',
      );
}

/** The last line says what the rest comes to. */
function conclusion({ exposures, counters, others }: DoctorReport): string {
  const losses = [counters, ...others.map((other) => other.counters)]
    .flat()
    .filter(({ attention }) => attention)
    .map(({ name }) => name);
  const lines = (['proved', 'likely', 'possible'] as const).flatMap((confidence) => {
    const mine = exposures.filter((exposure) => exposure.confidence === confidence);
    if (mine.length === 0) return [];
    const verdicts = [...new Set(mine.map(({ verdict }) => verdict))].join(', ');
    const word = WORDS[confidence];
    const text = `${word.charAt(0).toUpperCase()}${word.slice(1)} to ${verdicts}.`;
    return [confidence === 'possible' ? pc.yellow(text) : pc.red(text)];
  });
  if (losses.length > 0)
    lines.push(pc.yellow(`Packets were lost: ${[...new Set(losses)].join(', ')}.`));
  return lines.length > 0
    ? lines.map((line) => wrap(line, WIDTH, '  ')).join('\n')
    : pc.green('Exposed to nothing that is known here.');
}

const placeText = ({ where }: Pick<Unexposed, 'where'>): string =>
  where.device === null ? where.netns : `${where.netns}, ${where.device}`;

/** A table whose last column goes on below itself where it is too wide. */
function columns(rows: readonly (readonly string[])[]): string {
  const fixed = table(rows.map((row) => row.slice(0, -1))).split('\n');
  const indent = Math.max(...fixed.map((line) => stringWidth(line))) + 2;
  return rows
    .map((row, i) => {
      const lead = fixed[i]! + ' '.repeat(indent - stringWidth(fixed[i]!));
      const text = row.at(-1)!;
      const lines = wrap(text, Math.max(WIDTH - indent, 24)).split('\n');
      return (lead + lines.join(`\n${' '.repeat(indent)}`)).trimEnd();
    })
    .join('\n');
}
