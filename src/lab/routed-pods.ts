/** One node that routes between its pods, each on a cable of its own, and translates for Services. */
import type { Cable } from './namespaces.js';
import { sysctls } from './nodes.js';

/** A Service of the node: UDP and TCP of `port` go to the backend, on the same port. */
export interface RoutedService {
  address: string;
  port: number;
  backend: string;
}

/** Address of pod number `n` (from 1); its end of the cable is `eth0`, the node's is `pod<n>`. */
export function routedPodAddress(n: number): string {
  return `10.88.${n}.2`;
}

/** Cables from the node to its pods, in the order of their numbers. */
export function routedPodCables(pods: readonly string[]): Cable[] {
  return pods.map((role, i) => [
    ['node', `pod${i + 1}`],
    [role, 'eth0'],
  ]);
}

/** The shell commands that make a Service's traffic go to its backend. */
export function serviceRules({ address, port, backend }: RoutedService): string {
  const rules = (['udp', 'tcp'] as const).flatMap((protocol) =>
    (['PREROUTING', 'OUTPUT'] as const).map(
      (chain) =>
        `-A ${chain} -d ${address} -p ${protocol} -m ${protocol} --dport ${port} -j DNAT --to-destination ${backend}:${port}`,
    ),
  );
  return `iptables-restore -n -w 5 <<'RULES'\n*nat\n${rules.join('\n')}\nCOMMIT\nRULES`;
}

/** The shell script of each namespace, by role; the node's own is `node`. */
export function routedPodScripts<Pod extends string>(
  pods: readonly Pod[],
  services: readonly RoutedService[],
): Record<Pod | 'node', string> {
  const node = `
${sysctls({
  'net.ipv4.ip_forward': 1,
  'net.ipv4.conf.all.rp_filter': 0,
  'net.ipv4.conf.default.rp_filter': 0,
})}
ip link set lo up
${pods.map((_, i) => `ip addr add 10.88.${i + 1}.1/24 dev pod${i + 1}\nip link set pod${i + 1} up`).join('\n')}
${services.map(serviceRules).join('\n')}
`;
  const pod = (n: number) => `
ip link set lo up
ip addr add ${routedPodAddress(n)}/24 dev eth0
ip link set eth0 up
ip route add default via 10.88.${n}.1
`;
  const scripts = pods.map((role, i) => [role, pod(i + 1)] as const);
  return { node, ...(Object.fromEntries(scripts) as Record<Pod, string>) };
}
