import type { DatapathFact, DeviceFact } from '../event/fact.js';
import type { World } from './world.js';

/** What forwards packets in a namespace past places that are watched. */
export interface Blindness {
  by: 'ipvs' | 'cilium' | 'xdp' | 'flowtable' | 'bridge';
  /** what cannot be seen, one sentence */
  text: string;
  /** points that do not see it */
  points: string[];
  /** packets may come and go there without any point's seeing them */
  unseen: boolean;
}

const NAT_POINTS = ['mark.set', 'nat.setup', 'nat.rewrite'];

/** The blind spots of a datapath; `devices`: of the same namespace. */
export function blindnessOf(
  datapath: DatapathFact | null,
  devices: readonly DeviceFact[],
): Blindness[] {
  const list: Blindness[] = [];
  if (datapath?.ipvs)
    list.push({
      by: 'ipvs',
      text: 'IPVS translates Services itself, at INPUT: the packet then leaves for a backend without a point that tells of it, and its connections have conntrack entries only with net.ipv4.vs.conntrack=1.',
      points: ['nat.setup', 'nat.rewrite'],
      unseen: true,
    });
  if (datapath?.cilium)
    list.push({
      by: 'cilium',
      text: 'Cilium translates and forwards in BPF programs at the devices and sockets: what these redirect passes no hook and no conntrack. Device, drop and socket points see the rest; its drops bear no reason of their own.',
      points: NAT_POINTS,
      unseen: true,
    });
  for (const { name, xdp } of devices)
    if (xdp && xdp.mode !== 'generic')
      list.push({
        by: 'xdp',
        text: `At ${name} a program${xdp.program ? ` (${xdp.program})` : ''} takes packets by XDP (${xdp.mode}) before the kernel makes anything of them: what it drops, answers or sends on is seen by no point.`,
        points: ['device.receive', 'device.transmit', 'packet.drop'],
        unseen: true,
      });
  if (datapath?.flowtables)
    list.push({
      by: 'flowtable',
      text: 'nft flow tables: packets of established connections bypass hooks and conntrack; their first packets do not.',
      points: NAT_POINTS,
      unseen: false,
    });
  if (datapath?.bridgeNetfilter === false && devices.some(({ kind }) => kind === 'bridge'))
    list.push({
      by: 'bridge',
      text: 'Packets bridged between two ports of one bridge pass no IP hook (net.bridge.bridge-nf-call-iptables=0).',
      points: NAT_POINTS,
      unseen: false,
    });
  return list;
}

/** The blind spots of a namespace as it was known at a moment. */
export const blindSpots = (world: World, netns: number, time: number): Blindness[] =>
  blindnessOf(
    world.datapath(netns, time)?.fact ?? null,
    world.devicesOf(netns, time).map(({ fact }) => fact),
  );
