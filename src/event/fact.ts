/**
 * Facts: what else happened in the world, as records among the events.
 *
 * A fact record: u32 size (multiple of 8), u8 kind = 2, 3 bytes 0, u64 time (CLOCK_MONOTONIC, ns),
 * u32 length of the JSON, u32 0, the JSON in UTF-8, zeros up to size.
 */
export type Fact =
  | NetnsFact
  | DeviceFact
  | RulesFact
  | DatapathFact
  | SettingsFact
  | CountersFact
  | SocketsFact
  | ProcessFact
  | SymbolFact
  | LostFact
  | TickFact;

/** A network namespace appeared, got a name, or went. */
export interface NetnsFact {
  fact: 'netns';
  netns: number;
  /** name under /run/netns, else `pid:N (comm)` of one of its processes; 'host' for the initial one */
  name: string;
  gone?: true;
}

export interface Tunnel {
  kind: 'vxlan' | 'geneve';
  vni: number;
  /** destination port, host byte order */
  port: number;
  local: string | null;
  remote: string | null;
  /** outer UDP checksum is computed: IFLA_VXLAN_UDP_CSUM (IPv4), or not UDP_ZERO_CSUM6_TX (IPv6) */
  udpChecksum: boolean;
  /** outer source port range when one is configured, else null: net.ipv4.ip_local_port_range */
  sourcePorts: [number, number] | null;
  /** ifindex of the underlay device when one is configured */
  link: number | null;
  /** vni, addresses and checksums come with each packet (collect metadata): the values here say nothing */
  external?: true;
}

/** A device appeared, changed, or went. */
export interface DeviceFact {
  fact: 'device';
  netns: number;
  ifindex: number;
  name: string;
  /** rtnl kind (veth, vxlan, bridge …), '' for others */
  kind: string;
  /** kernel driver of a device that has no kind (virtio_net, vmxnet3 …); absent when not known */
  driver?: string;
  mtu: number;
  mac: string;
  addresses: string[];
  /** features that matter here, on or off: 'tx-checksum-ip-generic' …, as ethtool names them */
  offloads: Record<string, boolean>;
  tunnel: Tunnel | null;
  /** ifindex of the bridge (or bond …) it is a port of */
  master?: number;
  /** a program takes packets here before the kernel makes anything of them */
  xdp?: { mode: 'native' | 'generic' | 'offloaded'; program: string };
  /** its own net.ipv4.conf.*.rp_filter; what holds is the larger of it and that of `all` */
  rpFilter?: number;
  /** what the main table routes to it: `10.0.0.0/8`, `default`, `10.1.0.0/16 via 10.0.0.1`; absent when not known or too many */
  routes?: string[];
  gone?: true;
}

/** A rule of a namespace, by where it stands. */
export interface NatRule {
  backend: 'iptables-legacy' | 'iptables-nft' | 'nft';
  family: 'ip' | 'ip6' | 'inet';
  table: string;
  chain: string;
  /** the rule as its own tool prints it */
  text: string;
  /** nft handle, or the rule's number in its chain, from 1 */
  handle: number;
}

/** A source NAT rule of POSTROUTING that a tunnelled packet can reach. */
export interface MasqueradeRule extends NatRule {
  /** it always picks another source port (--random, --random-fully, a port range) */
  randomFully: boolean;
  /** mark that the packet must bear to come here, null: any */
  mark: { value: number; mask: number } | null;
  /** the mark is cleared before the rule is reached, so that the outer packet does not bear it */
  clearsMark: boolean;
}

/**
 * A way by which the outer packet of a tunnel is source NATed so that its bytes change: a packet
 * bears a mark, is masqueraded, goes into the tunnel, and the outer packet, which still bears the
 * mark, is masqueraded again.
 */
export interface SnatPath {
  /** name of the tunnel device */
  tunnel: string;
  /** family of the packet inside, and of the outer one */
  innerFamily: 'ip' | 'ip6';
  outerFamily: 'ip' | 'ip6';
  /** the mark the packet comes to POSTROUTING with; 0: none is needed */
  mark: number;
  /** rules that set it; empty: none of this namespace does, something else must (a program, tc, BPF) */
  marking: NatRule[];
  /** rule that masquerades the inner packet; null: it is not masqueraded on this way */
  first: NatRule | null;
  /** rule that masquerades the outer packet */
  second: NatRule;
  /** what the second rule changes of the outer packet */
  changes: 'port' | 'address';
  /** rule that clears the mark, but which this packet does not come to before it is masqueraded */
  clearing: NatRule | null;
  /** `first` stands before the rules that look at the mark, so that clearing it there is no cure */
  masqueradeFirst: boolean;
  /** clearing the mark where rules masquerade for it (as kube-proxy does since kubernetes PR 92035) would cure it */
  curedByClearing: boolean;
  /** conditions of rules that could not be judged and are taken to hold */
  assumes: string[];
}

/** Why the outer packet of a tunnel is left as it is. */
export interface NoSnatPath {
  tunnel: string;
  reason: 'no-masquerade' | 'mark-cleared' | 'outer-not-masqueraded' | 'outer-unchanged';
  /** the rule that decides it: the one that clears the mark, or that masquerades without another port */
  rule: NatRule | null;
}

/** One condition of a rule; of numbers (addresses too): decimal ranges, both ends included. */
export type RuleCondition =
  | {
      match: 'source' | 'destination' | 'protocol' | 'sport' | 'dport';
      values: [low: string, high: string][];
      negated: boolean;
    }
  | { match: 'mark'; mask: number; values: [number, number][]; negated: boolean }
  /** names end in `+` or `*` where any continuation is meant */
  | { match: 'iif' | 'oif'; names: string[]; negated: boolean }
  | { match: 'family'; family: 'ip' | 'ip6'; negated: boolean }
  | { match: 'local'; which: 'source' | 'destination'; negated: boolean }
  | { match: 'ctstate'; states: string[]; negated: boolean }
  | { match: 'unknown'; text: string };

/** A rule that drops or rejects packets, or a chain whose policy does, with one way to it. */
export interface DroppingRule extends NatRule {
  hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
  /** of the base chain that leads to it; conntrack stands at -200 */
  priority: number;
  action: 'drop' | 'reject';
  /** no rule but the base chain's policy */
  policy?: true;
  /** a rule before it, in its chain or on the way to that, may return: not all that fits comes here */
  skippable?: true;
  /** every condition on the way from the base chain to it, its own last */
  when: RuleCondition[];
}

/** A rule that translates the sources of new flows, with one way to it. */
export interface SourceNatRule extends NatRule {
  hook: 'postrouting';
  /** of the base chain that leads to it */
  priority: number;
  /** every flow gets a port at random (--random, --random-fully); else it keeps its own while that is free */
  random: boolean;
  /** the only ports it may choose; null: all of the same class as the client's (below 512, 1024, 65536) */
  ports: [number, number] | null;
  /** as of a DroppingRule */
  skippable?: true;
  when: RuleCondition[];
}

/** What a namespace's rules do with packets that leave through a tunnel; see host/rules. */
export interface RulesFact {
  fact: 'rules';
  netns: number;
  /** changes whenever any rule of the namespace does */
  digest: string;
  /**
   * when they replaced the ones told before, CLOCK_MONOTONIC ns: after those were last read, before
   * these were; absent in the first fact of a namespace and in sessions of before
   */
  changed?: { after: number; before: number };
  /** rules that set a mark: mark = (mark & ~mask) ^ value */
  marking: (NatRule & { value: number; mask: number })[];
  /** source NAT rules of POSTROUTING */
  masquerade: MasqueradeRule[];
  /** ways to a second source NAT; the most certain first. Empty: none was found */
  paths: SnatPath[];
  /** for each tunnel without such a way, why */
  spared: NoSnatPath[];
  /** rules that drop or reject, in the order in which packets come to them; absent in sessions of before */
  dropping?: DroppingRule[];
  /** rules of POSTROUTING that translate sources, in the order in which packets come to them; absent in sessions of before */
  translating?: SourceNatRule[];
  /** addresses that destination NAT leads to; absent: not read, or too many to keep */
  destinations?: string[];
  /** addresses for which rules of a nat table wait at port 53; absent: not read, or in sessions of before */
  dnsServices?: string[];
  /** rules that are there and could not be read, one line each */
  unread: string[];
}

/** By what packets of a namespace are filtered, translated and forwarded. */
export interface DatapathFact {
  fact: 'datapath';
  netns: number;
  /** legacy tables in use: `iptables nat`, `ip6tables filter` */
  iptablesLegacy: string[];
  /** nft tables, those of iptables-nft among them: `ip nat` */
  nft: string[];
  /** IPVS has virtual services */
  ipvs: boolean;
  /** Cilium's devices are there */
  cilium: boolean;
  /** bridged packets pass iptables (null: br_netfilter is not in the kernel) */
  bridgeNetfilter: boolean | null;
  /** nft flow tables, through which established connections bypass the hooks */
  flowtables: boolean;
}

/** Settings (sysctl names with dots → value); only the changed ones after the first. */
export interface SettingsFact {
  fact: 'settings';
  netns: number;
  values: Record<string, string>;
}

/** Counters that are not zero, by name ('conntrack.insert_failed', 'Udp.InCsumErrors' …); only the changed ones after the first. */
export interface CountersFact {
  fact: 'counters';
  netns: number;
  values: Record<string, number>;
}

/** Sockets of a namespace that dropped packets since they were made; told after a counter of overflows rose. */
export interface SocketsFact {
  fact: 'sockets';
  netns: number;
  /** those that dropped most first */
  sockets: OverflowedSocket[];
}

export interface OverflowedSocket {
  /** of TCP only those that listen */
  protocol: 'tcp' | 'udp';
  /** as it is bound: `0.0.0.0:53`, `[::1]:53`, `*:53` */
  local: string;
  /** TCP: connections that wait for accept(), UDP: bytes of its receive buffer that are used */
  waiting: number;
  /** how many may */
  room: number;
  /** packets it dropped, whatever the reason (sk_drops) */
  dropped: number;
  /** processes that have it open */
  pids: number[];
}

/** The process behind a socket. */
export interface ProcessFact {
  fact: 'process';
  pid: number;
  command: string;
  container: string | null;
  pod: string | null;
}

/** What stands at a drop location, modules included. */
export interface SymbolFact {
  fact: 'symbol';
  /** as in event.location, hexadecimal with 0x */
  address: string;
  /** `function+0x1eb [module]` */
  name: string;
}

/** Events lost since the last such fact: nothing is guessed silently. */
export interface LostFact {
  fact: 'lost';
  /** ring reservations that failed, by CPU */
  ring: Record<string, number>;
  /** runs that the kernel skipped (recursion), by program */
  missed: Record<string, number>;
}

/** Time passed: at least one a second, also on an idle node. */
export interface TickFact {
  fact: 'tick';
}

export const RECORD_EVENT = 1;
export const RECORD_FACT = 2;
const HEAD = 24;

/** Encodes a fact as a record. `time`: CLOCK_MONOTONIC, ns. */
export function encodeFact(fact: Fact, time: number): Buffer {
  const json = Buffer.from(JSON.stringify(fact));
  const size = (HEAD + json.length + 7) & ~7;
  const record = Buffer.alloc(size);
  record.writeUInt32LE(size, 0);
  record[4] = RECORD_FACT;
  record.writeBigUInt64LE(BigInt(Math.round(time)), 8);
  record.writeUInt32LE(json.length, 16);
  json.copy(record, HEAD);
  return record;
}

/** The fact of the record that starts at `offset`; throws SyntaxError on broken JSON. */
export function decodeFact(bytes: Buffer, offset: number): Fact {
  const length = bytes.readUInt32LE(offset + 16);
  return JSON.parse(bytes.toString('utf8', offset + HEAD, offset + HEAD + length)) as Fact;
}
