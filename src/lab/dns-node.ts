import { readFileSync } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { SkbwhyError } from '../event/errors.js';
import { monotonic, type LookupMeasurement, type LookupPlan, type Volley } from './dns-client.js';
import type { DnsServer } from './dns-server.js';
import type { ClientResult } from './lab.js';
import { Namespaces, type Cable } from './namespaces.js';
import { sysctls } from './vxlan.js';

const CLIENT = fileURLToPath(new URL('./dns-client.js', import.meta.url));
const SERVER = fileURLToPath(new URL('./dns-server.js', import.meta.url));

/** The cluster's DNS Service, and the pods behind it. */
export const SERVICE = { address: '10.96.0.10', port: 53 } as const;
export const BACKENDS = ['10.250.0.2', '10.250.0.3'] as const;
const NODE_TO_BACKENDS = '10.250.0.1';

/** Address of the pod `client`, `client2` … */
export const podAddress = (pod: number): string => `10.244.${pod}.2`;

export interface DnsNode {
  /** how many pods ask */
  pods: 1 | 2;
  /** how many pods answer */
  backends: 1 | 2;
  /** how long the server takes, ms, and for what; see DnsServer. null: no server is started */
  delayMs: number | null;
  delayed?: DnsServer['delayed'];
  /** iptables rules of table nat besides the Service's, as iptables-save prints them */
  rules: readonly string[];
  /** rules that a packet passes between NAT and its entry's insertion: the more, the longer that takes */
  lateRules?: number;
  sysctls?: Readonly<Record<string, string | number>>;
}

/**
 * A node (`node`) with pods on it that ask a DNS Service (`client`, `client2`), and the machine where
 * the Service's pods are (`server`). Backends take turns, so that two queries at once go to two.
 */
export async function createDnsNode(options: DnsNode, signal?: AbortSignal): Promise<Namespaces> {
  const clients = Array.from({ length: options.pods }, (_, i) => roleOf(i + 1));
  const cables: Cable[] = [
    ...clients.map((role, i): Cable => [
      ['node', `pod${i + 1}`],
      [role, 'eth0'],
    ]),
    [
      ['node', 'eth0'],
      ['server', 'eth0'],
    ],
  ];
  const namespaces = await Namespaces.create(['node', ...clients, 'server'], cables, signal);
  try {
    const links = (text: string) => `ip -batch - <<'LINKS'\nlink set lo up\n${text}\nLINKS`;
    await Promise.all([
      namespaces.script('node', nodeScript(options), signal),
      namespaces.script(
        'server',
        links(`link set eth0 address 02:00:00:00:03:02
${BACKENDS.map((address) => `addr add ${address}/24 dev eth0`).join('\n')}
link set eth0 up
neigh add ${NODE_TO_BACKENDS} lladdr 02:00:00:00:03:01 dev eth0
route add default via ${NODE_TO_BACKENDS}`),
        signal,
      ),
      ...clients.map((role, i) =>
        namespaces.script(
          role,
          links(`link set eth0 address 02:00:00:00:0${i + 1}:02
addr add ${podAddress(i + 1)}/24 dev eth0
link set eth0 up
neigh add 10.244.${i + 1}.1 lladdr 02:00:00:00:0${i + 1}:01 dev eth0
route add default via 10.244.${i + 1}.1`),
          signal,
        ),
      ),
    ]);
    if (options.delayMs === null) return namespaces;
    await startDnsServer(namespaces, 'server', {
      addresses: BACKENDS.slice(0, options.backends),
      port: SERVICE.port,
      delayMs: options.delayMs,
      delayed: options.delayed ?? 'all',
    });
  } catch (error) {
    await namespaces.remove();
    throw error;
  }
  return namespaces;
}

/** Role of pod 1, 2 … */
export const roleOf = (pod: number): string => (pod === 1 ? 'client' : `client${pod}`);

function nodeScript({ pods, backends, rules, lateRules = 0, sysctls: more = {} }: DnsNode): string {
  const to = `-d ${SERVICE.address} -p udp -m udp --dport ${SERVICE.port}`;
  const [first, second] = BACKENDS.map((a) => `-j DNAT --to-destination ${a}:${SERVICE.port}`);
  const turn = '-m statistic --mode nth --every 2 --packet 0';
  return `
${sysctls({
  'net.ipv4.ip_forward': 1,
  'net.ipv4.conf.all.rp_filter': 0,
  'net.ipv4.conf.default.rp_filter': 0,
})}
ip -batch - <<'LINKS'
link set lo up
${Array.from(
  { length: pods },
  (_, i) => `link set pod${i + 1} address 02:00:00:00:0${i + 1}:01
addr add 10.244.${i + 1}.1/24 dev pod${i + 1}
link set pod${i + 1} up
neigh add ${podAddress(i + 1)} lladdr 02:00:00:00:0${i + 1}:02 dev pod${i + 1}`,
).join('\n')}
link set eth0 address 02:00:00:00:03:01
addr add ${NODE_TO_BACKENDS}/24 dev eth0
link set eth0 up
${BACKENDS.map((address) => `neigh add ${address} lladdr 02:00:00:00:03:02 dev eth0`).join('\n')}
LINKS
iptables-restore -w 5 <<'RULES'
*nat
${backends === 2 ? `-A PREROUTING ${to} ${turn} ${first}\n-A PREROUTING ${to} ${second}` : `-A PREROUTING ${to} ${first}`}
${rules.join('\n')}
COMMIT
RULES
${lateRules > 0 ? lateChain(lateRules) : ''}
${sysctls(more)}
`;
}

/** A chain behind source NAT (priority 100) whose rules match nothing (documentation addresses). */
function lateChain(rules: number): string {
  return `nft -f - <<'RULES'
table ip late {
  chain accounting {
    type filter hook postrouting priority 200; policy accept;
${Array.from({ length: rules }, (_, i) => `    ip saddr 192.0.2.${i % 256} counter`).join('\n')}
  }
}
RULES`;
}

/** Starts a DNS server in a namespace; resolves when it listens, `lab-failed` when it does not. */
export async function startDnsServer(
  namespaces: Namespaces,
  role: string,
  server: DnsServer,
): Promise<void> {
  const child = namespaces.spawn(role, [process.execPath, SERVER, JSON.stringify(server)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  });
  child.stdin?.on('error', () => undefined);
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('error', reject);
    child.once('close', () =>
      reject(new SkbwhyError('lab-failed', `DNS server in namespace '${role}': it ended at once`)),
    );
  });
}

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

/** A stub resolver in a pod, on a CPU of its own, that sends lookups at the moment it is told. */
export class DnsClient {
  readonly #lines: AsyncIterator<string>;

  private constructor(
    readonly role: string,
    private readonly child: ReturnType<Namespaces['spawn']>,
    lines: Interface,
  ) {
    this.#lines = lines[Symbol.asyncIterator]();
  }

  /**
   * @param cpu where it runs; anywhere if not told
   * @param otherCpu a second process there sends the second query of each lookup
   */
  static start(namespaces: Namespaces, role: string, cpu?: number, otherCpu?: number): DnsClient {
    const pin = cpu === undefined ? [] : ['taskset', '-c', String(cpu)];
    const command = [...pin, process.execPath, CLIENT];
    if (otherCpu !== undefined) command.push(String(otherCpu));
    const child = namespaces.spawn(role, command, {
      stdio: ['pipe', 'pipe', 'inherit'],
      detached: true,
    });
    child.stdin?.on('error', () => undefined);
    return new DnsClient(role, child, createInterface({ input: child.stdout! }));
  }

  /** Opens a volley's sockets; resolves when `begin` may come. */
  async prepare(volley: Volley): Promise<void> {
    this.child.stdin?.write(`${JSON.stringify(volley)}\n`);
    await this.#line();
  }

  /** @param at CLOCK_MONOTONIC, ns */
  begin(at: number): void {
    this.child.stdin?.write(`${at}\n`);
  }

  /** What became of the volley's lookups, in their order. */
  async measured(volley: Volley): Promise<LookupMeasurement[]> {
    const all: LookupMeasurement[] = [];
    while (all.length < volley.lookups.length)
      all.push(JSON.parse(await this.#line()) as LookupMeasurement);
    return all.sort((a, b) => a.index - b.index);
  }

  stop(): void {
    this.child.stdin?.end();
  }

  async #line(): Promise<string> {
    const line = await this.#lines.next();
    if (line.done)
      throw new SkbwhyError('lab-failed', `the client in namespace '${this.role}' ended too early`);
    return line.value;
  }
}

/** How a race is provoked. */
export interface Race {
  /** tries until the node's counters show that it happened; then it is over */
  tries: number;
  repeatMs: number;
  timeoutMs: number;
  /** what client `client` (from 0) asks for in try `n` */
  plan(client: number, n: number): LookupPlan;
  /** conntrack counters of which one rises when it happened */
  counters: readonly ('insert_failed' | 'drop' | 'clash_resolve')[];
  /** how far they must rise together; 1 if not told */
  times?: number;
}

/** Tries in one volley: after each the counters are read. */
const VOLLEY = 32;
/** From one try to the next, µs. */
const GAP_US = 1000;
/** From the order to begin to the first query, ns. */
const LEAD = 20e6;

/**
 * Lets clients begin their lookups at the same moments until the race has happened; resolves with the
 * lookups that were slow or failed, and one result that stands for the others.
 */
export async function provoke(
  namespaces: Namespaces,
  clients: readonly DnsClient[],
  race: Race,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const results: ClientResult[] = [];
  let healthy = 0;
  let tries = 0;
  const startedAt = new Date().toISOString();
  const stop = () => clients.forEach((client) => client.stop());
  signal?.addEventListener('abort', stop, { once: true });
  const before = await conntrackCounters(namespaces, race.counters);
  try {
    for (let happened = false; !happened && tries < race.tries && !signal?.aborted;) {
      const numbers = Array.from({ length: Math.min(VOLLEY, race.tries - tries) }, () => tries++);
      const volleys = clients.map((_, client): Volley => ({
        server: SERVICE,
        lookups: numbers.map((n) => race.plan(client, n)),
        gapUs: GAP_US,
        repeatMs: race.repeatMs,
        timeoutMs: race.timeoutMs,
      }));
      await Promise.all(clients.map((client, i) => client.prepare(volleys[i]!)));
      const at = monotonic() + LEAD;
      for (const client of clients) client.begin(at);
      const measured = await Promise.all(clients.map((client, i) => client.measured(volleys[i]!)));
      for (const [i, client] of clients.entries())
        for (const m of measured[i]!) {
          if (m.ms !== null && m.sent === volleys[i]!.lookups[m.index]!.types.length) healthy++;
          else results.push(resultOf(client.role, m));
        }
      happened = (await conntrackCounters(namespaces, race.counters)) >= before + (race.times ?? 1);
    }
  } catch (error) {
    if (!signal?.aborted) throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
    stop();
  }
  results.push({
    client: clients.map(({ role }) => role).join(', '),
    purpose: `others (${healthy} lookups, ${tries} tries)`,
    target: `${SERVICE.address}:${SERVICE.port}`,
    source: null,
    protocol: 'udp',
    ok: !signal?.aborted,
    connectMs: null,
    error: signal?.aborted ? 'aborted' : null,
    startedAt,
  });
  return results;
}

function resultOf(role: string, m: LookupMeasurement): ClientResult {
  return {
    client: role,
    purpose: 'lookup',
    target: `${SERVICE.address}:${SERVICE.port}`,
    source: `${podAddress(role === 'client' ? 1 : 2)}:${m.source}`,
    protocol: 'udp',
    ok: m.ms !== null,
    connectMs: m.ms,
    error: m.ms === null ? 'timeout' : null,
    startedAt: m.startedAt,
  };
}

/** Counters of conntrack in the node's namespace, all of them and all CPUs together (conntrack -S). */
async function conntrackCounters(
  namespaces: Namespaces,
  names: readonly string[],
): Promise<number> {
  const text = await namespaces.script('node', 'conntrack -S');
  return [...text.matchAll(/\b(\w+)=(\d+)/g)].reduce(
    (sum, [, name = '', value]) => sum + (names.includes(name) ? Number(value) : 0),
    0,
  );
}
