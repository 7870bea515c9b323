import { setTimeout as sleep } from 'node:timers/promises';
import { existsSync } from 'node:fs';
import { SkbwhyError } from '../../event/errors.js';
import { endpoint } from '../../lab/client.js';
import { runLookups, startNameServer } from '../../lab/dns.js';
import { runClients, runLoad, startServer, type Purpose } from '../../lab/endpoints.js';
import { kubeProxyRules, type Service } from '../../lab/kube-proxy.js';
import { defineLab, type ClientResult, type RunningLab } from '../../lab/lab.js';
import { Namespaces, type Cable } from '../../lab/namespaces.js';
import type { SettingsOf } from '../../lab/settings.js';
import {
  POD_NETWORK,
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

const SETTINGS = [
  {
    key: 'tunnelChecksum',
    kind: 'text',
    default: 'udpcsum',
    values: ['udpcsum', 'noudpcsum'],
    help: 'whether the tunnel computes the outer UDP checksum',
  },
  {
    key: 'txrehash',
    kind: 'number',
    default: 1,
    range: [0, 1],
    help: 'net.core.txrehash where the client is: 1 gives a retransmission another outer port',
  },
  {
    key: 'rehashAt',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 0,
    range: [0, 600],
    help: 'when the faulty connections turn on SO_TXREHASH of their own socket, after they began; 0: never',
  },
  {
    key: 'randomFully',
    kind: 'boolean',
    default: true,
    help: 'masquerade rules choose random ports (--random-fully)',
  },
  {
    key: 'xorMark',
    kind: 'boolean',
    default: false,
    help: "kube-proxy's chain clears the mark before it masquerades",
  },
  {
    key: 'masqueradeFirst',
    kind: 'boolean',
    default: false,
    help: "a CNI's own rule masquerades node-to-pod traffic before kube-proxy's chain is reached",
  },
  {
    key: 'tunnelTxOffload',
    kind: 'boolean',
    default: true,
    help: "tx checksum offload of the sender's tunnel device",
  },
  {
    key: 'receiverTunnelTxOffload',
    kind: 'boolean',
    default: true,
    help: "tx checksum offload of the receiver's tunnel device",
  },
  {
    key: 'udpTimeout',
    kind: 'number',
    unit: 's',
    default: 30,
    range: [1, 3600],
    help: "net.netfilter.nf_conntrack_udp_timeout on the sender's node",
  },
  {
    key: 'synRetries',
    kind: 'number',
    default: null,
    range: [0, 127],
    help: 'net.ipv4.tcp_syn_retries where the client is: how often a SYN is repeated',
  },
  {
    key: 'synLinearTimeouts',
    kind: 'number',
    default: null,
    range: [0, 127],
    help: 'net.ipv4.tcp_syn_linear_timeouts where the client is: how many repeats come at 1 s each',
  },
  {
    key: 'markBit',
    kind: 'number',
    default: 0x4000,
    range: [1, 0xffffffff],
    help: 'the mark for masquerading; 16384 is 0x4000, the usual one',
  },
  {
    key: 'tunnelKind',
    kind: 'text',
    default: 'vxlan',
    values: ['vxlan', 'geneve'],
    help: 'what the tunnel is; Geneve, usually at port 6081, needs a kernel that has it',
  },
  {
    key: 'tunnelPort',
    kind: 'number',
    default: 8472,
    range: [1, 65535],
    help: 'UDP port of the tunnel',
  },
  {
    key: 'tunnelDevice',
    kind: 'text',
    default: 'flannel.1',
    pattern: [/^(?!eth0$|cni0$|lo$|pod$|outside$)[\w.-]{1,15}$/, 'a device name of its own'],
    help: 'name of the tunnel device on both nodes',
  },
  {
    key: 'client',
    kind: 'text',
    default: 'node',
    values: ['node', 'pod', 'nodeport'],
    help: 'clients on the sender node, in a pod there (Services then masquerade everybody), or outside through a NodePort',
  },
  {
    key: 'inner',
    kind: 'text',
    default: 'ipv4',
    values: ['ipv4', 'ipv6'],
    help: 'family of pods and Services',
  },
  {
    key: 'outer',
    kind: 'text',
    default: 'ipv4',
    values: ['ipv4', 'ipv6'],
    help: 'family of the nodes, between which the tunnel runs',
  },
  {
    key: 'pods',
    kind: 'text',
    default: null,
    pattern: POD_NETWORK,
    help: 'network of the pods; default 10.244.0.0/16, fd00:10:244::/48 with inner=ipv6',
  },
  {
    key: 'services',
    kind: 'text',
    default: null,
    pattern: POD_NETWORK,
    help: 'network of the Services; default 10.96.0.0/16, fd00:10:96::/48 with inner=ipv6',
  },
  {
    key: 'rules',
    kind: 'text',
    default: 'iptables',
    values: ['iptables', 'iptables-legacy', 'iptables-nft', 'nft'],
    help: "what holds kube-proxy's rules; iptables: the system's own choice of the two",
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [0, 10000],
    help: 'connections to the faulty Service, all at once',
  },
  {
    key: 'healthy',
    kind: 'number',
    default: 0,
    range: [0, 10000],
    help: 'connections beside them to a Service whose packets are not marked',
  },
  {
    key: 'lookups',
    kind: 'number',
    default: 0,
    range: [0, 1000],
    help: 'DNS lookups beside them at a DNS Service whose packets are marked; clients in a pod are hit (client=pod)',
  },
  {
    key: 'dead',
    kind: 'number',
    default: 0,
    range: [0, 100],
    help: 'connections beside them to the address of a pod that is gone',
  },
  {
    key: 'silent',
    kind: 'number',
    default: 0,
    range: [0, 100],
    help: 'connections beside them to a server that never answers a SYN (its accept queue is full)',
  },
  {
    key: 'unrelated',
    kind: 'number',
    default: 0,
    range: [0, 10_000_000],
    help: 'short connections beside them from node to node, outside the tunnel, one after another',
  },
  {
    key: 'stream',
    kind: 'boolean',
    default: false,
    help: 'beside them, as long as they last, one saturated connection from node to node',
  },
  {
    key: 'deleteEntryAt',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 0,
    range: [0, 600],
    help: "when the outer conntrack entry is deleted on the sender's node, after the clients started; 0: never",
  },
  {
    key: 'conntrackTimestamp',
    kind: 'boolean',
    default: false,
    help: "net.netfilter.nf_conntrack_timestamp on the sender's node",
  },
  {
    key: 'timeout',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 140,
    range: [0.1, 3600],
    help: 'how long a client waits for its answer',
  },
] as const;

type DoubleSnatSettings = SettingsOf<typeof SETTINGS>;

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
  const clientRole = CLIENT_ROLE[settings.client];
  const pods = network('pods', settings, ['10.244.0.0/16', 'fd00:10:244::/48']);
  const services = servicesOf(settings, pods);
  const scripts = namespaceScripts(settings, pods, services);
  const namespaces = await Namespaces.create(Object.keys(scripts), cables(settings), signal);
  try {
    const silent = settings.silent > 0 ? { silent: SILENT_PORT } : {};
    await Promise.all([
      startServer(namespaces, 'pod', { answer: SERVER_PORT, ...silent }),
      ...(settings.unrelated > 0
        ? [startServer(namespaces, 'receiver', { reset: RESET_PORT })]
        : []),
      ...(settings.lookups > 0 ? [startNameServer(namespaces, 'pod')] : []),
      ...(settings.stream ? [startServer(namespaces, 'receiver', { sink: SINK_PORT }, true)] : []),
      ...Object.entries(scripts).map(([role, script]) => namespaces.script(role, script, signal)),
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
  let deletion = Promise.resolve();
  const timer =
    settings.deleteEntryAt > 0
      ? setTimeout(() => {
          deletion = deleteOuterEntry(namespaces, settings);
          deletion.catch(() => undefined); // awaited below
        }, settings.deleteEntryAt * 1000)
      : undefined;
  try {
    const results = await runClients(namespaces, role, connections, signal);
    await deletion;
    return results;
  } finally {
    clearTimeout(timer);
  }
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
