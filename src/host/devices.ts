import type { DeviceFact, Tunnel } from '../event/fact.js';

/** Offloads that decide who computes a checksum, and where a packet is cut. */
const OFFLOADS = [
  'tx-checksum-ip-generic',
  'tx-checksum-ipv4',
  'tx-checksum-ipv6',
  'rx-checksumming',
  'generic-receive-offload',
  'tx-udp_tnl-csum-segmentation',
];

/** A router of the whole Internet is left alone. */
const MAX_ROUTES = 2000;

/** Script for readSections: every device with its addresses, and its offloads in few lines. */
export const DEVICES_SCRIPT = `
section addresses; ip -j -d address 2>/dev/null
section drivers; for at in /sys/class/net/*/device/driver; do test -e $at && echo "$(cat \${at%/device/driver}/address) $(readlink $at)"; done
section rp_filter; grep -s '' /proc/sys/net/ipv4/conf/*/rp_filter
section main4; ip -4 route show type unicast 2>/dev/null | head -n ${MAX_ROUTES + 1}
section main6; ip -6 route show type unicast 2>/dev/null | head -n ${MAX_ROUTES + 1}
section offloads; ethtool --json -k '*' 2>/dev/null | grep -A1 -E '"(ifname|${OFFLOADS.join('|')})":'
`;

interface IpDevice {
  ifindex: number;
  ifname: string;
  mtu?: number;
  address?: string;
  link?: string;
  link_index?: number;
  master?: string;
  xdp?: { mode?: number; prog?: { name?: string } };
  linkinfo?: { info_kind?: string; info_data?: IpTunnel };
  addr_info?: { local?: string; prefixlen?: number }[];
}

/** info_data of vxlan and geneve, as `ip -d -j` prints it */
interface IpTunnel {
  id?: number;
  vni?: number;
  port?: number;
  dstport?: number;
  local?: string;
  local6?: string;
  remote?: string;
  remote6?: string;
  group?: string;
  group6?: string;
  link?: string;
  port_range?: { low: number; high: number };
  udp_csum?: boolean;
  udp_zero_csum6_tx?: boolean;
  external?: boolean;
}

/** The devices of a namespace from the sections of DEVICES_SCRIPT; loopback is left out. */
export function parseDevices(netns: number, sections: ReadonlyMap<string, string>): DeviceFact[] {
  const devices = json<IpDevice[]>(sections.get('addresses')) ?? [];
  const offloads = parseOffloads(sections.get('offloads') ?? '');
  const routes = parseMainRoutes(sections);
  const filters = new Map(
    [...(sections.get('rp_filter') ?? '').matchAll(/conf\/(\S+)\/rp_filter:(\d)/g)].map(
      ([, name = '', value]) => [name, Number(value)],
    ),
  );
  const drivers = parseDrivers(sections.get('drivers') ?? '');
  const indexes = new Map(devices.map(({ ifname, ifindex }) => [ifname, ifindex]));
  return devices
    .filter(({ ifname }) => ifname && ifname !== 'lo')
    .map((device): DeviceFact => {
      const master = indexes.get(device.master ?? '');
      const rpFilter = filters.get(device.ifname);
      const kind = device.linkinfo?.info_kind ?? '';
      const driver = kind === '' ? drivers.get(device.address ?? '') : undefined;
      return {
        fact: 'device',
        netns,
        ifindex: device.ifindex,
        name: device.ifname,
        kind,
        ...(driver === undefined ? {} : { driver }),
        mtu: device.mtu ?? 0,
        mac: device.address ?? '',
        addresses: (device.addr_info ?? []).flatMap(({ local, prefixlen }) =>
          local ? [`${local}/${prefixlen}`] : [],
        ),
        offloads: offloads.get(device.ifname) ?? {},
        tunnel: parseTunnel(device, indexes),
        ...(master === undefined ? {} : { master }),
        ...(device.xdp ? { xdp: parseXdp(device.xdp) } : {}),
        ...(rpFilter === undefined ? {} : { rpFilter }),
        ...(routes === null ? {} : { routes: routes.get(device.ifname) ?? [] }),
      };
    });
}

/** Modes: XDP_ATTACHED_DRV, _SKB, _HW, _MULTI of include/uapi/linux/if_link.h. */
function parseXdp({ mode, prog }: NonNullable<IpDevice['xdp']>): NonNullable<DeviceFact['xdp']> {
  const name = mode === 2 ? 'generic' : mode === 3 ? 'offloaded' : 'native';
  return { mode: name, program: prog?.name ?? '' };
}

/**
 * Drivers by hardware address: /sys need not be that of the namespace, whose devices may have the
 * names of others there.
 */
function parseDrivers(text: string): Map<string, string> {
  return new Map(
    [...text.matchAll(/^(\S+) \S*?([^/\s]+)$/gm)].map(([, mac = '', name = '']) => [mac, name]),
  );
}

/** What the main tables route where, by device; null when they were not read or are too long. */
function parseMainRoutes(sections: ReadonlyMap<string, string>): Map<string, string[]> | null {
  const routes = new Map<string, string[]>();
  for (const name of ['main4', 'main6']) {
    const text = sections.get(name);
    if (text === undefined) return null;
    const lines = text.split('\n').filter((line) => line.trim());
    if (lines.length > MAX_ROUTES) return null;
    let destination = '';
    for (const line of lines) {
      const first = line.trim().split(' ')[0] ?? '';
      // the next hops of a multipath route stand on lines of their own
      if (first !== 'nexthop') destination = first;
      if (/^(fe80:|ff00:)/.test(destination)) continue;
      const via = / via (?:inet6 )?(\S+)/.exec(line)?.[1];
      const device = / dev (\S+)/.exec(line)?.[1];
      if (!device) continue;
      const list = routes.get(device) ?? [];
      list.push(via ? `${destination} via ${via}` : destination);
      routes.set(device, list);
    }
  }
  return routes;
}

function parseTunnel(device: IpDevice, indexes: ReadonlyMap<string, number>): Tunnel | null {
  const kind = device.linkinfo?.info_kind;
  const data = device.linkinfo?.info_data;
  if ((kind !== 'vxlan' && kind !== 'geneve') || !data) return null;
  const local = data.local ?? data.local6 ?? null;
  const remote = data.remote ?? data.remote6 ?? data.group ?? data.group6 ?? null;
  const ipv6 = (local ?? remote ?? '').includes(':');
  const range = data.port_range;
  return {
    kind,
    vni: data.id ?? data.vni ?? 0,
    port: data.port ?? data.dstport ?? 0,
    local,
    remote,
    udpChecksum: ipv6 ? data.udp_zero_csum6_tx !== true : data.udp_csum === true,
    sourcePorts: range && range.high > 0 ? [range.low, range.high] : null,
    link: indexes.get(data.link ?? '') ?? null,
    ...(data.external ? { external: true as const } : {}),
  };
}

/** Is its outer packet IPv6? */
export const isIpv6Tunnel = ({ local, remote }: Tunnel): boolean =>
  (local ?? remote ?? '').includes(':');

/** The device that a tunnel's outer packets leave by: the one it is bound to, or that has its address. */
export function underlayOf(tunnel: Tunnel, devices: readonly DeviceFact[]): DeviceFact | undefined {
  const has = (device: DeviceFact, address: string): boolean =>
    device.addresses.some((own) => own.split('/')[0] === address);
  return (
    devices.find(({ ifindex }) => ifindex === tunnel.link) ??
    devices.find((device) => tunnel.local !== null && has(device, tunnel.local))
  );
}

/** Lines of `ethtool --json -k` that name a device or a feature, each with the line after it. */
function parseOffloads(text: string): Map<string, Record<string, boolean>> {
  const result = new Map<string, Record<string, boolean>>();
  let current: Record<string, boolean> = {};
  let feature = '';
  for (const line of text.split('\n')) {
    const [, key = '', value = ''] = /"([^"]+)": *(.*)/.exec(line) ?? [];
    if (key === 'ifname') {
      current = {};
      result.set(value.replace(/[",]/g, ''), current);
    } else if (key === 'active') {
      if (feature) current[feature] = value.startsWith('true');
      feature = '';
    } else if (OFFLOADS.includes(key)) feature = key;
  }
  return result;
}

/** Script for readSections: what is routed to the devices named as its arguments, and their peers. */
export const ROUTES_SCRIPT = `
for device in "$@"; do
  section "routes $device"
  ip route show table all dev "$device" 2>/dev/null
  ip -6 route show table all dev "$device" 2>/dev/null
  section "peers $device"
  bridge fdb show dev "$device" 2>/dev/null
done
section end
`;

/** Tunnel peers among the lines of `bridge fdb show`: outer destinations. */
export const parsePeers = (text: string): string[] => [
  ...new Set([...text.matchAll(/ dst (\S+)/g)].map(([, address]) => address ?? '')),
];

/**
 * Unicast destinations among the lines of `ip route show`. Link-local and multicast ones are left
 * out: no Service's packet goes there.
 */
export function parseRoutes(text: string): string[] {
  return text.split('\n').flatMap((line) => {
    const [first = ''] = line.trim().split(' ');
    if (
      !first ||
      /^(local|broadcast|multicast|anycast|unreachable|blackhole|prohibit)$/.test(first)
    )
      return [];
    if (/^(fe80:|ff00:)/.test(first)) return [];
    return first === 'default' ? ['0.0.0.0/0', '::/0'] : [first];
  });
}

function json<T>(text: string | undefined): T | null {
  try {
    return JSON.parse(text ?? '') as T;
  } catch {
    return null;
  }
}
