/** Two nodes, numbered 1 and 2, joined by a cable, a VXLAN or Geneve tunnel over it, pods behind a bridge. */

export type Family = 'ipv4' | 'ipv6';

export interface Tunnel {
  /** VXLAN unless told; the kernel may not have the other */
  kind?: 'vxlan' | 'geneve';
  device: string;
  vni: number;
  /** UDP destination port */
  port: number;
  /** VXLAN: how many UDP source ports it chooses from; as many as the kernel likes if not told */
  sourcePorts?: number;
  /** the outer UDP checksum is computed */
  checksum: boolean;
  outer: Family;
  /** its packets bear DF */
  df?: boolean;
}

/** Addresses of pods: node n has subnet n of the pods' network. */
export interface PodNetwork {
  family: Family;
  /** `a.b.0.0/16` or `x:y:z::/48` */
  cidr: string;
}

export type NodeNumber = 1 | 2;

/** What a pods' network has to look like. */
export const POD_NETWORK: readonly [RegExp, string] = [
  /^(\d{1,3}\.\d{1,3}\.0\.0\/16|[0-9a-f]{1,4}:[0-9a-f]{1,4}:[0-9a-f]{1,4}::\/48)$/,
  'a network like 10.244.0.0/16, or fd00:10:244::/48 for IPv6',
];

export function familyOf(address: string): Family {
  return address.includes(':') ? 'ipv6' : 'ipv4';
}

/** Address of host `host` (1 is the bridge) in subnet `node`, in its canonical form. */
export function podAddress({ cidr, family }: PodNetwork, node: number, host: number): string {
  if (family === 'ipv4') return `${prefix(cidr)}.${node}.${host}`;
  return `${prefix(cidr)}${node === 0 ? '' : `:${node}`}::${host.toString(16)}`;
}

/** The node's address on the cable. */
export function nodeAddress(node: NodeNumber, family: Family): string {
  return family === 'ipv6' ? `fd00:192:168:100::${node}` : `192.168.100.${node}`;
}

/** udp_flow_src_port (include/net/udp_tunnel.h) leaves out the upper end, but 7.2 does not: one port more there. */
function sourcePortsOf({ sourcePorts: ports }: Tunnel): string {
  return ports === undefined ? '' : ` srcport ${FIRST_SOURCE_PORT} ${FIRST_SOURCE_PORT + ports}`;
}

const FIRST_SOURCE_PORT = 40000;

/** The pods' network without its zeros and length. */
function prefix(cidr: string): string {
  return cidr.replace(/(\.0\.0|::)\/\d+$/, '');
}

function subnet(pods: PodNetwork, node: NodeNumber): string {
  return pods.family === 'ipv6'
    ? `${prefix(pods.cidr)}:${node}::/64`
    : `${prefix(pods.cidr)}.${node}.0/24`;
}

/** The tunnel device's own address; the null host, as flannel does, except where IPv6 gives that to routers. */
function tunnelAddress(pods: PodNetwork, node: NodeNumber): string {
  return podAddress(pods, node, pods.family === 'ipv6' ? 0xff : 0);
}

/** IPv6 addresses are usable as soon as they are set: without duplicate address detection. */
export const IPV6_AT_ONCE = `for setting in /proc/sys/net/ipv6/conf/*/accept_dad; do
  test ! -e $setting || echo 0 > $setting
done`;

/** Shell lines that set `net.*` settings of the namespace they run in. */
export function sysctls(values: Readonly<Record<string, string | number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `echo ${value} > /proc/sys/${name.replaceAll('.', '/')}`)
    .join('\n');
}

/** Shell lines that say whether bridged packets pass iptables, where br_netfilter is in the kernel. */
export function bridgeNetfilter(on: boolean): string {
  return `if test -e /proc/sys/net/bridge/bridge-nf-call-iptables; then
  echo ${on ? 1 : 0} > /proc/sys/net/bridge/bridge-nf-call-iptables
fi`;
}

/**
 * The shell script that makes a namespace a node: the cable's end is its `eth0`, pods' cables end in
 * `podCables`. Loads no rules.
 */
export function nodeScript(
  node: NodeNumber,
  options: { tunnel: Tunnel; pods: PodNetwork; podCables: readonly string[] },
): string {
  const { tunnel, pods, podCables } = options;
  const other = node === 1 ? 2 : 1;
  const bits = pods.family === 'ipv6' ? 128 : 32;
  const families: Family[] = [pods.family, tunnel.outer].includes('ipv6')
    ? ['ipv4', 'ipv6']
    : ['ipv4'];
  const nodad = (family: Family) => (family === 'ipv6' ? ' nodad' : '');
  const checksum =
    tunnel.outer === 'ipv6'
      ? tunnel.checksum
        ? 'noudp6zerocsumtx noudp6zerocsumrx'
        : 'udp6zerocsumtx udp6zerocsumrx'
      : tunnel.checksum
        ? 'udpcsum'
        : 'noudpcsum';
  const remote = nodeAddress(other, tunnel.outer);
  const geneve = tunnel.kind === 'geneve';
  const ends = geneve
    ? `remote ${remote}`
    : `dev eth0 local ${nodeAddress(node, tunnel.outer)} nolearning${sourcePortsOf(tunnel)}`;
  return `
${sysctls({
  'net.ipv4.ip_forward': 1,
  'net.ipv4.conf.all.rp_filter': 0,
  'net.ipv4.conf.default.rp_filter': 0,
  ...(families.includes('ipv6') ? { 'net.ipv6.conf.all.forwarding': 1 } : {}),
})}
${IPV6_AT_ONCE}
ip -batch - <<'LINKS'
link set lo up
link set eth0 address 02:00:00:00:01:0${node}
${families.map((family) => `addr add ${nodeAddress(node, family)}/${family === 'ipv6' ? 64 : 24} dev eth0${nodad(family)}`).join('\n')}
link set eth0 up
${families
  .map((family) => {
    const peer = nodeAddress(other, family);
    return `neigh replace ${peer} lladdr 02:00:00:00:01:0${other} dev eth0\nroute add default via ${peer}`;
  })
  .join('\n')}
link add ${tunnel.device} type ${geneve ? 'geneve' : 'vxlan'} id ${tunnel.vni} dstport ${tunnel.port} ${ends} ${checksum}${tunnel.df ? ' df set' : ''}
link set ${tunnel.device} address 02:00:00:00:02:0${node}
addr add ${tunnelAddress(pods, node)}/${bits} dev ${tunnel.device}${nodad(pods.family)}
link set ${tunnel.device} up
neigh replace ${tunnelAddress(pods, other)} lladdr 02:00:00:00:02:0${other} dev ${tunnel.device}
route add ${subnet(pods, other)} via ${tunnelAddress(pods, other)} dev ${tunnel.device} onlink
link add cni0 type bridge
addr add ${podAddress(pods, node, 1)}/${subnet(pods, node).split('/')[1]} dev cni0${nodad(pods.family)}
link set cni0 up
${podCables.map((device) => `link set ${device} master cni0 up`).join('\n')}
LINKS
${geneve ? '' : `bridge fdb append 02:00:00:00:02:0${other} dev ${tunnel.device} dst ${remote}`}
# A wire carries no CHECKSUM_PARTIAL: finish checksums before the cable, as a network card does.
ethtool -K eth0 tx off > /dev/null
`;
}

/** The shell script that makes a namespace a pod of `node`: the cable's end is its `eth0`. */
export function podScript(pods: PodNetwork, node: NodeNumber, host: number): string {
  const nodad = pods.family === 'ipv6' ? ' nodad' : '';
  return `
${IPV6_AT_ONCE}
ip -batch - <<'LINKS'
link set lo up
addr add ${podAddress(pods, node, host)}/${subnet(pods, node).split('/')[1]} dev eth0${nodad}
link set eth0 up
route add default via ${podAddress(pods, node, 1)}
LINKS
`;
}

/** Address of host `host` in a network that two namespaces share. */
export function neighbourAddress(cidr: string, host: number): string {
  return cidr.includes(':') ? cidr.replace(/\/.*/, `${host}`) : cidr.replace(/0\/.*/, `${host}`);
}

/** The shell script that gives a cable's end the address of `host`; host 1 is the other's router. */
export function neighbourScript(device: string, cidr: string, host: 1 | 2): string {
  const nodad = cidr.includes(':') ? ' nodad' : '';
  return `
${IPV6_AT_ONCE}
ip -batch - <<'LINKS'
link set lo up
addr add ${neighbourAddress(cidr, host)}/${cidr.split('/')[1]} dev ${device}${nodad}
link set ${device} up
${host === 1 ? '' : `route add default via ${neighbourAddress(cidr, 1)}`}
LINKS
`;
}
