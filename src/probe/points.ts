import type { Mechanism, PointName } from '../event/point.js';

/** A program of the object. */
export type ProgramName =
  | 'socket_state'
  | 'tcp_retransmit'
  | 'device_transmit'
  | 'device_receive'
  | 'packet_drop'
  | 'netfilter_before'
  | 'netfilter_after';

/** One way to hook a point. */
export interface Hook {
  mechanism: Mechanism;
  programs: readonly ProgramName[];
  /** kernel function, tracepoint or hooks, as the plan shows them */
  where: string;
  /** tracepoint or kernel function that must be in the kernel's BTF */
  needs: { tracepoint: string } | { function: string };
  /** what this way cannot see, when there is something */
  limits?: string;
}

/** An observation point and its hooks in order of preference; without hooks: why there is none. */
export interface PointHooks {
  point: PointName;
  hooks: readonly Hook[];
  /** why it is not observed when no hook is possible; one sentence */
  otherwise: string;
}

const tracepoint = (
  program: ProgramName,
  group: string,
  name: string,
  limits?: string,
): readonly Hook[] => [
  {
    mechanism: 'tracepoint',
    programs: [program],
    where: `${group}:${name}`,
    needs: { tracepoint: name },
    ...(limits === undefined ? {} : { limits }),
  },
];

/** A pair of programs around the nat and mangle chains of each hook. */
const aroundNat: readonly Hook[] = [
  {
    mechanism: 'netfilter',
    programs: ['netfilter_before', 'netfilter_after'],
    where: 'around nat in PREROUTING, OUTPUT and POSTROUTING, IPv4 and IPv6',
    needs: { function: 'bpf_nf_link_attach' },
  },
];

const NEEDS_NETFILTER = 'needs netfilter programs (Linux 6.4 with CONFIG_NETFILTER_BPF_LINK)';
const needsFunction = (name: string) => `needs a hook on the function ${name}, which is not built`;

export const POINT_HOOKS: readonly PointHooks[] = [
  { point: 'tcp.transmit', hooks: [], otherwise: needsFunction('__tcp_transmit_skb') },
  {
    point: 'tcp.retransmit',
    hooks: tracepoint('tcp_retransmit', 'tcp', 'tcp_retransmit_skb'),
    otherwise: 'this kernel has no tracepoint tcp:tcp_retransmit_skb',
  },
  {
    point: 'socket.state',
    hooks: tracepoint('socket_state', 'sock', 'inet_sock_set_state'),
    otherwise: 'this kernel has no tracepoint sock:inet_sock_set_state',
  },
  { point: 'mark.set', hooks: aroundNat, otherwise: NEEDS_NETFILTER },
  { point: 'nat.setup', hooks: aroundNat, otherwise: NEEDS_NETFILTER },
  { point: 'nat.rewrite', hooks: aroundNat, otherwise: NEEDS_NETFILTER },
  {
    point: 'conntrack.insert',
    hooks: [],
    otherwise: needsFunction('__nf_conntrack_confirm'),
  },
  { point: 'conntrack.refresh', hooks: [], otherwise: needsFunction('__nf_ct_refresh_acct') },
  { point: 'conntrack.delete', hooks: [], otherwise: needsFunction('nf_ct_delete') },
  {
    point: 'tunnel.transmit',
    hooks: tracepoint('device_transmit', 'net', 'net_dev_start_xmit'),
    otherwise: 'this kernel has no tracepoint net:net_dev_start_xmit',
  },
  {
    point: 'tunnel.receive',
    hooks: tracepoint('device_receive', 'net', 'netif_receive_skb'),
    otherwise: 'this kernel has no tracepoint net:netif_receive_skb',
  },
  { point: 'checksum.fill', hooks: [], otherwise: needsFunction('skb_checksum_help') },
  { point: 'checksum.verify', hooks: [], otherwise: needsFunction('__skb_checksum_complete') },
  {
    point: 'device.queue',
    hooks: [],
    otherwise: 'device.transmit says the same once the packet leaves its queue',
  },
  {
    point: 'device.transmit',
    hooks: tracepoint('device_transmit', 'net', 'net_dev_start_xmit'),
    otherwise: 'this kernel has no tracepoint net:net_dev_start_xmit',
  },
  {
    point: 'device.receive',
    hooks: tracepoint('device_receive', 'net', 'netif_receive_skb'),
    otherwise: 'this kernel has no tracepoint net:netif_receive_skb',
  },
  {
    point: 'packet.drop',
    hooks: tracepoint('packet_drop', 'skb', 'kfree_skb'),
    otherwise: 'this kernel has no tracepoint skb:kfree_skb',
  },
  ...(['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'] as const).map((hook) => ({
    point: `hook.${hook}` as const,
    hooks: [],
    otherwise: 'mark.set and nat.* say what the hook changed; passing it unchanged is not recorded',
  })),
];
