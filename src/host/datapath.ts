import { nfTablesPresent } from './kernel.js';
import type { Namespace } from './namespaces.js';
import { readSections } from './read.js';

/** By what packets of a namespace are filtered, translated and forwarded. */
export interface Datapath {
  /** legacy tables in use here: `iptables nat`, `ip6tables filter` */
  iptablesLegacy: string[];
  /** nft tables here, those of iptables-nft among them: `ip nat` */
  nft: string[];
  /** IPVS has virtual services here */
  ipvs: boolean;
  /** Cilium's devices are here */
  cilium: boolean;
  /** bridged packets pass iptables (null: br_netfilter is not in the kernel) */
  bridgeNetfilter: boolean | null;
  /** nft flow tables, through which established connections bypass the hooks */
  flowtables: boolean;
  /** what cannot be seen on such a datapath, one sentence each */
  invisible: string[];
}

const SCRIPT = `
section ip; cat /proc/net/ip_tables_names 2>/dev/null
section ip6; cat /proc/net/ip6_tables_names 2>/dev/null
section ipvs; tail -n +4 /proc/net/ip_vs 2>/dev/null
section cilium; ls -d /sys/class/net/cilium_* 2>/dev/null
section bridge; cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null
if [ "$1" = nft ]; then
  section nft; nft list tables 2>/dev/null
  section flowtables; nft list flowtables 2>/dev/null
fi
section end
`;

/** What forwards packets in a namespace; null: it is gone. Loads no module. */
export async function datapathOf(namespace: Namespace): Promise<Datapath | null> {
  const sections = await readSections(
    namespace.path,
    SCRIPT,
    (await nfTablesPresent()) ? 'nft' : '',
  );
  if (!sections) return null;
  const lines = (name: string): string[] =>
    (sections.get(name) ?? '').split('\n').filter((line) => line.trim());
  const bridge = lines('bridge')[0];
  const datapath = {
    iptablesLegacy: [
      ...lines('ip').map((table) => `iptables ${table}`),
      ...lines('ip6').map((table) => `ip6tables ${table}`),
    ],
    nft: lines('nft').map((line) => line.replace(/^table /, '')),
    ipvs: lines('ipvs').length > 0,
    cilium: lines('cilium').length > 0,
    bridgeNetfilter: bridge === undefined ? null : bridge === '1',
    flowtables: lines('flowtables').some((line) => line.includes('flowtable')),
  };
  return { ...datapath, invisible: invisible(datapath) };
}

function invisible(datapath: Omit<Datapath, 'invisible'>): string[] {
  const list: string[] = [];
  if (datapath.ipvs)
    list.push(
      'IPVS translates Service addresses itself: no nat.setup tells of it, and its connections have conntrack entries only with net.ipv4.vs.conntrack=1.',
    );
  if (datapath.cilium)
    list.push(
      "Cilium translates and forwards in BPF programs at the devices: what these redirect passes no hook and no conntrack; device, drop and socket points see it, its own drops (a program's verdict) carry no reason of their own.",
    );
  if (datapath.flowtables)
    list.push(
      'nft flow tables: packets of established connections bypass hooks and conntrack; their first packets do not.',
    );
  if (datapath.bridgeNetfilter === false)
    list.push(
      'Packets bridged between two ports of one bridge pass no IP hook (net.bridge.bridge-nf-call-iptables=0).',
    );
  return list;
}
