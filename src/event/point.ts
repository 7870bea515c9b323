/** Observation points, by their number in `enum point` (bpf/event.h). The index is the number. */
export const POINTS = [
  '',
  'tcp.transmit',
  'tcp.retransmit',
  'socket.state',
  'mark.set',
  'nat.setup',
  'nat.rewrite',
  'conntrack.insert',
  'conntrack.refresh',
  'conntrack.delete',
  'tunnel.transmit',
  'tunnel.receive',
  'checksum.fill',
  'checksum.verify',
  'device.queue',
  'device.transmit',
  'device.receive',
  'packet.drop',
  'hook.PREROUTING',
  'hook.INPUT',
  'hook.FORWARD',
  'hook.OUTPUT',
  'hook.POSTROUTING',
] as const;

export type PointName = Exclude<(typeof POINTS)[number], ''>;

/** Points at which no program stands on any kernel: the events of others say what happens there. */
export const TOLD_BY_OTHERS: ReadonlySet<string> = new Set<PointName>([
  'tcp.transmit',
  'conntrack.refresh',
  'device.queue',
  'hook.PREROUTING',
  'hook.INPUT',
  'hook.FORWARD',
  'hook.OUTPUT',
  'hook.POSTROUTING',
]);

/** The number of a point in the record layout. */
export const Point = Object.fromEntries(POINTS.map((name, number) => [name, number])) as Readonly<
  Record<PointName, number>
>;

/** How a point is hooked. */
export const MECHANISMS = ['tracepoint', 'netfilter', 'fentry', 'kprobe'] as const;
export type Mechanism = (typeof MECHANISMS)[number];

/** One line of the attach plan: a point with the mechanism in use, or why there is none. */
export interface PlanEntry {
  point: PointName;
  /** null when the point is not attached */
  mechanism: Mechanism | null;
  /** kernel function, tracepoint or hooks in use */
  where: string;
  /** why it is not attached, or what it cannot see */
  reason?: string;
}
