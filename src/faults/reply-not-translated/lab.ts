import { defineLab } from '../../lab/lab.js';
import type { Cable } from '../../lab/namespaces.js';
import { serviceRules } from '../../lab/routed-pods.js';
import type { SettingsOf } from '../../lab/settings.js';
import { build } from '../../lab/topology.js';
import { bridgeNetfilter, sysctls } from '../../lab/nodes.js';

const SETTINGS = [
  {
    key: 'way',
    kind: 'text',
    default: 'bridged',
    values: ['bridged', 'another-way', 'not-tracked', 'none'],
    help: 'how answers get past the NAT: over the bridge, over a cable of their own, by NOTRACK; none: they do not',
  },
  {
    key: 'protocol',
    kind: 'text',
    default: 'dns',
    values: ['dns', 'tcp'],
    help: 'what the clients do: DNS lookups, or TCP connects',
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [1, 100],
    help: 'how many at once',
  },
] as const;

type ReplySettings = SettingsOf<typeof SETTINGS>;

const CABLES: Cable[] = [
  [
    ['node', 'pod1'],
    ['client', 'eth0'],
  ],
  [
    ['node', 'pod2'],
    ['server', 'eth0'],
  ],
  [
    ['client', 'eth1'],
    ['server', 'eth1'],
  ],
];
const CLIENT = '10.88.0.11';
const SERVER = '10.88.0.12';
const SERVICE = { address: '10.96.0.10', port: 53 };

/** A Service whose client and backend are on one bridge of one node. */
export const lab = defineLab({
  name: 'reply-not-translated',
  title: 'a Service whose answers come past the NAT, from the backend’s own address',
  settings: SETTINGS,
  up: (settings, signal) => {
    const { way, protocol, clients } = settings;
    const dns = protocol === 'dns';
    const purpose = way === 'none' ? 'healthy' : 'faulty';
    return build(
      {
        cables: CABLES,
        scripts: scriptsOf(settings),
        servers: dns ? {} : { server: { answer: SERVICE.port } },
        nameServers: dns ? { server: {} } : {},
        clients: {
          client: Array.from({ length: dns ? 0 : clients }, () => ({
            ...{ ...SERVICE, timeoutMs: 2500, purpose },
          })),
        },
        lookups: {
          client: Array.from({ length: dns ? clients : 0 }, (_, i) => ({
            name: `host${i + 1}.example`,
            servers: [SERVICE.address],
            resolver: 'system' as const,
            purpose,
          })),
        },
        resolvConf: `nameserver ${SERVICE.address}\noptions timeout:1 attempts:2\n`,
        node: 'client',
        environment: { SKBWHY_SERVICE: `${SERVICE.address}:${SERVICE.port}` },
      },
      signal,
    );
  },
});

function scriptsOf({ way }: ReplySettings): Record<string, string> {
  const pod = (address: string, more: string) => `
${sysctls({ 'net.ipv4.conf.all.rp_filter': 0, 'net.ipv4.conf.default.rp_filter': 0 })}
echo 0 > /proc/sys/net/ipv4/conf/eth0/rp_filter
echo 0 > /proc/sys/net/ipv4/conf/eth1/rp_filter
ip link set lo up
ip addr add ${address}/24 dev eth0
ip link set eth0 up
ip link set eth1 up
ip route add default via 10.88.0.1
${more}
`;
  return {
    client: pod(CLIENT, ''),
    server: pod(SERVER, way === 'another-way' ? `ip route add ${CLIENT}/32 dev eth1` : ''),
    node: `
${sysctls({ 'net.ipv4.ip_forward': 1, 'net.ipv4.conf.all.rp_filter': 0, 'net.ipv4.conf.all.send_redirects': 0 })}
ip link set lo up
ip link add cni0 type bridge
ip addr add 10.88.0.1/24 dev cni0
ip link set cni0 up
ip link set pod1 master cni0 up
ip link set pod2 master cni0 up
${bridgeNetfilter(way !== 'bridged')}
${serviceRules({ ...SERVICE, backend: SERVER })}
${way === 'not-tracked' ? `iptables -t raw -A PREROUTING -s ${SERVER} -j CT --notrack` : ''}
`,
  };
}
