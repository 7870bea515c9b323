/**
 * Clients that begin at moments told to the microsecond, so that several in different namespaces meet
 * in the kernel: what is common to their programs. Such a program reads a volley (JSON on one line)
 * from its standard input, makes its sockets, says `{"ready":true}`, reads the moment at which to
 * begin (CLOCK_MONOTONIC, ns), and writes a `Measurement` as a JSON line when each of its plans has
 * ended; then the next volley. It ends when its standard input does, so that it never outlives the lab.
 */
import { createInterface } from 'node:readline';

/** What a client does once. */
export interface Plan {
  /** 0: any */
  sourcePort: number;
  /** how long after its turn it begins, µs */
  skewUs: number;
}

export interface Volley<P extends Plan = Plan> {
  server: { address: string; port: number };
  /** one after another */
  plans: readonly P[];
  /** from one plan to the next, µs */
  gapUs: number;
  /** a plan is given up after so long, ms */
  timeoutMs: number;
}

export interface Measurement {
  index: number;
  sourcePort: number;
  /** until the (last) answer; null: there was none */
  ms: number | null;
  /** something was sent again */
  repeated: boolean;
  /** ISO 8601 */
  startedAt: string;
}

/** A volley whose sockets are there. */
export interface Aimed {
  measured: readonly Promise<Measurement>[];
  /** @param startAt CLOCK_MONOTONIC, ns */
  begin: (startAt: number) => void;
  /** all have ended */
  ended?: () => void;
}

/** CLOCK_MONOTONIC, ns; a double is exact for 104 days of uptime. */
export function monotonic(): number {
  return Number(process.hrtime.bigint());
}

/** Calls `fire` for each plan at its moment, to the microsecond: burns the CPU in between. */
export function atTheirMoments<P extends Plan>(
  { gapUs, plans }: Volley<P>,
  startAt: number,
  fire: (index: number) => void,
  skewOf: (plan: P) => number = ({ skewUs }) => skewUs,
): void {
  const next = (index: number): void => {
    const plan = plans[index];
    if (!plan) return;
    const at = startAt + (index * gapUs + skewOf(plan)) * 1000;
    while (monotonic() < at);
    fire(index);
    // what is left to the end of this turn comes before the next one
    setImmediate(next, index + 1);
  };
  next(0);
}

/** The program: volley after volley, until nobody wants any more. */
export async function fireVolleys<V extends Volley>(
  aim: (volley: V) => Promise<Aimed>,
  closed: () => void = () => undefined,
): Promise<never> {
  const input = createInterface({ input: process.stdin });
  input.once('close', () => {
    closed();
    process.exit(0); // the lab is gone, or has all it wants
  });
  const lines = input[Symbol.asyncIterator]();
  const next = async (): Promise<string> => (await lines.next()).value as string;
  for (;;) {
    const { measured, begin, ended } = await aim(JSON.parse(await next()) as V);
    process.stdout.write('{"ready":true}\n');
    begin(Number(await next()));
    for (const one of measured)
      void one.then((m) => process.stdout.write(`${JSON.stringify(m)}\n`));
    await Promise.all(measured);
    ended?.();
  }
}
