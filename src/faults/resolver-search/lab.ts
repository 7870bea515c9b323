import { runLookups } from '../../lab/dns.js';
import { defineLab, type ClientResult } from '../../lab/lab.js';
import type { Namespaces } from '../../lab/namespaces.js';
import { routedPodAddress, routedPodCables, routedPodScripts } from '../../lab/routed-pods.js';
import type { SettingsOf } from '../../lab/settings.js';
import { build } from '../../lab/topology.js';
import { sysctls } from '../../lab/nodes.js';

const SETTINGS = [
  {
    key: 'case',
    kind: 'text',
    default: 'search-list',
    values: ['search-list', 'truncation', 'dead-name-server'],
    help: 'what the time goes into',
  },
  {
    key: 'delay',
    kind: 'number',
    unit: 'ms',
    default: 150,
    range: [0, 10000],
    help: 'how long the server takes for each question of a search list',
  },
  {
    key: 'steps',
    kind: 'number',
    default: 4,
    range: [0, 6],
    help: 'suffixes in the search list, none of which has the name',
  },
  {
    key: 'resolver',
    kind: 'text',
    default: 'system',
    values: ['system', 'musl', 'glibc'],
    help: "the C library's own resolver, or one with musl's or glibc's schedule",
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [1, 100],
    help: 'lookups, one after the other',
  },
] as const;

type ResolverSearchSettings = SettingsOf<typeof SETTINGS>;

const PODS = ['client', 'server', 'dead'] as const;
const SERVER = routedPodAddress(2);
const DEAD = routedPodAddress(3);
const DEAD_MAC = '02:00:00:00:00:03';
const HOST = 'host';

/** A node that routes between a client, a name server, and a place where there should be another. */
export const lab = defineLab({
  name: 'resolver-search',
  title:
    'a slow lookup without a lost packet: a search list, TCP after truncation, a dead name server',
  settings: SETTINGS,
  up: (settings, signal) =>
    build(
      {
        cables: routedPodCables(PODS),
        scripts: scriptsOf(settings),
        nameServers: {
          server: {
            names: Array.from({ length: settings.clients }, (_, i) => nameOf(i)),
            delayMs: settings.case === 'search-list' ? settings.delay : 0,
            truncates: settings.case === 'truncation',
          },
        },
        run: (namespaces, runSignal) => lookUp(namespaces, settings, runSignal),
        node: 'client',
        untraced: ['dead'],
      },
      signal,
    ),
});

function scriptsOf(settings: ResolverSearchSettings): Record<string, string> {
  const scripts = routedPodScripts(PODS, []);
  switch (settings.case) {
    case 'search-list':
      return scripts;
    case 'truncation':
      return {
        ...scripts,
        client: scripts.client + sysctls({ 'net.ipv4.tcp_syn_retries': 1 }),
        // The classic: a firewall that knows DNS as a matter of UDP. Its first SYN only, so that TCP is slow.
        server: `${scripts.server}
nft -f - <<'RULES'
table inet firewall {
  chain input {
    type filter hook input priority filter;
    tcp dport 53 tcp flags syn limit rate 1/minute burst 1 packets drop
  }
}
RULES
`,
      };
    case 'dead-name-server':
      // Its machine is there, it is not: what comes for it is dropped out of sight.
      return {
        ...scripts,
        node: `${scripts.node}\nip neigh add ${DEAD} lladdr ${DEAD_MAC} dev pod3\n`,
        dead: `ip link set lo up\nip link set eth0 address ${DEAD_MAC} up\n`,
      };
  }
}

function nameOf(i: number): string {
  return `${HOST}${i + 1}.example`;
}

async function lookUp(
  namespaces: Namespaces,
  settings: ResolverSearchSettings,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const search =
    settings.case === 'search-list'
      ? Array.from({ length: settings.steps }, (_, i) => `zone${i + 1}.test`)
      : [];
  const servers = settings.case === 'dead-name-server' ? [DEAD, SERVER] : [SERVER];
  const resolvConf = [
    ...servers.map((server) => `nameserver ${server}`),
    ...(search.length > 0 ? [`search ${search.join(' ')}`] : []),
    'options ndots:5',
  ].join('\n');
  const results: ClientResult[] = [];
  for (let i = 0; i < settings.clients && !signal?.aborted; i++)
    results.push(
      ...(await runLookups(
        namespaces,
        'client',
        [{ name: nameOf(i), servers, search, resolver: settings.resolver, purpose: 'faulty' }],
        { resolvConf: `${resolvConf}\n`, signal },
      )),
    );
  return results;
}
