import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { explain } from '../../src/cli/main-path.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { trace } from '../../src/session/live.js';
import type { Network } from './network.js';
import { spread, type Figure } from './statistics.js';
import { Skipped } from './skipped.js';

/** What one run of the whole path took. */
interface Run {
  events: number;
  lost: number;
  /** arrivals that the kernel skipped programs for */
  skipped: number;
  /** CPU time of this process while it traced, ns */
  cpu: number;
  ms: number;
}

/** Traces what `traffic` does, writes it to a file and explains it, as `record` does. */
async function run(network: Network, file: string, traffic: () => Promise<unknown>): Promise<Run> {
  const session = await trace({ netns: network.names, transient: true });
  const start = performance.now();
  const before = process.cpuUsage();
  const recorder = await FileWriter.create(file, session.header);
  const skipped = new Skipped(session);
  const explained = explain([skipped.session], { recorder });
  try {
    await traffic();
  } finally {
    await session.close();
  }
  const { report } = await explained;
  await recorder.close();
  const { user, system } = process.cpuUsage(before);
  const { ring, missed } = report.lost;
  return {
    events: report.sessions[0]!.events,
    lost: ring + missed - skipped.count,
    skipped: skipped.count,
    cpu: (user + system) * 1000,
    ms: performance.now() - start,
  };
}

/**
 * The whole path, kernel to ring to file and findings: what an event of real connects costs this
 * process, less what watching the idle node for as long costs.
 */
export async function measurePath(
  network: Network,
  folder: string,
  { rounds, connects }: { rounds: number; connects: number },
): Promise<Figure[]> {
  const file = join(folder, 'path.skbw');
  const net: number[] = [];
  const rate: number[] = [];
  const lost: number[] = [];
  for (let round = -1; round < rounds; round++) {
    const busy = await run(network, file, () => network.connects(connects));
    // a SYN, a SYN-ACK and a RST, sent and received; three states of the two sockets
    if (busy.events + busy.lost < 9 * (connects - busy.skipped))
      throw new Error(`${busy.events} events and ${busy.lost} lost of ${connects} connects`);
    const idle = await run(network, file, () => sleep(busy.ms));
    // one round to be compiled
    if (round < 0) continue;
    net.push((busy.cpu - idle.cpu) / busy.events);
    rate.push((busy.events * 1000) / busy.ms);
    lost.push(busy.lost);
  }
  const figure = (what: string, unit: string, values: number[]): Figure => ({
    about: 'path',
    what,
    unit,
    value: spread(values),
  });
  return [
    figure('ring, file, findings', 'CPU ns/event', net),
    figure('events that came', '/s', rate),
    figure('events lost', '', lost),
  ];
}
