import { Command, Option } from 'commander';
import pc from 'picocolors';
import { decodeFact, RECORD_EVENT, type Fact } from '../event/fact.js';
import { EVENT_SKIPPED } from '../event/flags.js';
import { LAYOUT } from '../event/layout.js';
import { count } from '../explain/wording.js';
import { recordSize } from '../session/records.js';
import { readToken } from '../stream/access.js';
import { follow, type Disconnected } from '../stream/follow.js';
import { DEFAULT_PORT, type ServerMessage } from '../stream/protocol.js';
import { untilInterrupted } from './common.js';
import { tokenFileOption } from './serving.js';
import { findingText, unexplainedText } from './text.js';

interface WatchOptions {
  json?: boolean;
  verdict?: string[];
  tokenFile?: string;
}

const KIND = LAYOUT.kind[0];
const FLAGS = LAYOUT.flags[0];
/** The moving line is drawn so often, ms. */
const STATUS_MS = 500;

export function watchCommand(): Command {
  return new Command('watch')
    .description('follows a daemon, or a replay, in the terminal')
    .argument('[url]', 'its address', `http://127.0.0.1:${DEFAULT_PORT}`)
    .addOption(
      new Option(
        '--json',
        'print a line of JSON for each finding that is new or changed, {"unexplained": …} for what has none, {"lost": …} for records that were missed',
      ),
    )
    .addOption(new Option('--verdict <code...>', 'findings of these only'))
    .addOption(tokenFileOption())
    .action((url: string, options: WatchOptions) => watch(url, options));
}

async function watch(url: string, options: WatchOptions): Promise<void> {
  const token = await readToken(options.tokenFile);
  const screen = options.json ? new JsonLines() : new Terminal();
  // without a terminal nobody sees the rates: the records need not come
  const filter = {
    records: screen.showsRates,
    ...(options.verdict ? { verdicts: options.verdict } : {}),
  };
  await untilInterrupted(async (signal) => {
    try {
      for await (const message of follow(url, { token, filter, signal })) screen.show(message);
    } finally {
      screen.close();
    }
  });
}

interface Screen {
  readonly showsRates: boolean;
  show(message: ServerMessage | Disconnected): void;
  close(): void;
}

/**
 * For pipes: findings on standard output, and as `{ unexplained }` and `{ lost }` what has none and
 * what was missed; what happens to the connection on standard error.
 */
class JsonLines implements Screen {
  readonly showsRates = false;

  show(message: ServerMessage | Disconnected): void {
    if (message.type === 'finding') this.print(message.finding);
    else if (message.type === 'unexplained') this.print({ unexplained: message.unexplained });
    else if (message.type === 'lost')
      this.print({ lost: { records: message.count, reason: message.reason } });
    else if (message.type === 'disconnected') process.stderr.write(`skbwhy: ${message.why}\n`);
  }

  private print(line: object): void {
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }

  close(): void {}
}

/** For people: findings one below the other, and on a terminal a line that moves at the bottom. */
class Terminal implements Screen {
  readonly showsRates = process.stdout.isTTY === true;
  private readonly timer = this.showsRates ? setInterval(() => this.draw(), STATUS_MS) : undefined;
  private state = 'connecting';
  private events = 0;
  private eventsBefore = 0;
  private drawnAt = performance.now();
  private missed = 0;
  private lostInKernel = 0;
  private readonly findings = new Set<string>();

  show(message: ServerMessage | Disconnected): void {
    switch (message.type) {
      case 'hello':
        this.state = `${message.playback ? 'replay' : 'live'}, ${message.session.node}`;
        if (!message.resumed)
          this.print(
            pc.dim(
              `Following ${message.session.node} (${message.session.kernel.release}), session ${message.session.id}.`,
            ),
          );
        break;
      case 'records':
        this.count(message.records as Buffer);
        break;
      case 'finding': {
        const { finding } = message;
        const change = this.findings.has(finding.id) ? pc.dim('(changed) ') : '';
        this.findings.add(finding.id);
        this.print(`${change}${findingText(finding)}\n`);
        break;
      }
      case 'unexplained':
        this.print(`${pc.bold('Unexplained')}\n${unexplainedText(message.unexplained)}\n`);
        break;
      case 'lost':
        this.missed += message.count;
        this.print(pc.yellow(`${count(message.count, 'record')} missed (${message.reason}).`));
        break;
      case 'disconnected':
        this.state = 'not connected';
        this.print(pc.yellow(`${message.why}; trying again.`));
        break;
      case 'end':
        this.print(pc.dim(`${message.reason}; ${count(this.findings.size, 'finding')}.`));
        break;
    }
  }

  close(): void {
    clearInterval(this.timer);
    this.clearLine();
  }

  private count(records: Buffer): void {
    for (let at = 0; at < records.length; at += recordSize(records, at))
      if (records[at + KIND] === RECORD_EVENT) {
        this.events++;
        if ((records[at + FLAGS]! & EVENT_SKIPPED) !== 0) this.lostInKernel++;
      } else this.countLost(decodeFact(records, at));
  }

  private countLost(fact: Fact): void {
    if (fact.fact !== 'lost') return;
    for (const lost of [...Object.values(fact.ring), ...Object.values(fact.missed)])
      this.lostInKernel += lost;
  }

  private draw(): void {
    const now = performance.now();
    const rate = Math.round(((this.events - this.eventsBefore) * 1000) / (now - this.drawnAt));
    this.eventsBefore = this.events;
    this.drawnAt = now;
    const lost = this.lostInKernel + this.missed;
    const parts = [
      this.state,
      `${rate} events/s`,
      count(this.findings.size, 'finding'),
      lost > 0 ? pc.yellow(`${lost} lost`) : 'none lost',
    ];
    process.stdout.write(`\r\x1b[2K${parts.join(pc.dim(' · '))}`);
  }

  private clearLine(): void {
    if (this.showsRates) process.stdout.write('\r\x1b[2K');
  }

  private print(text: string): void {
    this.clearLine();
    process.stdout.write(`${text}\n`);
  }
}
