/** Clients in several namespaces that begin at the same moments, until the kernel's counters show that they met. */
import { readFileSync } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { SkbwhyError } from '../event/errors.js';
import type { LookupVolley } from './dns-client.js';
import { TYPE_A, TYPE_AAAA } from './dns-message.js';
import { podAddress, roleOf, SERVICE } from './dns-node.js';
import type { ClientResult } from './lab.js';
import type { Namespaces } from './namespaces.js';
import type { Setting } from './settings.js';
import { monotonic, type Measurement, type Volley } from './volley.js';

const LOOKUPS = fileURLToPath(new URL('./dns-client.js', import.meta.url));
const CONNECTS = fileURLToPath(new URL('./connect-client.js', import.meta.url));

/**
 * The first two CPUs that this process may use: a race needs two.
 * Throws `lab-failed` where there is one only.
 */
export function twoCpus(): [number, number] {
  const status = readFileSync('/proc/self/status', 'latin1');
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(status)?.[1] ?? '0';
  const cpus = list.split(',').flatMap((range) => {
    const [from = 0, to = from] = range.split('-').map(Number);
    return Array.from({ length: Math.min(to - from + 1, 2) }, (_, i) => from + i);
  });
  const [one, two] = cpus;
  if (one === undefined || two === undefined)
    throw new SkbwhyError('lab-failed', 'a race needs two CPUs, and this machine lets us use one');
  return [one, two];
}

/** A program in a pod, on a CPU of its own, that begins its plans at the moment it is told. */
export class TimedClient<V extends Volley = Volley> {
  readonly role: string;
  readonly #child: ReturnType<Namespaces['spawn']>;
  readonly #lines: AsyncIterator<string>;

  private constructor(
    namespaces: Namespaces,
    readonly pod: number,
    readonly protocol: 'tcp' | 'udp',
    command: readonly string[],
    cpu?: number,
  ) {
    this.role = roleOf(pod);
    const pin = cpu === undefined ? [] : ['taskset', '-c', String(cpu)];
    this.#child = namespaces.spawn(this.role, [...pin, process.execPath, ...command], {
      stdio: ['pipe', 'pipe', 'inherit'],
      detached: true,
    });
    this.#child.stdin?.on('error', () => undefined);
    const lines: Interface = createInterface({ input: this.#child.stdout! });
    this.#lines = lines[Symbol.asyncIterator]();
  }

  /**
   * A stub resolver in pod `pod`.
   * @param cpu where it runs; anywhere if not told
   * @param otherCpu a second process there sends the second query of each lookup
   */
  static ofLookups(
    namespaces: Namespaces,
    pod: number,
    cpu?: number,
    otherCpu?: number,
  ): TimedClient<LookupVolley> {
    const command = otherCpu === undefined ? [LOOKUPS] : [LOOKUPS, String(otherCpu)];
    return new TimedClient(namespaces, pod, 'udp', command, cpu);
  }

  /** One that makes TCP connects. */
  static ofConnects(namespaces: Namespaces, pod: number, cpu?: number): TimedClient {
    return new TimedClient(namespaces, pod, 'tcp', [CONNECTS], cpu);
  }

  /** Makes a volley's sockets; resolves when `begin` may come. */
  async prepare(volley: V): Promise<void> {
    this.#child.stdin?.write(`${JSON.stringify(volley)}\n`);
    await this.#line();
  }

  /** @param at CLOCK_MONOTONIC, ns */
  begin(at: number): void {
    this.#child.stdin?.write(`${at}\n`);
  }

  /** What became of the volley's plans, in their order. */
  async measured(volley: V): Promise<Measurement[]> {
    const all: Measurement[] = [];
    while (all.length < volley.plans.length)
      all.push(JSON.parse(await this.#line()) as Measurement);
    return all.sort((a, b) => a.index - b.index);
  }

  stop(): void {
    this.#child.stdin?.end();
  }

  async #line(): Promise<string> {
    const line = await this.#lines.next();
    if (line.done)
      throw new SkbwhyError('lab-failed', `the client in namespace '${this.role}' ended too early`);
    return line.value;
  }
}

type PlanOf<V> = V extends Volley<infer P> ? P : never;

/** How a race is provoked. */
export interface Race<V extends Volley> {
  /** what every volley has in common */
  volley: Omit<V, 'plans' | 'gapUs'>;
  /** tries until the node's counters show that it happened; then it is over */
  tries: number;
  /** what client `client` (from 0) does in try `n` */
  plan(client: number, n: number): PlanOf<V>;
  /** conntrack counters of which one rises when it happened */
  counters: readonly ('insert_failed' | 'drop' | 'clash_resolve')[];
  /** how far they must rise together; 1 if not told */
  times?: number;
}

/** Tries in one volley: after each the counters are read. */
const VOLLEY = 32;
/** From one try to the next, µs. */
const GAP_US = 1000;
/** From the order to begin to the first packet, ns. */
const LEAD = 20e6;

/**
 * Lets clients begin at the same moments until the race has happened; resolves with what was slow or
 * failed, and one result that stands for the others.
 */
export async function provoke<V extends Volley>(
  namespaces: Namespaces,
  clients: readonly TimedClient<V>[],
  race: Race<V>,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const { address, port } = race.volley.server;
  const target = `${address}:${port}`;
  const protocol = clients[0]?.protocol ?? 'udp';
  const noun = protocol === 'udp' ? 'lookup' : 'connect';
  const results: ClientResult[] = [];
  let healthy = 0;
  let tries = 0;
  const startedAt = new Date().toISOString();
  const stop = () => clients.forEach((client) => client.stop());
  signal?.addEventListener('abort', stop, { once: true });
  const before = await conntrackCounters(namespaces, 'node', race.counters);
  try {
    for (let happened = false; !happened && tries < race.tries && !signal?.aborted;) {
      const numbers = Array.from({ length: Math.min(VOLLEY, race.tries - tries) }, () => tries++);
      const volleys = clients.map((_, client) => ({
        ...race.volley,
        gapUs: GAP_US,
        plans: numbers.map((n) => race.plan(client, n)),
      })) as unknown as V[];
      await Promise.all(clients.map((client, i) => client.prepare(volleys[i]!)));
      const at = monotonic() + LEAD;
      for (const client of clients) client.begin(at);
      const measured = await Promise.all(clients.map((client, i) => client.measured(volleys[i]!)));
      for (const [i, client] of clients.entries())
        for (const m of measured[i]!) {
          if (m.ms !== null && !m.repeated) healthy++;
          else
            results.push({
              ...{ client: client.role, purpose: noun, target, protocol },
              source: `${podAddress(client.pod)}:${m.sourcePort}`,
              ok: m.ms !== null,
              connectMs: m.ms,
              error: m.ms === null ? 'timeout' : null,
              startedAt: m.startedAt,
            });
        }
      happened =
        (await conntrackCounters(namespaces, 'node', race.counters)) >= before + (race.times ?? 1);
    }
  } catch (error) {
    if (!signal?.aborted) throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
    stop();
  }
  results.push({
    client: clients.map(({ role }) => role).join(', '),
    purpose: `others (${healthy} ${noun}s, ${tries} tries)`,
    ...{ target, source: null, protocol, startedAt },
    ok: !signal?.aborted,
    connectMs: null,
    error: signal?.aborted ? 'aborted' : null,
  });
  return results;
}

/** Counters of conntrack in a namespace, all of them and all CPUs together (conntrack -S). */
export async function conntrackCounters(
  namespaces: Namespaces,
  role: string,
  names: readonly string[],
): Promise<number> {
  const text = await namespaces.script(role, 'conntrack -S');
  return [...text.matchAll(/\b(\w+)=(\d+)/g)].reduce(
    (sum, [, name = '', value]) => sum + (names.includes(name) ? Number(value) : 0),
    0,
  );
}

/** How often two clients try to meet. */
export const TRIES = {
  key: 'tries',
  kind: 'number',
  default: 2000,
  range: [1, 20000],
  help: 'how often the clients begin at the same moment until that shows in the counters of conntrack',
} as const satisfies Setting;

/** Settings of labs in which two clients are masqueraded. */
export const RANDOM_FULLY = {
  key: 'randomFully',
  kind: 'boolean',
  default: false,
  help: 'the masquerade rule chooses random ports (--random-fully)',
} as const satisfies Setting;

export const LATE_RULES = {
  key: 'lateRules',
  kind: 'number',
  default: 400,
  range: [0, 5000],
  help: 'nft rules that a packet passes between source NAT and the insertion of its entry: the more, the likelier the race',
} as const satisfies Setting;

/** The second of two packets leaves earlier or later than the first by up to so much, µs. */
const SKEW_US = 20;

/** When the two packets of try `n` leave, µs: every distance comes in its turn. */
const skews = (n: number): [first: number, second: number] => [
  SKEW_US,
  (n * 7) % (2 * SKEW_US + 1),
];

/** Source port of the first try; each try has the next. */
const FIRST_PORT = 20000;
const PORTS = 20000;

/** The one source port that all clients have in try `n`. */
const commonPort = (n: number): number => FIRST_PORT + (n % PORTS);

/** What the race of A and AAAA asks for. */
export interface QueryRace extends Pick<Race<LookupVolley>, 'tries' | 'counters' | 'times'> {
  /** s */
  repeatAfter: number;
  timeout: number;
}

/** Pod 1 asks the Service for A and AAAA from one socket on two CPUs, until their entries clash. */
export function provokeClash(
  namespaces: Namespaces,
  { repeatAfter, timeout, ...race }: QueryRace,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const [cpu, other] = twoCpus();
  return provoke(
    namespaces,
    [TimedClient.ofLookups(namespaces, 1, cpu, other)],
    {
      ...race,
      volley: { server: SERVICE, repeatMs: repeatAfter * 1000, timeoutMs: timeout * 1000 },
      plan: (_, n) => {
        const [skewUs, otherSkewUs] = skews(n);
        const types = [TYPE_A, TYPE_AAAA];
        return { name: `try-${n}.example.com`, types, sourcePort: 0, skewUs, otherSkewUs };
      },
    },
    signal,
  );
}

/** What the race of two clients asks for. */
export interface ClientRace {
  /** whom both ask or connect to */
  server: { address: string; port: number };
  tries: number;
  /** s; of lookups */
  repeatAfter: number;
  timeout: number;
}

/** Pods 1 and 2 ask from one source port at the same moment, until an entry could not be inserted. */
export function provokeLookupCollision(
  namespaces: Namespaces,
  { server, tries, repeatAfter, timeout }: ClientRace,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  return provoke(
    namespaces,
    twoCpus().map((cpu, i) => TimedClient.ofLookups(namespaces, i + 1, cpu)),
    {
      volley: { server, repeatMs: repeatAfter * 1000, timeoutMs: timeout * 1000 },
      tries,
      counters: ['drop'],
      plan: (client, n) => ({
        name: `try-${n}.client-${client + 1}.example.com`,
        types: [TYPE_A],
        sourcePort: commonPort(n),
        skewUs: skews(n)[client]!,
      }),
    },
    signal,
  );
}

/** The same with TCP connects. */
export function provokeConnectCollision(
  namespaces: Namespaces,
  { server, tries, timeout }: Omit<ClientRace, 'repeatAfter'>,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  return provoke(
    namespaces,
    twoCpus().map((cpu, i) => TimedClient.ofConnects(namespaces, i + 1, cpu)),
    {
      volley: { server, timeoutMs: timeout * 1000 },
      tries,
      counters: ['drop'],
      plan: (client, n) => ({ sourcePort: commonPort(n), skewUs: skews(n)[client]! }),
    },
    signal,
  );
}
