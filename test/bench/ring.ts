import { native } from '../../src/probe/libbpf.js';
import { Ring } from '../../src/probe/ring.js';
import type { Built } from './build.js';
import { spread, type Figure } from './statistics.js';

const RING_BYTES = 16 << 20;
/** As the live session asks for. */
const BATCH_BYTES = 256 << 10;
const EVENT_BYTES = 400;
const PRODUCER_RECORDS = 4096;
/** Events that come while the live session sleeps its 20 ms, at 100,000 a second. */
const BURST = 2000;
/** More than the ring takes. */
const ALL = 1_000_000;
/** What the consumer in C does, see consumer.c. */
const LOOKING = 0;
const COPYING = 1;
/** Rounds until everything is compiled. */
const WARM_UP = 2;

interface Consumer {
  consumer_open(path: string, ringBytes: number): number;
  consumer_ring(): number;
  consumer_record(index: number, event: Buffer): number;
  consumer_fill(first: number, kinds: number, wanted: number): number;
  consumer_consume(copying: number, ns: Buffer): number;
  consumer_close(): void;
}

/** CPU time of the whole process, ns: the garbage collector's threads count too. */
function cpuNs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1000;
}

/**
 * The ring read from JavaScript against libbpf's consumer in C, in turn, on the same ring with the
 * same records, submitted on another CPU where there is one.
 * @param records real ones
 */
export function measureRing(built: Built, records: readonly Buffer[], rounds: number): Figure[] {
  const library = native().ffi.Library(built.consumer, {
    consumer_open: ['int', ['string', 'uint32']],
    consumer_ring: ['int', []],
    consumer_record: ['int', ['uint32', 'pointer']],
    consumer_fill: ['long', ['uint32', 'uint32', 'uint32']],
    consumer_consume: ['long', ['int', 'pointer']],
    consumer_close: ['void', []],
  }) as unknown as Consumer;
  const error = library.consumer_open(built.producer, RING_BYTES);
  if (error !== 0) throw new Error(`the producer does not load: ${error}`);
  const ring = new Ring(library.consumer_ring(), RING_BYTES);
  try {
    const kinds = Math.min(records.length, PRODUCER_RECORDS);
    records.slice(0, kinds).forEach((record, index) => {
      const event = Buffer.alloc(EVENT_BYTES);
      record.copy(event);
      library.consumer_record(index, event);
    });
    const ns = Buffer.alloc(8);
    const inC = (copying: number) => () => {
      const count = library.consumer_consume(copying, ns);
      return { count, ns: ns.readDoubleLE(0) };
    };
    const inJavaScript = (memory?: Buffer) => () => {
      const before = cpuNs();
      let count = 0;
      let taken;
      do {
        taken = ring.take(BATCH_BYTES, memory);
        count += taken.count;
      } while (taken.count > 0);
      return { count, ns: cpuNs() - before };
    };
    const readers = [
      inC(LOOKING),
      inC(COPYING),
      inJavaScript(Buffer.allocUnsafeSlow(BATCH_BYTES)),
      inJavaScript(),
    ];
    let first = 0;
    /** CPU ns of a reader that finds `wanted` events, and how many there were */
    const read = (reader: () => { count: number; ns: number }, wanted: number) => {
      const submitted = library.consumer_fill(first, kinds, wanted);
      first = (first + submitted) % kinds;
      const taken = reader();
      if (submitted <= 0 || taken.count !== submitted)
        throw new Error(`${taken.count} of ${submitted} events came out of the ring`);
      return taken;
    };
    const measure = (wanted: number, turns: number, name: string, goal?: number): Figure[] => {
      const values: number[][] = readers.map(() => []);
      for (let round = -WARM_UP; round < rounds; round++) {
        const sums = readers.map(() => ({ count: 0, ns: 0 }));
        // turn by turn, another one first each time: nobody finds what it needs in its caches
        for (let turn = 0; turn < turns * readers.length; turn++) {
          const which = (turn + Math.floor(turn / readers.length)) % readers.length;
          const { count, ns } = read(readers[which]!, wanted);
          sums[which]!.count += count;
          sums[which]!.ns += ns;
        }
        if (round >= 0) sums.forEach(({ count, ns }, i) => values[i]!.push(ns / count));
      }
      const [look, copy, reusing, fresh] = values as [number[], number[], number[], number[]];
      const ratio = (of: number[]) => ({
        of: 'C that copies',
        value: spread(of.map((value, i) => value / copy[i]!)),
      });
      const figure = (what: string, of: number[]): Figure => ({
        about: 'ring',
        what: `${what}, ${name}`,
        unit: 'CPU ns/event',
        value: spread(of),
      });
      return [
        figure('libbpf in C, a callback that looks', look),
        figure('libbpf in C, a callback that copies', copy),
        {
          ...figure('JavaScript, into the same memory', reusing),
          ratio: ratio(reusing),
          ...(goal === undefined ? {} : { goal: { ratio: goal } }),
        },
        { ...figure('JavaScript, into new memory', fresh), ratio: ratio(fresh) },
      ];
    };
    return [
      ...measure(BURST, 10, `${BURST} at a time`, 1.5),
      ...measure(ALL, 1, 'a full ring of 16 MiB'),
    ];
  } finally {
    ring.close();
    library.consumer_close();
  }
}
