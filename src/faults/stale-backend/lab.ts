import { setTimeout as sleep } from 'node:timers/promises';
import { runLookups, startNameServer } from '../../lab/dns.js';
import { defineLab, type ClientResult, type RunningLab } from '../../lab/lab.js';
import { Namespaces } from '../../lab/namespaces.js';
import {
  routedPodAddress,
  routedPodCables,
  routedPodScripts,
  serviceRules,
} from '../../lab/routed-pods.js';
import type { SettingsOf } from '../../lab/settings.js';
import { sysctls } from '../../lab/vxlan.js';

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
  up,
});

async function up(settings: StaleSettings, signal?: AbortSignal): Promise<RunningLab> {
  const scripts = routedPodScripts(PODS, [{ ...SERVICE, backend: OLD }]);
  const namespaces = await Namespaces.create(Object.keys(scripts), routedPodCables(PODS), signal);
  try {
    await Promise.all(
      Object.entries(scripts).map(([role, script]) => namespaces.script(role, script, signal)),
    );
    await namespaces.script(
      'node',
      sysctls({ 'net.ipv4.neigh.pod2.retrans_time_ms': 100 }),
      signal,
    );
    await Promise.all([startNameServer(namespaces, 'old'), startNameServer(namespaces, 'new')]);
  } catch (error) {
    await namespaces.remove();
    throw error;
  }
  const { names } = namespaces;
  return {
    namespaces: names,
    node: names['client']!,
    traced: Object.values(names),
    run: (runSignal) => lookUp(namespaces, settings, runSignal),
    exec: (command, options) =>
      namespaces.exec('client', command, { SKBWHY_SERVICE: `${SERVICE.address}:53` }, options),
    keep: () => namespaces.keep(),
    down: () => namespaces.remove(),
  };
}

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
  const change = sleep(CHANGE_MS, undefined, signal ? { signal } : {}).then(() =>
    replace(namespaces, flush),
  );
  const [results] = await Promise.all([clients, change.catch(ignoreAbort(signal))]);
  return results;
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
