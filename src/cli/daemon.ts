import type { Mechanism } from '../event/point.js';
import { Command, InvalidArgumentError, Option } from 'commander';
import { pino, type Logger } from 'pino';
import type { Finding } from '../explain/finding.js';
import { count } from '../explain/wording.js';
import { FlightRecorder } from '../session/flight-recorder.js';
import { RotatingRecorder } from '../session/rotation.js';
import type { Batch, Session } from '../session/session.js';
import { Channel } from '../stream/channel.js';
import { Metrics } from '../stream/metrics.js';
import { StreamServer } from '../stream/server.js';
import {
  explainerOptions,
  filterOption,
  mechanismsOption,
  maxExchangesOption,
  seconds,
  type ExplainOptions,
  slowOption,
  untilInterrupted,
} from './common.js';
import { explain, type Outlets, type Recorder } from './main-path.js';
import { openTrace } from './open-trace.js';
import {
  allowOriginOption,
  builtPage,
  listenOption,
  tokenFileOption,
  version,
  whoMayConnect,
  type ServingOptions,
} from './serving.js';

interface DaemonOptions extends ServingOptions, ExplainOptions {
  filter?: string;
  mechanisms?: Mechanism[];
  netns?: string[];
  record?: string;
  rotateSize: number;
  rotateAge?: number;
  keepTotal?: number;
  flightRecorder?: number;
  flightDir: string;
  flightSize: number;
}

export function daemonCommand(): Command {
  return new Command('daemon')
    .description('traces, explains, and serves the page and the event stream')
    .addOption(listenOption())
    .addOption(tokenFileOption())
    .addOption(allowOriginOption())
    .addOption(filterOption())
    .addOption(mechanismsOption())
    .addOption(slowOption())
    .addOption(maxExchangesOption())
    .addOption(
      new Option(
        '--netns <name...>',
        'only these network namespaces; otherwise every one that can be found, also those that appear',
      ),
    )
    .addOption(new Option('--record <file>', 'records the session at the same time (.skbw)'))
    .addOption(
      new Option('--rotate-size <size>', 'a recording is closed when it is so long')
        .argParser(size)
        .default(256 << 20, '256M'),
    )
    .addOption(
      new Option('--rotate-age <seconds>', 'a recording is closed when it is so old').argParser(
        seconds,
      ),
    )
    .addOption(
      new Option(
        '--keep-total <size>',
        'the oldest recordings are deleted when all are longer; otherwise none is',
      ).argParser(size),
    )
    .addOption(
      new Option(
        '--flight-recorder <seconds>',
        'keeps the last seconds in memory, writes them when there is a finding or on SIGUSR2',
      ).argParser(seconds),
    )
    .addOption(new Option('--flight-dir <folder>', 'where the flight recorder writes').default('.'))
    .addOption(
      new Option('--flight-size <size>', 'what the flight recorder keeps in memory at most')
        .argParser(size)
        .default(64 << 20, '64M'),
    )
    .action((options: DaemonOptions) => daemon(options));
}

async function daemon(options: DaemonOptions): Promise<void> {
  const { listen, access } = await whoMayConnect(options);
  const log = pino({ name: 'skbwhy' }, pino.destination({ fd: 2, sync: true }));
  await untilInterrupted(async (signal) => {
    const closing: (() => Promise<void>)[] = [];
    try {
      const session = await openTrace(options);
      closing.push(() => session.close());
      const outlets = await openOutlets(session, options, log);
      closing.push(() => outlets.close());
      const { channel, metrics } = outlets;
      const server = await StreamServer.listen({
        listen,
        access,
        channel,
        page: builtPage(),
        control: null,
        metrics: () => metrics.text(),
        log: (message, details) => log.info(details, message),
      });
      closing.push(() => server.close());
      metrics.now = () => ({
        clients: server.clients,
        refused: server.refusals,
        programs: session.costs(),
      });
      log.info({ url: server.url, session: session.header.id }, `serving ${server.url}`);
      const missing = session.header.plan.filter(({ mechanism }) => mechanism === null);
      if (missing.length > 0)
        log.info(
          { missing: Object.fromEntries(missing.map(({ point, reason }) => [point, reason])) },
          `${count(missing.length, 'point')} of ${session.header.plan.length} not attached`,
        );
      const stop = (): void => void session.close();
      if (signal.aborted) stop();
      signal.addEventListener('abort', stop);

      const { report } = await explain([session], {
        ...outlets,
        options: explainerOptions(options),
      });

      channel.end('the daemon ends');
      const { findings, unexplained } = report;
      log.info({ findings: findings.length, unexplained: unexplained.length }, 'ending');
    } finally {
      for (const close of closing.reverse()) await close();
    }
  });
}

/** Where records and findings go: files, figures, clients, the log. */
class DaemonOutlets implements Outlets, Recorder {
  readonly recorder = this;

  constructor(
    readonly publisher: Channel,
    readonly metrics: Metrics,
    private readonly recording: RotatingRecorder | null,
    private readonly flight: FlightRecorder | null,
    private readonly log: Logger,
  ) {
    process.on('SIGUSR2', this.onSignal);
  }

  get channel(): Channel {
    return this.publisher;
  }

  async write(batch: Batch): Promise<void> {
    this.metrics.count(batch);
    this.flight?.keep(batch);
    await this.recording?.write(batch);
  }

  readonly show = (finding: Finding): void => {
    this.metrics.finding(finding);
    this.flight?.finding(finding.verdict);
    const { id, verdict, outcome, revision } = finding;
    this.log.info({ finding: id, verdict, outcome, revision }, finding.title);
  };

  async close(): Promise<void> {
    process.off('SIGUSR2', this.onSignal);
    await this.recording?.close();
    await this.flight?.close();
  }

  private readonly onSignal = (): void => {
    if (this.flight) void this.flight.dump('signal');
    else this.log.warn('SIGUSR2 has nothing to write: there is no --flight-recorder');
  };
}

async function openOutlets(
  { header }: Session,
  options: DaemonOptions,
  log: Logger,
): Promise<DaemonOutlets> {
  const tell = (level: 'info' | 'error', message: string, details?: object): void =>
    log[level](details ?? {}, message);
  const keepTotalBytes = options.keepTotal ?? Infinity;
  let recording: RotatingRecorder | null = null;
  if (options.record !== undefined)
    recording = await RotatingRecorder.create(options.record, header, {
      rotateBytes: Math.min(options.rotateSize, keepTotalBytes / 2),
      rotateMs: (options.rotateAge ?? Infinity) * 1000,
      keepTotalBytes,
      log: tell,
    });
  let flight: FlightRecorder | null = null;
  if (options.flightRecorder !== undefined)
    flight = await FlightRecorder.create(header, {
      seconds: options.flightRecorder,
      maxBytes: options.flightSize,
      folder: options.flightDir,
      keepTotalBytes,
      log: tell,
    });
  const channel = new Channel(header, { version: version() });
  return new DaemonOutlets(channel, new Metrics(header), recording, flight, log);
}

const UNITS: Record<string, number> = { '': 0, K: 10, M: 20, G: 30, T: 40 };

/** `500M`, `2G`, or bytes. */
function size(value: string): number {
  const match = /^(\d+)([KMGT]?)(i?B)?$/i.exec(value);
  const bytes = match ? Number(match[1]) * 2 ** UNITS[match[2]!.toUpperCase()]! : 0;
  if (!(bytes >= 1 << 20)) throw new InvalidArgumentError('a size of 1M or more is wanted.');
  return bytes;
}
