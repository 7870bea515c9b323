import { fileURLToPath } from 'node:url';
import type { DnsServer } from './dns-server.js';
import type { ClientResult, RunningLab } from './lab.js';
import { Namespaces, type Cable } from './namespaces.js';
import { startProgram } from './programs.js';
import type { Setting } from './settings.js';
import { sysctls } from './nodes.js';

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
  /** a ruleset of nft besides those */
  nft?: string;
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

function nodeScript(options: DnsNode): string {
  const { pods, backends, rules, nft, lateRules = 0, sysctls: more = {} } = options;
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
${nft === undefined ? '' : loadNft(nft)}
${lateRules > 0 ? loadNft(lateChain(lateRules)) : ''}
${sysctls(more)}
`;
}

const loadNft = (ruleset: string): string => `nft -f - <<'RULES'\n${ruleset}\nRULES`;

/** A chain behind source NAT (priority 100) whose rules match nothing (documentation addresses). */
function lateChain(rules: number): string {
  return `table ip late {
  chain accounting {
    type filter hook postrouting priority 200; policy accept;
${Array.from({ length: rules }, (_, i) => `    ip saddr 192.0.2.${i % 256} counter`).join('\n')}
  }
}`;
}

/** Starts a DNS server in a namespace; resolves when it listens, `lab-failed` when it does not. */
export async function startDnsServer(
  namespaces: Namespaces,
  role: string,
  server: DnsServer,
): Promise<void> {
  const command = [process.execPath, SERVER, JSON.stringify(server)];
  await startProgram(namespaces, role, 'DNS server', command);
}

/** The lab in such namespaces, all of which but the server's are traced; commands run in the first pod. */
export function dnsLab(
  namespaces: Namespaces,
  run: (signal?: AbortSignal) => Promise<ClientResult[]>,
): RunningLab {
  const { names } = namespaces;
  const service = `${SERVICE.address}:${SERVICE.port}`;
  return {
    namespaces: names,
    node: names['node'] ?? '',
    traced: Object.keys(names).flatMap((role) => (role === 'server' ? [] : (names[role] ?? []))),
    run,
    exec: (command, options) =>
      namespaces.exec('client', command, { SKBWHY_SERVICE: service }, options),
    keep: () => namespaces.keep(),
    down: () => namespaces.remove(),
  };
}

/** Settings that labs of lookups have in common. */
export const REPEAT_AFTER = {
  key: 'repeatAfter',
  kind: 'number',
  unit: 's',
  fraction: true,
  default: 2.5,
  range: [0.1, 30],
  help: 'when a client repeats a query without an answer; musl: 2.5, glibc: 5',
} as const satisfies Setting;

export const TIMEOUT = {
  key: 'timeout',
  kind: 'number',
  unit: 's',
  fraction: true,
  default: 15,
  range: [0.1, 600],
  help: 'how long a client waits for its answer',
} as const satisfies Setting;
