import { setTimeout as sleep } from 'node:timers/promises';
import { existsSync } from 'node:fs';
import { SkbwhyError } from '../../event/errors.js';
import { endpoint } from '../../lab/client.js';
import { untilThereAre } from '../../lab/connection-states.js';
import { runLookups, startNameServer } from '../../lab/dns.js';
import { runClients, runLoad, startServer, type Purpose } from '../../lab/endpoints.js';
import { kubeProxyRules, type Service } from '../../lab/kube-proxy.js';
import { defineLab, type ClientResult, type RunningLab } from '../../lab/lab.js';
import { Namespaces, type Cable } from '../../lab/namespaces.js';
import {
  familyOf,
  neighbourAddress,
  neighbourScript,
  nodeAddress,
  nodeScript,
  podAddress,
  podScript,
  sysctls,
  type NodeNumber,
  type PodNetwork,
  type Tunnel,
} from '../../lab/nodes.js';
import { SETTINGS, type DoubleSnatSettings } from './lab-settings.js';

const SENDER = 1;
const RECEIVER = 2;
/** Host numbers in a node's pod subnet. */
const POD = 10;
const DEAD = 99;
const SERVER_PORT = 8080;
const DNS_PORT = 53;
/** How long after an unanswered lookup it is seen that nothing follows, ms. */
const SILENCE_MS = 3000;
const SILENT_PORT = 8081;
const SINK_PORT = 8082;
const RESET_PORT = 8083;
/** The network between the sender's node and the client outside. */
const OUTSIDE = { ipv4: '172.30.0.0/24', ipv6: 'fd00:172:30::/64' } as const;

/**
 * Two nodes joined by a VXLAN tunnel, a Service whose only pod is on the receiver's, kube-proxy's rules
 * on both. A client at the sender's is masqueraded twice: inside the tunnel, and its tunnel packet again.
 */
export const lab = defineLab({
  name: 'double-snat',
  title: 'a Service behind VXLAN that answers after 1 s, 63 s or never',
  settings: SETTINGS,
  up,
});

/** Role of the namespace that the clients run in. */
const CLIENT_ROLE = { node: 'sender', pod: 'client', nodeport: 'outside' } as const;

async function up(settings: DoubleSnatSettings, signal?: AbortSignal): Promise<RunningLab> {
  if (settings.lookups > 0 && settings.client === 'nodeport')
    throw new SkbwhyError('bad-option', '--set lookups does not go with client=nodeport');
  if (settings.outerPorts !== null && settings.tunnelKind === 'geneve')
    throw new SkbwhyError('bad-option', '--set outerPorts does not go with tunnelKind=geneve');
  const clientRole = CLIENT_ROLE[settings.client];
  const pods = network('pods', settings, ['10.244.0.0/16', 'fd00:10:244::/48']);
  const services = servicesOf(settings, pods);
  const scripts = namespaceScripts(settings, pods, services);
  const namespaces = await Namespaces.create(Object.keys(scripts), cables(settings), signal);
  try {
    const silent = settings.silent > 0 ? { silent: SILENT_PORT } : {};
    const { pod, ...others } = scripts;
    await Promise.all([
      namespaces
        .script('pod', pod!, signal)
        // who is silent fills its own queue, by way of lo
        .then(() => startServer(namespaces, 'pod', { answer: SERVER_PORT, ...silent })),
      ...(settings.unrelated > 0
        ? [startServer(namespaces, 'receiver', { reset: RESET_PORT })]
        : []),
      ...(settings.lookups > 0 ? [startNameServer(namespaces, 'pod')] : []),
      ...(settings.stream ? [startServer(namespaces, 'receiver', { sink: SINK_PORT }, true)] : []),
      ...Object.entries(others).map(([role, script]) => namespaces.script(role, script, signal)),
    ]);
  } catch (error) {
    await namespaces.remove();
    throw error;
  }
  const { names } = namespaces;
  const connections = plannedConnections(settings, pods, services);
  return {
    namespaces: names,
    node: names.sender ?? '',
    // what is outside would not be seen on real nodes either
    traced: Object.keys(scripts).flatMap((role) => (role === 'outside' ? [] : (names[role] ?? []))),
    run: async (runSignal) => {
      const results = await Promise.all([
        runOnce(namespaces, settings, clientRole, connections, runSignal),
        lookUp(namespaces, settings, clientRole, services[2].address, runSignal),
      ]);
      return results.flat();
    },
    exec: (command, options) =>
      namespaces.exec('sender', command, environment(names, services), options),
    keep: () => namespaces.keep(),
    down: () => namespaces.remove(),
  };
}

/** Lookups as musl makes them, from the clients' namespace. */
async function lookUp(
  namespaces: Namespaces,
  settings: DoubleSnatSettings,
  role: string,
  server: string,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  if (settings.lookups === 0) return [];
  const lookups = Array.from({ length: settings.lookups }, (_, i) => ({
    name: `host${i + 1}.example`,
    servers: [server],
    resolver: 'musl' as const,
    purpose: 'faulty',
  }));
  const results = await runLookups(namespaces, role, lookups, { signal });
  if (results.some((result) => !result.ok))
    await sleep(SILENCE_MS, undefined, signal ? { signal } : {}).catch(() => undefined);
  return results;
}

async function runOnce(
  namespaces: Namespaces,
  settings: DoubleSnatSettings,
  role: string,
  connections: readonly Purpose[],
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const { unrelated, stream } = settings;
  const address = nodeAddress(RECEIVER, 'ipv4');
  const startedAt = new Date().toISOString();
  const loads: ClientResult[] = [];
  /** `work` with a load beside it, whose result is kept. */
  const beside =
    (
      work: () => Promise<ClientResult[]>,
      [purpose, port, load]: ['unrelated', number, number] | ['stream', number, 'stream'],
    ) =>
    async (): Promise<ClientResult[]> => {
      const target = { address, port, load };
      const [results, { made, streamed }] = await runLoad(
        namespaces,
        'sender',
        target,
        work,
        signal,
      );
      const error =
        load === 'stream'
          ? streamed > 0
            ? null
            : 'nothing was taken'
          : made === load
            ? null
            : `${load - made} of ${load} failed`;
      loads.push({
        client: 'sender',
        purpose,
        target: endpoint(address, port),
        source: null,
        protocol: 'tcp',
        ok: error === null,
        connectMs: null,
        error,
        startedAt,
      });
      return results;
    };
  let work = () => runFaulty(namespaces, settings, role, connections, signal);
  if (unrelated > 0) work = beside(work, ['unrelated', RESET_PORT, unrelated]);
  if (stream) work = beside(work, ['stream', SINK_PORT, 'stream']);
  return [...(await work()), ...loads];
}

async function runFaulty(
  namespaces: Namespaces,
  settings: DoubleSnatSettings,
  role: string,
  connections: readonly Purpose[],
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  if (settings.deleteEntryAt === 0) return runClients(namespaces, role, connections, signal);
  const ended = new AbortController();
  const deletion = deleteLater(namespaces, settings, role, ended.signal);
  deletion.catch(() => undefined); // awaited below
  try {
    return await runClients(namespaces, role, connections, signal);
  } finally {
    ended.abort();
    await deletion;
  }
}

/** Deletes the outer entry so long after a SYN was sent: the clients' process takes its time to begin. */
async function deleteLater(
  namespaces: Namespaces,
  settings: DoubleSnatSettings,
  role: string,
  signal: AbortSignal,
): Promise<void> {
  try {
    await untilThereAre(1, 'syn-sent', namespaces, role, signal);
    await sleep(settings.deleteEntryAt * 1000, undefined, { signal });
  } catch (error) {
    if (signal.aborted) return;
    throw error;
  }
  await deleteOuterEntry(namespaces, settings);
}

async function deleteOuterEntry(
  namespaces: Namespaces,
  { outer, tunnelPort }: DoubleSnatSettings,
): Promise<void> {
  // its status is 1 when there was none to delete: no failure of the lab
  const deletion = `conntrack -D -f ${outer} -p udp --dport ${tunnelPort} > /dev/null 2>&1`;
  await namespaces.script('sender', `${deletion} || test $? -eq 1`);
}

function cables({ client }: DoubleSnatSettings): Cable[] {
  const cable = (role: string, device: string, peerRole: string, peer: string): Cable => [
    [role, device],
    [peerRole, peer],
  ];
  return [
    cable('sender', 'eth0', 'receiver', 'eth0'),
    cable('receiver', 'pod', 'pod', 'eth0'),
    ...(client === 'pod' ? [cable('sender', 'pod', 'client', 'eth0')] : []),
    ...(client === 'nodeport' ? [cable('sender', 'outside', 'outside', 'eth0')] : []),
  ];
}

/** What makes each namespace what it is, by role. */
function namespaceScripts(
  settings: DoubleSnatSettings,
  pods: PodNetwork,
  services: readonly Service[],
): Record<string, string> {
  const { client, inner, outer } = settings;
  const tunnel: Tunnel = {
    kind: settings.tunnelKind,
    device: settings.tunnelDevice,
    vni: 1,
    port: settings.tunnelPort,
    checksum: settings.tunnelChecksum === 'udpcsum',
    outer,
    ...(settings.outerPorts === null ? {} : { sourcePorts: settings.outerPorts }),
  };
  // the rules look at tunnel packets too, which may be of the other family
  const rules = [...new Set([inner, outer])].map((family) =>
    kubeProxyRules({
      backend: settings.rules,
      family,
      pods: family === pods.family ? pods.cidr : null,
      services: family === inner ? services : [],
      mark: settings.markBit,
      randomFully: settings.randomFully,
      xorMark: settings.xorMark,
      masqueradeFirst: settings.masqueradeFirst,
    }),
  );
  const node = (number: NodeNumber, podCables: string[]) => [
    nodeScript(number, { tunnel, pods, podCables }),
    ...rules,
  ];
  const offloadOff = `ethtool -K ${settings.tunnelDevice} tx-checksum-ip-generic off > /dev/null`;
  const scripts: Record<string, string[]> = {
    sender: [
      ...node(SENDER, client === 'pod' ? ['pod'] : []),
      ...(settings.tunnelTxOffload ? [] : [offloadOff]),
      sysctls({
        'net.netfilter.nf_conntrack_udp_timeout': settings.udpTimeout,
        'net.netfilter.nf_conntrack_timestamp': settings.conntrackTimestamp ? 1 : 0,
      }),
      ...(client === 'nodeport' ? [neighbourScript('outside', OUTSIDE[inner], 1)] : []),
    ],
    receiver: [
      ...node(RECEIVER, ['pod']),
      ...(settings.receiverTunnelTxOffload ? [] : [offloadOff]),
    ],
    pod: [podScript(pods, RECEIVER, POD)],
    ...(client === 'pod' ? { client: [podScript(pods, SENDER, POD)] } : {}),
    ...(client === 'nodeport' ? { outside: [neighbourScript('eth0', OUTSIDE[inner], 2)] } : {}),
  };
  scripts[CLIENT_ROLE[client]]?.push(sysctls(socketSettings(settings)));
  return Object.fromEntries(
    Object.entries(scripts).map(([role, parts]) => [role, parts.join('\n')]),
  );
}

/** Sysctls of the client's own namespace; those that are to stay as they are left out. */
function socketSettings(settings: DoubleSnatSettings): Record<string, number> {
  const values: Record<string, number> = {};
  for (const [key, sysctl] of [
    ['txrehash', 'net.core.txrehash'],
    ['synRetries', 'net.ipv4.tcp_syn_retries'],
    ['synLinearTimeouts', 'net.ipv4.tcp_syn_linear_timeouts'],
  ] as const) {
    const value = settings[key];
    if (value === null) continue;
    if (existsSync(`/proc/sys/${sysctl.replaceAll('.', '/')}`)) values[sysctl] = value;
    else if (value !== SETTINGS.find((setting) => setting.key === key)?.default) {
      throw new SkbwhyError('lab-failed', `--set ${key}: this kernel has no ${sysctl}`);
    }
  }
  return values;
}

function network(
  key: 'pods' | 'services',
  settings: DoubleSnatSettings,
  [ipv4, ipv6]: readonly [string, string],
): PodNetwork {
  const family = settings.inner;
  const cidr = settings[key] ?? (family === 'ipv6' ? ipv6 : ipv4);
  if (familyOf(cidr) !== family) {
    throw new SkbwhyError('bad-option', `--set ${key}=${cidr} does not go with inner=${family}`);
  }
  return { family, cidr };
}

function servicesOf(settings: DoubleSnatSettings, pods: PodNetwork): [Service, Service, Service] {
  const addresses = network('services', settings, ['10.96.0.0/16', 'fd00:10:96::/48']);
  const service = (name: string, host: number, marked: Service['marked']): Service => ({
    name,
    address: podAddress(addresses, 0, host),
    port: 80,
    nodePort: 30000 + host,
    backend: { address: podAddress(pods, RECEIVER, POD), port: SERVER_PORT },
    marked,
  });
  const marked = settings.client === 'pod' ? 'everybody' : 'beyond the pods';
  const dns = service('dns', 30, marked);
  return [
    service('web', 10, marked),
    service('healthy', 20, 'nobody'),
    { ...dns, protocol: 'udp', port: DNS_PORT, backend: { ...dns.backend, port: DNS_PORT } },
  ];
}

function plannedConnections(
  settings: DoubleSnatSettings,
  pods: PodNetwork,
  [faulty, healthy]: readonly [Service, Service, Service],
): Purpose[] {
  const timeoutMs = settings.timeout * 1000;
  const rehash = settings.rehashAt > 0 ? { rehashAfterMs: settings.rehashAt * 1000 } : {};
  const many = (count: number, purpose: string, to: Omit<Purpose, 'purpose' | 'timeoutMs'>) =>
    Array.from({ length: count }, () => ({ ...to, purpose, timeoutMs }));
  const door = ({ address, port, nodePort }: Service) =>
    settings.client === 'nodeport'
      ? { address: neighbourAddress(OUTSIDE[settings.inner], 1), port: nodePort }
      : { address, port };
  const pod = (host: number, port: number) => ({ address: podAddress(pods, RECEIVER, host), port });
  return [
    ...many(settings.clients, 'faulty', { ...door(faulty), ...rehash }),
    ...many(settings.healthy, 'healthy', door(healthy)),
    ...many(settings.dead, 'dead', pod(DEAD, SERVER_PORT)),
    ...many(settings.silent, 'silent', pod(POD, SILENT_PORT)),
  ];
}

/** What a user's command is told of the lab. */
function environment(
  names: Readonly<Record<string, string>>,
  [faulty, healthy]: readonly [Service, Service, Service],
): Record<string, string> {
  return {
    SKBWHY_SERVICE: endpoint(faulty.address, faulty.port),
    SKBWHY_HEALTHY_SERVICE: endpoint(healthy.address, healthy.port),
    ...Object.fromEntries(
      Object.entries(names).map(([role, name]) => [`SKBWHY_NETNS_${role.toUpperCase()}`, name]),
    ),
  };
}
