import type { KernelName } from './kernel.js';

/** One lab of the matrix, and what it is to find: as foundText has it. */
export interface MatrixLab {
  /** its name; that of the row unless told */
  lab?: string;
  /** key=value */
  set?: readonly string[];
  finds: string;
  /** where it finds something else */
  on?: Partial<Record<KernelName, string>>;
  /** kernels that it runs on; all but `defect` unless told */
  kernels?: readonly KernelName[];
  /** kernels on which it is one of the few labs that `npm run test:kernels:quick` runs */
  quick?: readonly KernelName[];
  /** the switch of the defect kernel that makes the fault */
  needs?: string;
}

/** `quick`: the few labs that are worth it at every change; rows, separated by commas: only those. */
export const CHOSEN = process.env['SKBWHY_LABS'];

const DEBIAN: readonly KernelName[] = ['5.10', '6.1', '6.12', 'newest'];
const EVERY: readonly KernelName[] = [...DEBIAN, 'defect'];

const legacy = (...set: string[]) =>
  ({
    lab: 'double-snat',
    set: ['tunnelChecksum=noudpcsum', ...set],
    needs: 'nf_nat.udp_legacy_csum',
  }) as const;

const GENEVE = ['tunnelKind=geneve', 'tunnelPort=6081', 'tunnelDevice=genev0'] as const;

/**
 * 5.10 gives no drop reasons, later kernels not for every drop: what is taken from the place of one, and
 * from what else it left, is likely.
 */
const inferred = (verdict: string, ...besides: KernelName[]): MatrixLab => ({
  finds: `${verdict}, proved`,
  on: Object.fromEntries(['5.10', ...besides].map((kernel) => [kernel, `${verdict}, likely`])),
});

/** Each row of the table in docs/kernels.md. Settings are such as cost little time. */
export const LABS: Readonly<Record<string, MatrixLab>> = {
  'checksum-offload': { finds: 'checksum-offload/not-finished, proved' },
  'conntrack-insert-race': {
    finds: 'nothing',
    on: { defect: 'conntrack-insert-race/same-tuple, proved' },
    kernels: EVERY,
    quick: ['6.12', 'defect'],
    needs: 'nf_conntrack.drop_clashes',
  },
  'conntrack-insert-race-behind-tunnel': {
    ...{ lab: 'conntrack-insert-race', set: ['nodes=2'], finds: 'nothing' },
    on: { defect: 'conntrack-insert-race/same-tuple, proved' },
    kernels: ['6.12', 'defect'],
    needs: 'nf_conntrack.drop_clashes',
  },
  'conntrack-late-answer': { finds: 'conntrack-late-answer/dropped-at-the-node, proved' },
  'conntrack-reply-collision': {
    finds: 'conntrack-reply-collision/race, proved',
    kernels: EVERY,
    quick: ['6.12'],
  },
  'conntrack-table-full': {
    set: ['low=6', 'repeatAfter=8'],
    finds: 'conntrack-table-full, proved',
  },
  'double-snat': {
    finds: 'double-snat/udpcsum-not-updated, proved',
    kernels: EVERY,
    quick: ['6.12'],
  },
  'double-snat-geneve': {
    lab: 'double-snat',
    set: GENEVE,
    finds: 'double-snat/udpcsum-not-updated, proved',
  },
  'double-snat-geneve-over-ipv6': {
    lab: 'double-snat',
    set: [...GENEVE, 'outer=ipv6'],
    finds: 'double-snat/udpcsum-not-updated, proved',
  },
  'double-snat-over-ipv6': {
    lab: 'double-snat',
    set: ['outer=ipv6'],
    finds: 'double-snat/udpcsum-not-updated, proved',
    kernels: ['6.12'],
  },
  'double-snat-shared-port': {
    lab: 'double-snat',
    // all come from one outer port, until a gap outlives its entry
    set: ['healthy=2', 'outerPorts=1', 'udpTimeout=2'],
    finds: 'double-snat/udpcsum-not-updated, proved',
    // the newest has two ports where others have one: who meets whom is chance
    kernels: ['5.10', '6.1', '6.12'],
    // without NAT's hooks nobody sees an entry being made
    on: {
      '5.10': 'double-snat/udpcsum-not-updated, likely; double-snat/udpcsum-not-updated, proved',
    },
  },
  'double-snat-xor-mark': { lab: 'double-snat', set: ['xorMark=true'], finds: 'nothing' },
  'double-snat-noudpcsum': {
    ...legacy(),
    finds: 'nothing',
    on: { defect: 'double-snat/legacy-zero-checksum, proved' },
    kernels: EVERY,
    quick: ['defect'],
  },
  'double-snat-noudpcsum-same-hash': {
    ...legacy('txrehash=0', 'synLinearTimeouts=0'),
    finds: 'double-snat/legacy-zero-checksum, proved',
    kernels: ['defect'],
  },
  'double-snat-noudpcsum-rehash-later': {
    ...legacy('txrehash=0', 'synLinearTimeouts=0', 'rehashAt=2'),
    finds: 'double-snat/legacy-zero-checksum, proved',
    kernels: ['defect'],
  },
  'double-snat-noudpcsum-never': {
    ...legacy('txrehash=0', 'synLinearTimeouts=0', 'udpTimeout=60', 'synRetries=2'),
    finds: 'double-snat/legacy-zero-checksum, proved',
    kernels: ['defect'],
  },
  'double-snat-noudpcsum-receiver-offload-off': {
    ...legacy('receiverTunnelTxOffload=false'),
    finds: 'double-snat/legacy-zero-checksum, proved',
    kernels: ['defect'],
  },
  'double-snat-noudpcsum-geneve': {
    ...legacy(...GENEVE),
    finds: 'double-snat/legacy-zero-checksum, proved',
    kernels: ['defect'],
  },
  'double-snat-noudpcsum-over-ipv6': {
    ...legacy('outer=ipv6'),
    finds: 'double-snat/legacy-zero-checksum, proved',
    kernels: ['defect'],
  },
  'double-snat-noudpcsum-xor-mark': {
    ...legacy('xorMark=true'),
    finds: 'nothing',
    kernels: ['defect'],
  },
  'double-snat-noudpcsum-tunnel-offload-off': {
    ...legacy('tunnelTxOffload=false'),
    finds: 'nothing',
    kernels: ['defect'],
  },
  'double-snat-noudpcsum-no-random-fully': {
    ...legacy('randomFully=false'),
    finds: 'nothing',
    kernels: ['defect'],
  },
  'lost-on-the-wire': { finds: 'lost-on-the-wire, possible', kernels: EVERY },
  'no-listener': { ...inferred('no-listener'), kernels: EVERY },
  'policy-drop': { finds: 'policy-drop, proved', kernels: EVERY, quick: ['6.12'] },
  'receive-buffer-full': inferred('receive-buffer-full/socket-buffer'),
  'reply-not-translated': { set: ['protocol=tcp'], finds: 'reply-not-translated, proved' },
  'resolver-search': {
    set: ['case=dead-name-server', 'resolver=glibc'],
    finds: 'resolver-search/dead-name-server, likely',
  },
  'reverse-path-filter': { ...inferred('reverse-path-filter'), kernels: EVERY },
  'slow-backend': { set: ['resolver=musl'], finds: 'slow-backend, proved' },
  'snat-port-exhaustion': { finds: 'snat-port-exhaustion/no-free-port, proved' },
  'snat-port-exhaustion-port-race': {
    lab: 'snat-port-exhaustion',
    set: ['form=port-race'],
    finds: 'snat-port-exhaustion/port-race, proved',
  },
  'stale-backend': { set: ['lookups=5'], finds: 'stale-backend, proved' },
  'tunnel-mtu': { finds: 'tunnel-mtu/sender-not-told, proved' },
  'tunnel-no-remote': inferred('tunnel-no-remote/no-fdb-entry', '6.1'),
  'tunnel-wrong-vni': inferred('tunnel-wrong-vni/vni-unknown', '6.1'),
};

/** The rows of a kernel, or those that are CHOSEN of them. */
export function labsOn(kernel: KernelName, chosen = CHOSEN): [row: string, lab: MatrixLab][] {
  return Object.entries(LABS).filter(([row, { kernels = DEBIAN, quick = [] }]) =>
    chosen === 'quick'
      ? quick.includes(kernel)
      : kernels.includes(kernel) && (!chosen || chosen.split(',').includes(row)),
  );
}
