import { readFileSync } from 'node:fs';
import { KernelTypes } from '../../src/probe/kernel-types.js';
import { compileFilter } from '../../src/probe/filter.js';
import { native, type Pointer } from '../../src/probe/libbpf.js';
import { NetfilterLinks } from '../../src/probe/netfilter-links.js';
import {
  loadObject,
  prepareObject,
  readObject,
  type LoadedObject,
} from '../../src/probe/object.js';
import type { ProgramName } from '../../src/probe/points.js';
import { countRunTime, kernelHz } from '../../src/probe/probe.js';
import { Ring } from '../../src/probe/ring.js';
import type { Built } from './build.js';
import type { Network } from './network.js';
import { spread, type Figure } from './statistics.js';

const RING_BYTES = 64 << 20;
const BATCH_BYTES = 256 << 10;
/** What an event that nobody wants may cost, ns. */
const GOAL = 60;
/** Matches nothing here: everything the filter can do is done for every SYN. */
const OTHER = 'host 198.51.100.1 and tcp port 80';

/** struct bpf_prog_info: its size, and where two of its fields stand (Linux 5.12) */
const PROG_INFO_BYTES = 232;
const RUN_TIME = 192;
const RUN_COUNT = 200;

/** Programs, and the empty ones that they are compared with. */
const TRACEPOINTS = [
  ['device_transmit', 'empty_transmit'],
  ['device_receive', 'empty_receive'],
  ['packet_drop', 'empty_drop'],
] as const satisfies [ProgramName, string][];
const HOOKS = [
  'netfilter_arrival',
  'netfilter_before',
  'netfilter_after',
] as const satisfies ProgramName[];

type Program = (typeof TRACEPOINTS)[number][0] | (typeof HOOKS)[number];

/** One kind of traffic, and what the programs do with its packets. */
interface Load {
  name: string;
  wanted: boolean;
  programs: Program[];
  run(network: Network, packets: number): Promise<void>;
}

const PLAIN: readonly Load[] = [
  {
    name: 'TCP data',
    wanted: false,
    programs: ['device_transmit', 'device_receive', ...HOOKS],
    run: (network, packets) => network.stream(packets * 1448),
  },
  {
    name: 'UDP data',
    wanted: false,
    programs: ['device_transmit', 'device_receive', 'packet_drop'],
    run: (network, packets) => network.datagrams(packets),
  },
  {
    name: 'SYN and RST, recorded',
    wanted: true,
    programs: ['device_transmit', 'device_receive', 'packet_drop'],
    run: (network, packets) => network.refused(packets / 8),
  },
];

const FILTERED: readonly Load[] = [
  {
    name: 'SYN and RST, not matched by --filter',
    wanted: false,
    programs: ['device_transmit', 'device_receive', 'packet_drop'],
    run: (network, packets) => network.refused(packets / 8),
  },
];

interface RunTime {
  ns: number;
  runs: number;
}

function runTime(program: number): RunTime {
  const info = Buffer.alloc(PROG_INFO_BYTES);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(info.length);
  if (native().bpf.bpf_obj_get_info_by_fd(program, info, length) !== 0)
    throw new Error('the kernel does not tell about a program');
  return {
    ns: Number(info.readBigUInt64LE(RUN_TIME)),
    runs: Number(info.readBigUInt64LE(RUN_COUNT)),
  };
}

/** Programs that do nothing, attached. */
class EmptyPrograms {
  readonly programs = new Map<string, number>();
  private readonly object: Pointer;
  private readonly links: Pointer[] = [];

  constructor(built: Built) {
    const { bpf, ref } = native();
    const bytes = readFileSync(built.empty);
    this.object = bpf.bpf_object__open_mem(bytes, bytes.length, ref.NULL);
    if (bpf.bpf_object__load(this.object) !== 0) throw new Error('the empty programs do not load');
    for (const [, name] of TRACEPOINTS) {
      const program = bpf.bpf_object__find_program_by_name(this.object, name);
      this.programs.set(name, bpf.bpf_program__fd(program));
      this.links.push(bpf.bpf_program__attach(program));
    }
  }

  close(): void {
    for (const link of this.links) native().bpf.bpf_link__destroy(link);
    native().bpf.bpf_object__close(this.object);
  }
}

/** The product's programs, for the packets of two namespaces. */
class Product {
  readonly programs: ReadonlyMap<string, number>;
  private readonly object: LoadedObject;
  private readonly ring: Ring;
  private links: NetfilterLinks[] = [];

  constructor(
    kernel: KernelTypes,
    private readonly network: Network,
    filter: string | null,
  ) {
    const bytes = readObject();
    const code = filter === null ? null : compileFilter(filter);
    prepareObject(bytes, { hz: kernelHz(), netnsOnly: true, filter: code }, kernel.btf);
    this.object = loadObject(bytes, kernel, RING_BYTES);
    this.programs = this.object.programs;
    this.ring = new Ring(this.object.map('ring'), RING_BYTES);
    for (const inode of network.inodes) {
      const key = Buffer.alloc(4);
      key.writeUInt32LE(inode);
      native().bpf.bpf_map_update_elem(this.object.map('netns_wanted'), key, Buffer.from([1]), 0);
    }
  }

  attach(): void {
    for (const [name] of TRACEPOINTS) this.object.attach(name);
    const [arrival, before, after] = HOOKS.map((name) => this.programs.get(name));
    if (arrival === undefined || before === undefined || after === undefined) return;
    const { names, inodes } = this.network;
    this.links = names.map(
      (name, i) =>
        new NetfilterLinks(this.network.path(name), inodes[i]!, { arrival, before, after }),
    );
  }

  detach(): void {
    for (const link of this.links.splice(0)) link.close();
    this.object.detach();
  }

  /** Empties the ring; how many events were in it. */
  drain(): number {
    let events = 0;
    for (;;) {
      const { count } = this.ring.take(BATCH_BYTES);
      if (count === 0) return events;
      events += count;
    }
  }

  close(): void {
    this.detach();
    this.ring.close();
    this.object.close();
  }
}

export interface KernelOptions {
  rounds: number;
  /** packets of one kind in a round, about */
  packets: number;
}

/**
 * What the programs cost the kernel for an event, by its own run-time statistics, on real packets
 * between two namespaces. An empty program stands at each of the same tracepoints: its time, which
 * is that of the accounting, is subtracted.
 */
export async function measureKernel(
  built: Built,
  network: Network,
  { rounds, packets }: KernelOptions,
): Promise<Figure[]> {
  const closing: (() => void)[] = [countRunTime()];
  try {
    const kernel = KernelTypes.read();
    const empty = new EmptyPrograms(built);
    closing.push(() => empty.close());
    const plain = new Product(kernel, network, null);
    closing.push(() => plain.close());
    const filtered = new Product(kernel, network, OTHER);
    closing.push(() => filtered.close());
    const samples = new Map<string, { load: Load; net: number[]; ratio: number[] }>();
    for (let round = 0; round < rounds; round++)
      for (const [product, loads] of [
        [plain, PLAIN],
        [filtered, FILTERED],
      ] as const) {
        product.attach();
        for (const load of loads) {
          const cost = meter(product.programs, empty.programs);
          await load.run(network, packets);
          for (const program of load.programs) {
            const { ns, empty } = cost(program);
            const what = `${load.name}, ${program}`;
            const sample = samples.get(what) ?? { load, net: [], ratio: [] };
            samples.set(what, sample);
            sample.net.push(ns - empty);
            sample.ratio.push(ns / empty);
          }
          const events = product.drain();
          // the connection that carries the data is opened, too
          if (load.wanted !== events > 100)
            throw new Error(`${events} events of ${load.name} were recorded`);
        }
        product.detach();
      }
    return [...samples].map(([what, { load, net, ratio }]) => ({
      about: 'kernel',
      what,
      unit: 'ns/event, net',
      value: spread(net),
      ratio: { of: 'an empty program', value: spread(ratio) },
      ...(load === PLAIN[0] || load === PLAIN[1] ? { goal: { median: GOAL } } : {}),
    }));
  } finally {
    for (const close of closing.reverse()) close();
  }
}

/** Begins to measure; the result tells the mean time of a program since, and that of an empty one. */
function meter(
  product: ReadonlyMap<string, number>,
  empty: ReadonlyMap<string, number>,
): (program: Program) => { ns: number; empty: number } {
  const all = [...product, ...empty];
  const before = new Map(all.map(([name, fd]) => [name, runTime(fd)]));
  return (program) => {
    const mean = (name: string, programs: ReadonlyMap<string, number>) => {
      const now = runTime(programs.get(name)!);
      const then = before.get(name)!;
      return (now.ns - then.ns) / (now.runs - then.runs);
    };
    // at netfilter hooks the accounting is the same
    const counterpart = TRACEPOINTS.find(([name]) => name === program)?.[1] ?? TRACEPOINTS[0][1];
    return { ns: mean(program, product), empty: mean(counterpart, empty) };
  };
}
