import { endpoint } from './client.js';
import type { Topology } from './topology.js';
import {
  nodeScript,
  podAddress,
  podScript,
  type Family,
  type PodNetwork,
  type Tunnel,
} from './vxlan.js';

export const TUNNELLED_PORT = 8080;
export const PODS: Readonly<Record<Family, PodNetwork>> = {
  ipv4: { family: 'ipv4', cidr: '10.244.0.0/16' },
  ipv6: { family: 'ipv6', cidr: 'fd00:10:244::/48' },
};
const POD = 10;

/** The tunnel as both nodes have it when nothing is wrong. */
export const TUNNEL: Tunnel = {
  device: 'flannel.1',
  vni: 1,
  port: 8472,
  checksum: false,
  outer: 'ipv4',
};

/**
 * Two nodes joined by a VXLAN tunnel without any rules, a pod that answers on the receiver’s; clients
 * run on the sender and know the pod by its own address.
 * @param broken what is different from how it should be: `tunnel` at both ends
 */
export function tunnelled(
  inner: Family,
  clients: { count: number; timeoutMs: number },
  broken: { tunnel?: Partial<Tunnel>; receiverTunnel?: Partial<Tunnel>; sender?: string },
): Topology {
  const pods = PODS[inner];
  const address = podAddress(pods, 2, POD);
  const tunnel = { ...TUNNEL, ...broken.tunnel };
  return {
    cables: [
      [
        ['sender', 'eth0'],
        ['receiver', 'eth0'],
      ],
      [
        ['receiver', 'pod'],
        ['pod', 'eth0'],
      ],
    ],
    scripts: {
      sender: `${nodeScript(1, { tunnel, pods, podCables: [] })}\n${broken.sender ?? ''}\n`,
      receiver: nodeScript(2, {
        tunnel: { ...tunnel, ...broken.receiverTunnel },
        pods,
        podCables: ['pod'],
      }),
      pod: podScript(pods, 2, POD),
    },
    servers: { pod: { answer: TUNNELLED_PORT } },
    clients: {
      sender: Array.from({ length: clients.count }, () => ({
        ...{ address, port: TUNNELLED_PORT, purpose: 'faulty', timeoutMs: clients.timeoutMs },
      })),
    },
    node: 'sender',
    environment: { SKBWHY_SERVER: endpoint(address, TUNNELLED_PORT) },
  };
}
