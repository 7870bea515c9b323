import { endpoint } from './client.js';
import type { Cable } from './namespaces.js';
import type { Topology } from './topology.js';
import {
  nodeScript,
  podAddress,
  podScript,
  type Family,
  type PodNetwork,
  type Tunnel,
} from './nodes.js';

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

export interface TunnelledClients {
  count: number;
  timeoutMs: number;
  /** bytes of each request's body, and of each answer's */
  bytes?: { request?: number; answer?: number };
  /** in a pod of the sender's, instead of on the sender */
  inPod?: boolean;
}

/**
 * Two nodes joined by a VXLAN tunnel without any rules, a pod that answers on the receiver’s; clients
 * run on the sender, or in a pod of its, and know the pod by its own address.
 * @param broken what is different from how it should be; scripts are run after all else
 */
export function tunnelled(
  inner: Family,
  { count, timeoutMs, bytes = {}, inPod = false }: TunnelledClients,
  broken: {
    tunnel?: Partial<Tunnel>;
    receiverTunnel?: Partial<Tunnel>;
    sender?: string;
    receiver?: string;
    pods?: string;
  },
): Topology {
  const pods = PODS[inner];
  const address = podAddress(pods, 2, POD);
  const tunnel = { ...TUNNEL, ...broken.tunnel };
  const client = inPod ? 'client' : 'sender';
  const scriptOfPod = (node: 1 | 2) => `${podScript(pods, node, POD)}\n${broken.pods ?? ''}\n`;
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
      ...(inPod ? [CLIENT_CABLE] : []),
    ],
    scripts: {
      sender: `${nodeScript(1, { tunnel, pods, podCables: inPod ? ['client'] : [] })}\n${broken.sender ?? ''}\n`,
      receiver: `${nodeScript(2, {
        tunnel: { ...tunnel, ...broken.receiverTunnel },
        pods,
        podCables: ['pod'],
      })}\n${broken.receiver ?? ''}\n`,
      pod: scriptOfPod(2),
      ...(inPod ? { client: scriptOfPod(1) } : {}),
    },
    servers: {
      pod: {
        answer: TUNNELLED_PORT,
        ...(bytes.answer === undefined ? {} : { bytes: bytes.answer }),
      },
    },
    clients: {
      [client]: Array.from({ length: count }, () => ({
        ...{ address, port: TUNNELLED_PORT, purpose: 'faulty', timeoutMs },
        ...(bytes.request === undefined ? {} : { bytes: bytes.request }),
      })),
    },
    node: client,
    environment: { SKBWHY_SERVER: endpoint(address, TUNNELLED_PORT) },
  };
}

const CLIENT_CABLE: Cable = [
  ['sender', 'client'],
  ['client', 'eth0'],
];
