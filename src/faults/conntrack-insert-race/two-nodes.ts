import { SERVICE } from '../../lab/dns-node.js';
import { runLookups } from '../../lab/dns.js';
import type { ClientResult } from '../../lab/lab.js';
import { forgetRouter } from '../../lab/late-neighbour.js';
import type { Namespaces } from '../../lab/namespaces.js';
import {
  bridgeNetfilter,
  nodeAddress,
  nodeScript,
  podAddress,
  podScript,
} from '../../lab/nodes.js';
import { conntrackCounters } from '../../lab/race.js';
import { serviceRules } from '../../lab/routed-pods.js';
import type { Topology } from '../../lab/topology.js';
import { PODS, TUNNEL } from '../../lab/tunnelled.js';

/** Host number of both pods in their node's subnet. */
const POD = 2;
const pods = PODS.ipv4;

/**
 * k3s's way to cluster DNS: the client's node translates the Service's address, a VXLAN tunnel carries
 * the queries to the server's node, which routes them to its bridge; br_netfilter is on.
 */
export function twoNodes(tries: number): Topology {
  return {
    cables: [
      [
        ['client-node', 'pod'],
        ['client', 'eth0'],
      ],
      [
        ['client-node', 'eth0'],
        ['server-node', 'eth0'],
      ],
      [
        ['server-node', 'pod'],
        ['server', 'eth0'],
      ],
    ],
    scripts: {
      client: podScript(pods, 1, POD),
      'client-node': `${node(1)}\nip neigh del ${nodeAddress(2, 'ipv4')} dev eth0\n`,
      'server-node': node(2),
      server: podScript(pods, 2, POD),
    },
    nameServers: { server: {} },
    run: (namespaces, signal) => untilClash(namespaces, tries, signal),
    node: 'client',
    environment: { SKBWHY_SERVICE: `${SERVICE.address}:${SERVICE.port}` },
  };
}

function node(n: 1 | 2): string {
  return `
${nodeScript(n, { tunnel: TUNNEL, pods, podCables: ['pod'] })}
${bridgeNetfilter(true)}
${serviceRules({ ...SERVICE, backend: podAddress(pods, 2, POD) })}
`;
}

/** Lookups, one after another, until conntrack of the server's node has counted a clash. */
async function untilClash(
  namespaces: Namespaces,
  tries: number,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const clashes = () => conntrackCounters(namespaces, 'server-node', ['clash_resolve', 'drop']);
  const before = await clashes();
  const results: ClientResult[] = [];
  do results.push(...(await lookUp(namespaces, `try-${results.length}.example.com`, signal)));
  while ((await clashes()) === before && results.length < tries && !signal?.aborted);
  return results;
}

/**
 * A and AAAA, as musl asks: one after another from one socket. They wait together on the client's node,
 * which has to find the other node's hardware address, and arrive together. One CPU takes them, and
 * neither finds an entry: what the tunnel has received at once goes through PREROUTING as a list before
 * the first of it goes on (gro_cell_poll, net/core/gro_cells.c; ip_list_rcv, net/ipv4/ip_input.c; 5.4).
 */
async function lookUp(
  namespaces: Namespaces,
  name: string,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const release = await forgetRouter(
    namespaces,
    {
      role: 'client-node',
      address: nodeAddress(1, 'ipv4'),
      router: 'server-node',
      device: 'eth0',
    },
    signal,
  );
  const file = `/sys/class/net/${TUNNEL.device}/statistics/tx_packets`;
  const sent = Number(await namespaces.script('client-node', `cat ${file}`, signal));
  const results = runLookups(
    namespaces,
    'client',
    [{ name, servers: [SERVICE.address], resolver: 'musl', purpose: 'faulty' }],
    { signal },
  );
  results.catch(() => undefined);
  const both = `read n < ${file}; until [ $n -ge ${sent + 2} ]; do sleep 0.01; read n < ${file}; done`;
  await namespaces.script('client-node', `timeout 10 sh -c '${both}' || true`, signal);
  await release();
  return results;
}
