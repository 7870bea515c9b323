import { setTimeout as sleep } from 'node:timers/promises';
import { runLookups } from '../../lab/dns.js';
import { defineLab, type ClientResult } from '../../lab/lab.js';
import type { Namespaces } from '../../lab/namespaces.js';
import {
  routedPodAddress,
  routedPodCables,
  routedPodScripts,
  serviceRules,
} from '../../lab/routed-pods.js';
import type { SettingsOf } from '../../lab/settings.js';
import { build } from '../../lab/topology.js';
import { sysctls } from '../../lab/nodes.js';

const SETTINGS = [
  {
    key: 'flush',
    kind: 'boolean',
    default: false,
    help: 'the entries of the old backend are deleted when it goes, as they should be',
  },
  {
    key: 'lookups',
    kind: 'number',
    default: 2,
    range: [1, 10],
    help: 'lookups from the busy socket after the change, one a second',
  },
  {
    key: 'fresh',
    kind: 'number',
    default: 1,
    range: [0, 10],
    help: 'lookups from new sockets after the change',
  },
] as const;

type StaleSettings = SettingsOf<typeof SETTINGS>;

const PODS = ['client', 'old', 'new'] as const;
const OLD = routedPodAddress(2);
const NEW = routedPodAddress(3);
const SERVICE = { address: '10.96.0.10', port: 53 };
const BUSY_PORT = 40000;
const WARM_UP = 2;
const CHANGE_MS = 1500;

/** A DNS Service whose pod is replaced while a client keeps asking from one socket. */
export const lab = defineLab({
  name: 'stale-backend',
  title: 'a DNS pod that was replaced, and a client whose socket still reaches the old one',
  settings: SETTINGS,
  up: (settings, signal) => {
    const { node, ...pods } = routedPodScripts(PODS, [{ ...SERVICE, backend: OLD }]);
    return build(
      {
        cables: routedPodCables(PODS),
        scripts: {
          ...pods,
          node: node + sysctls({ 'net.ipv4.neigh.pod2.retrans_time_ms': 100 }),
        },
        nameServers: { old: {}, new: {} },
        run: (namespaces, runSignal) => lookUp(namespaces, settings, runSignal),
        node: 'client',
        environment: { SKBWHY_SERVICE: `${SERVICE.address}:${SERVICE.port}` },
      },
      signal,
    );
  },
});

async function lookUp(
  namespaces: Namespaces,
  { flush, lookups, fresh }: StaleSettings,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const spec = { servers: [SERVICE.address], resolver: 'once', timeoutMs: 2000 } as const;
  const busy = (name: string, startMs: number, purpose: string) => ({
    ...spec,
    name,
    startMs,
    purpose,
    types: [1],
    localPort: BUSY_PORT,
  });
  const clients = runLookups(
    namespaces,
    'client',
    [
      ...Array.from({ length: WARM_UP }, (_, i) =>
        busy(`before${i + 1}.example`, i * 500, 'healthy'),
      ),
      ...Array.from({ length: fresh }, (_, i) => ({
        ...spec,
        name: `fresh${i + 1}.example`,
        startMs: CHANGE_MS + 500,
        purpose: 'healthy',
      })),
      ...Array.from({ length: lookups }, (_, i) =>
        busy(`after${i + 1}.example`, CHANGE_MS + 1000 + i * 1000, flush ? 'healthy' : 'faulty'),
      ),
    ],
    { signal },
  );
  const change = async (): Promise<void> => {
    await untilAsked(namespaces, signal);
    await sleep(CHANGE_MS, undefined, signal ? { signal } : {});
    await replace(namespaces, flush);
  };
  const [results] = await Promise.all([clients, change().catch(ignoreAbort(signal))]);
  return results;
}

/** The busy socket has its entry: the clients' process takes its time to begin. */
async function untilAsked(namespaces: Namespaces, signal?: AbortSignal): Promise<void> {
  const entry = `conntrack -L -p udp --orig-dst ${SERVICE.address} 2> /dev/null | grep -q sport=${BUSY_PORT}`;
  await namespaces.script('node', `timeout 20 sh -c 'until ${entry}; do sleep 0.02; done'`, signal);
}

/** The pod goes with its address, the rules lead to the new one; the entries stay. */
async function replace(namespaces: Namespaces, flush: boolean): Promise<void> {
  await namespaces.script('old', 'ip addr flush dev eth0');
  await namespaces.script(
    'node',
    `ip neigh flush dev pod2
iptables -t nat -F
${serviceRules({ ...SERVICE, backend: NEW })}
${flush ? `conntrack -D -p udp --orig-dst ${SERVICE.address} > /dev/null 2>&1 || test $? -eq 1` : ''}`,
  );
}

function ignoreAbort(signal?: AbortSignal): (error: unknown) => void {
  return (error) => {
    if (!signal?.aborted) throw error;
  };
}
