import { runClients } from '../../lab/endpoints.js';
import { untilThereAre } from '../../lab/connection-states.js';
import { forgetRouter } from '../../lab/late-neighbour.js';
import { defineLab, type ClientResult } from '../../lab/lab.js';
import type { Namespaces } from '../../lab/namespaces.js';
import { routedPodAddress, routedPodCables, routedPodScripts } from '../../lab/routed-pods.js';
import type { SettingsOf } from '../../lab/settings.js';
import { build } from '../../lab/topology.js';

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
  up: (settings, signal) => {
    const { protocol, delay, clients, upstream, resolver } = settings;
    const slow = { delayMs: delay };
    return build(
      {
        cables: routedPodCables(PODS),
        scripts: routedPodScripts(PODS, [{ address: SERVICE, port: PORT, backend: SERVER }]),
        ...(protocol === 'dns'
          ? {
              nameServers: upstream
                ? { server: { forwardTo: UPSTREAM }, upstream: slow }
                : { server: slow },
              lookups: {
                client: Array.from({ length: clients }, (_, i) => ({
                  ...{ name: `host${i + 1}.example`, servers: [SERVICE], resolver },
                  purpose: 'faulty',
                })),
              },
              resolvConf: `nameserver ${SERVICE}\n`,
            }
          : {
              servers: { server: { answer: PORT } },
              run: (namespaces, runSignal) => connect(namespaces, settings, runSignal),
            }),
        node: 'client',
        environment: { SKBWHY_SERVICE: `${SERVICE}:${PORT}` },
      },
      signal,
    );
  },
});

/**
 * A SYN-ACK is the kernel's work: it leaves late when the server's namespace first has to wait for
 * its router's hardware address, which the router keeps for itself a while.
 */
async function connect(
  namespaces: Namespaces,
  { clients, delay }: SlowBackendSettings,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const uplink = { role: 'server', address: SERVER, router: 'node', device: 'pod2' };
  const release = await forgetRouter(namespaces, uplink, signal);
  const connections = Array.from({ length: clients }, () => ({
    address: SERVICE,
    port: PORT,
    purpose: 'faulty',
    timeoutMs: delay + 20000,
  }));
  const results = runClients(namespaces, 'client', connections, signal);
  results.catch(() => undefined);
  await untilThereAre(1, 'syn-received', namespaces, 'server', signal);
  await new Promise((resolve) => setTimeout(resolve, delay));
  await release();
  return results;
}
