import { startServer, runClients } from '../../lab/endpoints.js';
import { runLookups, startNameServer } from '../../lab/dns.js';
import { defineLab, type ClientResult, type RunningLab } from '../../lab/lab.js';
import { Namespaces } from '../../lab/namespaces.js';
import { routedPodAddress, routedPodCables, routedPodScripts } from '../../lab/routed-pods.js';
import type { SettingsOf } from '../../lab/settings.js';

const SETTINGS = [
  {
    key: 'protocol',
    kind: 'text',
    default: 'dns',
    values: ['dns', 'tcp'],
    help: 'what the clients do: DNS lookups, or TCP connects',
  },
  {
    key: 'delay',
    kind: 'number',
    unit: 'ms',
    default: 1200,
    range: [0, 60000],
    help: 'how long the server takes; for tcp how long its namespace cannot send (its neighbour does not answer)',
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [1, 100],
    help: 'how many at once',
  },
  {
    key: 'upstream',
    kind: 'boolean',
    default: false,
    help: 'the DNS server is a cache that asks another one, which is the slow one',
  },
  {
    key: 'resolver',
    kind: 'text',
    default: 'system',
    values: ['system', 'musl', 'glibc'],
    help: "whose schedule lookups have: the C library's own resolver, or one like musl's or glibc's",
  },
] as const;

type SlowBackendSettings = SettingsOf<typeof SETTINGS>;

const PODS = ['client', 'server', 'upstream'] as const;
const UPSTREAM = routedPodAddress(3);
const SERVER = routedPodAddress(2);
const SERVICE = '10.96.0.10';
const PORT = 53;

/** A node with a Service whose only pod answers late; no packet is lost. */
export const lab = defineLab({
  name: 'slow-backend',
  title: 'a clean path to a server that takes its time',
  settings: SETTINGS,
  up,
});

async function up(settings: SlowBackendSettings, signal?: AbortSignal): Promise<RunningLab> {
  const scripts = routedPodScripts(PODS, [{ address: SERVICE, port: PORT, backend: SERVER }]);
  const namespaces = await Namespaces.create(Object.keys(scripts), routedPodCables(PODS), signal);
  try {
    await Promise.all(
      Object.entries(scripts).map(([role, script]) => namespaces.script(role, script, signal)),
    );
    const slow = { delayMs: settings.delay };
    if (settings.protocol === 'dns' && settings.upstream)
      await Promise.all([
        startNameServer(namespaces, 'server', { forwardTo: UPSTREAM }),
        startNameServer(namespaces, 'upstream', slow),
      ]);
    else if (settings.protocol === 'dns') await startNameServer(namespaces, 'server', slow);
    else await startServer(namespaces, 'server', { answer: PORT });
  } catch (error) {
    await namespaces.remove();
    throw error;
  }
  const { names } = namespaces;
  return {
    namespaces: names,
    node: names['client']!,
    traced: Object.values(names),
    run: (runSignal) =>
      settings.protocol === 'dns'
        ? lookUp(namespaces, settings, runSignal)
        : connect(namespaces, settings, runSignal),
    exec: (command, options) =>
      namespaces.exec('client', command, { SKBWHY_SERVICE: `${SERVICE}:${PORT}` }, options),
    keep: () => namespaces.keep(),
    down: () => namespaces.remove(),
  };
}

function lookUp(
  namespaces: Namespaces,
  { clients, resolver }: SlowBackendSettings,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const lookups = Array.from({ length: clients }, (_, i) => ({
    name: `host${i + 1}.example`,
    servers: [SERVICE],
    resolver,
    purpose: 'faulty',
  }));
  return runLookups(namespaces, 'client', lookups, {
    resolvConf: `nameserver ${SERVICE}\n`,
    signal,
  });
}

/**
 * A SYN-ACK is the kernel's work: it leaves late when the server's namespace first has to wait for
 * its router's hardware address, which the router keeps for itself a while.
 */
async function connect(
  namespaces: Namespaces,
  { clients, delay }: SlowBackendSettings,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const silence = '/proc/sys/net/ipv4/conf/pod2/arp_ignore';
  // neither the way there nor the client's own neighbour may wait
  const address = 'cat /sys/class/net/eth0/address';
  const mac = (await namespaces.script('server', address, signal)).trim();
  await namespaces.script(
    'node',
    `ip neigh replace ${SERVER} lladdr ${mac} dev pod2\necho 8 > ${silence}`,
    signal,
  );
  await namespaces.script(
    'server',
    `ip neigh flush dev eth0
echo 10 > /proc/sys/net/ipv4/neigh/eth0/retrans_time_ms
echo 10000 > /proc/sys/net/ipv4/neigh/eth0/mcast_solicit`,
    signal,
  );
  const connections = Array.from({ length: clients }, () => ({
    address: SERVICE,
    port: PORT,
    purpose: 'faulty',
    timeoutMs: delay + 20000,
  }));
  const results = runClients(namespaces, 'client', connections, signal);
  const syns = 'until grep -q "SYN_RECV\\| 03 " /proc/net/tcp /proc/net/tcp6; do sleep 0.01; done';
  await namespaces.script('server', `timeout 10 sh -c '${syns}' || true`, signal);
  await new Promise((resolve) => setTimeout(resolve, delay));
  await namespaces.script('node', `echo 0 > ${silence}`);
  return results;
}
