import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';
import { decodeFact, RECORD_FACT, type Fact } from '../event/fact.js';
import { EVENT_SKIPPED } from '../event/flags.js';
import { LAYOUT } from '../event/layout.js';
import { Point, POINTS } from '../event/point.js';
import type { Finding } from '../explain/finding.js';
import type { ProgramCost } from '../probe/probe.js';
import { recordSize } from '../session/records.js';
import type { Batch, SessionHeader } from '../session/session.js';

const KIND = LAYOUT.kind[0];
const POINT = LAYOUT.point[0];
const FLAGS = LAYOUT.flags[0];
const REASON = LAYOUT.reason[0];
const DROP = Point['packet.drop'];

/** What is asked at the moment when the metrics are read. */
export interface Now {
  clients: number;
  refused: number;
  programs: ProgramCost[];
}

/** The daemon's figures in Prometheus' text format. */
export class Metrics {
  private readonly registry = new Registry();
  private readonly byPoint = new Float64Array(256);
  private readonly byReason = new Map<number, number>();
  private readonly netns = new Map<number, string>();
  private readonly conntrack = new Map<number, Record<string, number>>();
  private readonly verdicts = new Map<string, number>();
  private readonly lost = { ring: 0, program: 0 };

  /** Asked when the metrics are read. */
  now: () => Now = () => ({ clients: 0, refused: 0, programs: [] });

  constructor(private readonly header: SessionHeader) {
    collectDefaultMetrics({ register: this.registry });
    this.counter('events', 'Events seen, by observation point', ['point'], (add) =>
      this.byPoint.forEach((n, point) => {
        if (n > 0) add(n, POINTS[point] ?? `point ${point}`);
      }),
    );
    this.counter('lost_events', 'Events that were lost in the kernel', ['where'], (add) => {
      add(this.lost.ring, 'ring');
      add(this.lost.program, 'program');
    });
    this.counter('packet_drops', 'Packets dropped by the kernel, by reason', ['reason'], (add) =>
      this.byReason.forEach((n, reason) =>
        add(n, this.header.reasons[reason] ?? `reason ${reason}`),
      ),
    );
    this.counter('findings', 'Findings, by verdict', ['verdict'], (add) =>
      this.verdicts.forEach((n, verdict) => add(n, verdict)),
    );
    for (const name of ['insert_failed', 'drop'])
      this.counter(
        `conntrack_${name}`,
        `nf_conntrack's ${name} counter, by network namespace`,
        ['netns'],
        (add) =>
          this.conntrack.forEach((values, netns) =>
            add(values[`conntrack.${name}`] ?? 0, this.netns.get(netns) ?? String(netns)),
          ),
      );
    this.counter('stream_refused', 'Streams refused', [], (add) => add(this.now().refused));
    this.counter('program_run_seconds', 'Time in our BPF programs', ['program'], (add) => {
      for (const { program, seconds } of this.now().programs) add(seconds, program);
    });
    this.counter('program_runs', 'Runs of our BPF programs', ['program'], (add) => {
      for (const { program, runs } of this.now().programs) add(runs, program);
    });
    const ask = (): Now => this.now();
    new Gauge({
      name: 'skbwhy_stream_clients',
      help: 'Streams open now',
      registers: [this.registry],
      collect() {
        this.set(ask().clients);
      },
    });
  }

  count({ bytes }: Batch): void {
    for (let at = 0; at < bytes.length; at += recordSize(bytes, at)) {
      if (bytes[at + KIND] === RECORD_FACT) {
        this.learn(decodeFact(bytes, at));
        continue;
      }
      const point = bytes[at + POINT]!;
      this.byPoint[point]!++;
      if ((bytes[at + FLAGS]! & EVENT_SKIPPED) !== 0) this.lost.program++;
      if (point === DROP) {
        const reason = bytes.readUInt32LE(at + REASON);
        this.byReason.set(reason, (this.byReason.get(reason) ?? 0) + 1);
      }
    }
  }

  finding({ verdict, revision }: Finding): void {
    if (revision === 1) this.verdicts.set(verdict, (this.verdicts.get(verdict) ?? 0) + 1);
  }

  async text(): Promise<{ type: string; text: string }> {
    return { type: this.registry.contentType, text: await this.registry.metrics() };
  }

  private learn(fact: Fact): void {
    switch (fact.fact) {
      case 'netns':
        if (fact.gone) {
          this.netns.delete(fact.netns);
          this.conntrack.delete(fact.netns);
        } else this.netns.set(fact.netns, fact.name);
        break;
      case 'counters':
        this.conntrack.set(fact.netns, { ...this.conntrack.get(fact.netns), ...fact.values });
        break;
      case 'lost':
        for (const n of Object.values(fact.ring)) this.lost.ring += n;
        for (const n of Object.values(fact.missed)) this.lost.program += n;
        break;
    }
  }

  /** A counter whose values are kept elsewhere and told when they are read. */
  private counter(
    name: string,
    help: string,
    labels: string[],
    tell: (add: (value: number, label?: string) => void) => void,
  ): void {
    new Counter({
      name: `skbwhy_${name}_total`,
      help,
      labelNames: labels,
      registers: [this.registry],
      collect() {
        this.reset();
        tell((value, label) =>
          label === undefined ? this.inc(value) : this.inc({ [labels[0]!]: label }, value),
        );
      },
    });
  }
}
