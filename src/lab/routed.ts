import type { Cable } from './namespaces.js';
import { IPV6_AT_ONCE, neighbourAddress, sysctls, type Family } from './nodes.js';

/** A client and a server, each on its own cable to a node that routes between them. */
export const ROUTED_CABLES: readonly Cable[] = [
  [
    ['client', 'eth0'],
    ['node', 'client'],
  ],
  [
    ['node', 'server'],
    ['server', 'eth0'],
  ],
];

const NETWORKS = {
  ipv4: { client: '10.81.1.0/24', server: '10.81.2.0/24' },
  ipv6: { client: 'fd00:10:81:1::/64', server: 'fd00:10:81:2::/64' },
} as const;

/** Address of a role on its cable; the node has one on each. */
export function routedAddress(
  role: 'client' | 'server' | 'node',
  family: Family,
  side: 'client' | 'server' = role === 'server' ? 'server' : 'client',
): string {
  return neighbourAddress(NETWORKS[family][side], role === 'node' ? 1 : 2);
}

/** The scripts of the three roles; every address is of `family`. */
export function routedScripts(family: Family): Record<'client' | 'node' | 'server', string> {
  const address = (side: 'client' | 'server', host: 1 | 2, device: string): string =>
    `addr add ${neighbourAddress(NETWORKS[family][side], host)}/${NETWORKS[family][side].split('/')[1]} dev ${device}${family === 'ipv6' ? ' nodad' : ''}`;
  const end = (side: 'client' | 'server'): string => `
${IPV6_AT_ONCE}
ip -batch - <<'LINKS'
link set lo up
${address(side, 2, 'eth0')}
link set eth0 up
route add default via ${neighbourAddress(NETWORKS[family][side], 1)}
LINKS
`;
  return {
    client: end('client'),
    server: end('server'),
    node: `
${sysctls({
  'net.ipv4.ip_forward': 1,
  'net.ipv4.conf.all.rp_filter': 0,
  'net.ipv4.conf.default.rp_filter': 0,
  'net.ipv4.conf.client.rp_filter': 0,
  'net.ipv4.conf.server.rp_filter': 0,
  'net.ipv6.conf.all.forwarding': 1,
})}
${IPV6_AT_ONCE}
ip -batch - <<'LINKS'
link set lo up
${address('client', 1, 'client')}
link set client up
${address('server', 1, 'server')}
link set server up
LINKS
`,
  };
}
