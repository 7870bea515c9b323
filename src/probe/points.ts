import type { Mechanism, PlanEntry, PointName } from '../event/point.js';

/** A program of the object. */
export type ProgramName =
  | 'socket_state'
  | 'tcp_retransmit'
  | 'device_transmit'
  | 'device_receive'
  | 'packet_drop'
  | 'netfilter_arrival'
  | 'netfilter_before'
  | 'netfilter_after'
  | 'nat_before'
  | 'nat_after'
  | 'rewrite_before'
  | 'rewrite_after'
  | 'conntrack_insert'
  | 'conntrack_insert_entry'
  | 'conntrack_insert_return'
  | 'conntrack_delete'
  | 'conntrack_delete_entry'
  | 'checksum_fill'
  | 'checksum_complete'
  | 'conntrack_checksum';

/** One way to hook a point. */
export interface Hook {
  mechanism: Mechanism;
  programs: readonly ProgramName[];
  /** kernel function, tracepoint or hooks, as the plan shows them */
  where: string;
  /**
   * what must be in the BTF of the kernel: a tracepoint, or functions, where named of a module; or
   * functions among its symbols that kprobes take
   */
  needs:
    | { tracepoint: string }
    | { functions: readonly string[]; module?: string }
    | { symbols: readonly string[] };
  /** what this way cannot see, when there is something */
  limits?: string;
}

/** An observation point and its hooks in order of preference; without hooks: why there is none. */
export interface PointHooks {
  point: PointName;
  hooks: readonly Hook[];
  /** beside any of them, where it is possible: proves more of the same */
  also?: Hook;
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

/** Programs at the entry or the return of kernel functions. */
const atFunctions = (
  programs: readonly ProgramName[],
  functions: readonly string[],
  { module, limits }: { module?: string; limits?: string } = {},
): Hook => ({
  mechanism: 'fentry',
  programs,
  where: functions.map((name) => `${name}()`).join(', '),
  needs: module === undefined ? { functions } : { functions, module },
  ...(limits === undefined ? {} : { limits }),
});

/** The same where modules have no type information; dearer, so only for what is no matter of each packet. */
const atProbe = (programs: readonly ProgramName[], name: string): Hook => ({
  mechanism: 'kprobe',
  programs,
  where: `${name}()`,
  needs: { symbols: [name] },
});

const NAT = ['nf_nat_inet_fn'];
const NAT_PROGRAMS = ['nat_before', 'nat_after'] as const;

/** A pair of programs around the nat and mangle chains of each hook, or around the function of NAT. */
const aroundNat: readonly Hook[] = [
  {
    mechanism: 'netfilter',
    programs: ['netfilter_before', 'netfilter_after'],
    where: 'around nat in PREROUTING, OUTPUT and POSTROUTING, IPv4 and IPv6',
    needs: { functions: ['bpf_nf_link_attach'] },
  },
  atFunctions(NAT_PROGRAMS, NAT, { module: 'nf_nat' }),
];

const aroundMark: readonly Hook[] = [
  aroundNat[0]!,
  atFunctions(NAT_PROGRAMS, NAT, {
    module: 'nf_nat',
    limits: 'marks that mangle or filter chains set are not seen, those of nat chains are',
  }),
];

const NEEDS_NETFILTER =
  'needs netfilter programs (Linux 6.4 with CONFIG_NETFILTER_BPF_LINK), or fentry programs and the module nf_nat loaded with its BTF (Linux 5.11)';
const needsModule = (name: string, module: string) =>
  `needs fentry programs or kprobes on ${name}, and the module ${module} loaded`;
const needsFentry = (functions: string) => `needs fentry programs on ${functions}`;

export const POINT_HOOKS: readonly PointHooks[] = [
  {
    point: 'tcp.transmit',
    hooks: [],
    otherwise:
      'socket.state, tcp.retransmit and device.transmit say the same, and not for every segment',
  },
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
  { point: 'mark.set', hooks: aroundMark, otherwise: NEEDS_NETFILTER },
  { point: 'nat.setup', hooks: aroundNat, otherwise: NEEDS_NETFILTER },
  {
    point: 'nat.rewrite',
    hooks: aroundNat,
    also: atFunctions(['rewrite_before', 'rewrite_after'], ['nf_nat_manip_pkt'], {
      module: 'nf_nat',
    }),
    otherwise: NEEDS_NETFILTER,
  },
  {
    point: 'conntrack.insert',
    hooks: [
      atFunctions(['conntrack_insert'], ['__nf_conntrack_confirm'], { module: 'nf_conntrack' }),
      atProbe(['conntrack_insert_entry', 'conntrack_insert_return'], '__nf_conntrack_confirm'),
    ],
    otherwise: needsModule('__nf_conntrack_confirm', 'nf_conntrack'),
  },
  {
    point: 'conntrack.refresh',
    hooks: [],
    otherwise: 'every event says how long its conntrack entry has still to live',
  },
  {
    point: 'conntrack.delete',
    hooks: [
      atFunctions(['conntrack_delete'], ['nf_ct_delete'], { module: 'nf_conntrack' }),
      atProbe(['conntrack_delete_entry'], 'nf_ct_delete'),
    ],
    otherwise: needsModule('nf_ct_delete', 'nf_conntrack'),
  },
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
  {
    point: 'checksum.fill',
    hooks: [atFunctions(['checksum_fill'], ['skb_checksum_help'])],
    otherwise: needsFentry('skb_checksum_help'),
  },
  {
    point: 'checksum.verify',
    hooks: [
      atFunctions(
        ['checksum_complete', 'conntrack_checksum'],
        ['__skb_checksum_complete', 'nf_ip_checksum'],
        { limits: 'only checksums that are wrong are told' },
      ),
    ],
    otherwise: needsFentry('__skb_checksum_complete and nf_ip_checksum'),
  },
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
    also: {
      mechanism: 'netfilter',
      programs: ['netfilter_arrival'],
      where: 'PREROUTING, where the kernel skips that',
      needs: { functions: ['bpf_nf_link_attach'] },
    },
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

const hooksOf = ({ hooks, also }: PointHooks): readonly Hook[] => (also ? [...hooks, also] : hooks);

/** Between the places of a line of the attach plan. */
export const AND = '; ';

/** The hooks behind a line of the attach plan; several points may share their programs. */
export function hooksInUse({ point, mechanism, where }: PlanEntry): readonly Hook[] {
  const places = where.split(AND);
  const known = POINT_HOOKS.find((candidate) => candidate.point === point);
  if (!known) return [];
  return hooksOf(known).filter(
    (hook) => places.includes(hook.where) && (hook === known.also || hook.mechanism === mechanism),
  );
}

const ALL: readonly Hook[] = POINT_HOOKS.flatMap(hooksOf);

/** Every program of the object. */
export const PROGRAMS: readonly ProgramName[] = [
  ...new Set(ALL.flatMap(({ programs }) => programs)),
];

/** Those at functions: a kernel that has no leave for them may take all others. */
export const FUNCTION_PROGRAMS: readonly ProgramName[] = [
  ...new Set(
    ALL.filter(({ mechanism }) => mechanism === 'fentry' || mechanism === 'kprobe').flatMap(
      ({ programs }) => programs,
    ),
  ),
];
