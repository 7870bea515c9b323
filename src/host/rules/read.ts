import { createHash } from 'node:crypto';
import type { DeviceFact, RulesFact, Tunnel } from '../../event/fact.js';
import { parsePeers, parseRoutes, underlayOf } from '../devices.js';
import { parseIptables } from './iptables.js';
import type { Table } from './model.js';
import { parseNft } from './nft.js';
import { droppingRules } from './dropping.js';
import { judge, type TunnelEnd } from './paths.js';
import { sourceNatRules } from './translating.js';

/**
 * Script for readSections; $1 is `nft` where nf_tables is in the kernel. It loads no module: legacy
 * tables are read only where they exist in the namespace, nft only where nf_tables is there, and
 * iptables-nft-save only where a table holds rules that it made (its modules are then in use).
 * Counters are left out, so that equal rules give equal text.
 */
export const RULES_SCRIPT = `
strip() { sed -e '/^#/d' -e 's/ \\[[0-9]*:[0-9]*\\]$//'; }
# tool BACKEND IPTABLES: the save command of a backend; distributions differ in how they name it
tool() {
  if command -v "$2-$1-save"; then return; fi
  case $1/$("$2-save" -V 2>/dev/null) in
    legacy/*nf_tables*|nft/*legacy*|*/) ;;
    legacy/*|nft/*nf_tables*) command -v "$2-save" ;;
  esac
}
legacy() {
  if [ -e "/proc/net/$2_names" ] && ! [ -r "/proc/net/$2_names" ]; then
    section "unread legacy $1"; echo "legacy $3 tables: only root may read them"; return
  fi
  tables=
  for table in raw mangle nat filter security; do grep -qsx "$table" "/proc/net/$2_names" && tables="$tables $table"; done
  [ "$tables" ] || return
  save=$(tool legacy "$3")
  if [ "$save" ]; then
    section "legacy $1"; for table in $tables; do "$save" -t "$table" 2>/dev/null | strip; done
  else
    section "unread legacy $1"; echo "legacy $3 tables ($(echo $tables)): $3-legacy-save is not installed"
  fi
}
legacy ip ip_tables iptables
legacy ip6 ip6_tables ip6tables
if [ "$1" = nft ] && command -v nft >/dev/null; then
  if ! ruleset=$(nft -s -j list ruleset 2>/dev/null); then
    section "unread nft"; echo "nft tables: $(nft list ruleset 2>&1 >/dev/null | head -n 1)"
  fi
  section nft; printf '%s' "$ruleset"
  case $ruleset in *'"rule"'*) section listing; nft -s -a list ruleset 2>/dev/null;; esac
  case $ruleset in *'"xt"'*)
    for family in ip/iptables ip6/ip6tables; do
      save=$(tool nft "\${family#*/}")
      if [ "$save" ]; then
        section "iptables \${family%/*}"; "$save" 2>/dev/null | strip
      else
        section "unread nft \${family%/*}"; echo "nft tables of \${family#*/}: \${family#*/}-nft-save is not installed"
      fi
    done;;
  esac
elif [ "$1" = nft ]; then
  section "unread nft"; echo "nft tables: nft is not installed"
fi
section end
`;

/** Everything RULES_SCRIPT printed: equal text, equal rules. */
export function rulesText(sections: ReadonlyMap<string, string>): string {
  return [...sections]
    .filter(([name]) => /^(legacy|unread|nft|listing|iptables)/.test(name))
    .map(([name, text]) => `${name}\n${text}`)
    .join('');
}

/** Parses what RULES_SCRIPT printed. */
export async function parseRules(sections: ReadonlyMap<string, string>): Promise<Table[]> {
  const tables: Table[] = [];
  const madeByIptables = new Set<string>();
  for (const family of ['ip', 'ip6'] as const) {
    const legacy = sections.get(`legacy ${family}`);
    if (legacy) tables.push(...(await parseIptables(legacy, 'iptables-legacy', family)));
    const nft = sections.get(`iptables ${family}`);
    if (!nft) continue;
    for (const table of await parseIptables(nft, 'iptables-nft', family)) {
      tables.push(table);
      madeByIptables.add(`${family} ${table.name}`);
    }
  }
  const nft = sections.get('nft');
  if (nft?.includes('"rule"'))
    tables.push(...parseNft(nft, sections.get('listing') ?? '', madeByIptables));
  return tables;
}

/** What the namespace's rules do with the packets of its tunnels. */
export async function rulesFact(
  netns: number,
  sections: ReadonlyMap<string, string>,
  tunnels: readonly TunnelEnd[],
): Promise<RulesFact> {
  const tables = await parseRules(sections);
  const unread = [...sections].flatMap(([name, text]) =>
    name.startsWith('unread') ? [text.trim()] : [],
  );
  const digest = createHash('sha256').update(rulesText(sections)).digest('hex').slice(0, 16);
  const dropping = droppingRules(tables);
  const destinations = natDestinations(sections);
  return {
    fact: 'rules',
    netns,
    digest,
    ...judge(tables, tunnels),
    dropping,
    translating: sourceNatRules(tables),
    ...(destinations.length <= MAX_DESTINATIONS ? { destinations } : {}),
    dnsServices: natDnsServices(sections),
    unread,
  };
}

/** A fact of the rules of a large cluster stays some 100 KiB. */
const MAX_DESTINATIONS = 8192;

/**
 * The addresses that DNAT rules, and maps that such rules look them up in, lead to. Of nft every
 * address of such a line or map counts: it may name more than there are, never fewer.
 */
export function natDestinations(sections: ReadonlyMap<string, string>): string[] {
  const found = new Set<string>();
  for (const [name, text] of sections) {
    if (/^(legacy|iptables) /.test(name))
      for (const [, to = ''] of text.matchAll(/--to-destination (\S+)/g)) {
        const bracketed = /^\[(.*)\]/.exec(to)?.[1];
        found.add(bracketed ?? (to.split(':').length > 2 ? to : to.replace(/:.*/, '')));
      }
    if (name !== 'listing' || !/\bdnat\b/.test(text)) continue;
    for (const line of text.split('\n'))
      if (/\bdnat\b|[{,] *[^ ]+ .*: |elements = /.test(line))
        for (const [address] of line.matchAll(/\d+(\.\d+){3}|[0-9a-f]*:[0-9a-f:]*:[0-9a-f]+/gi))
          found.add(address);
  }
  return [...found].sort();
}

/**
 * The addresses whose port 53 (or every port) rules of nat tables lead elsewhere: a Service's, as
 * kube-proxy's iptables rules and nft maps (`10.96.0.10 . udp . 53 : goto …`) name it.
 */
export function natDnsServices(sections: ReadonlyMap<string, string>): string[] {
  const found = new Set<string>();
  for (const [name, text] of sections) {
    if (/^(legacy|iptables) /.test(name))
      for (const table of text.split(/^\*/m).filter((part) => part.startsWith('nat')))
        for (const line of table.split('\n')) {
          const address = / -d ([0-9a-f.:]+)(?:\/(?:32|128))? /i.exec(line)?.[1];
          const ports = / --dports? (\S+)/.exec(line)?.[1];
          if (!address || NOT_DNAT.test(line)) continue;
          if (ports === undefined || namesPort53(ports)) found.add(address);
        }
    if (name !== 'listing' || !/\bdnat\b/.test(text)) continue;
    for (const [, address = ''] of text.matchAll(/([0-9a-f.:]+) \. (?:udp|tcp) \. 53 :/gi))
      found.add(address);
    for (const line of text.split('\n')) {
      const address = /\bip6? daddr ([0-9a-f.:]+) /i.exec(line)?.[1];
      const ports = /\bdport (?:\{ )?([\d, -]+)/.exec(line)?.[1];
      if (!address || !/\b(dnat|redirect|goto|jump)\b/.test(line)) continue;
      if (ports === undefined || namesPort53(ports)) found.add(address);
    }
  }
  return [...found].sort();
}

/** Targets by which no packet is led elsewhere; others are DNAT, or chains that may do it. */
const NOT_DNAT = / -j (RETURN|ACCEPT|DROP|MARK|CONNMARK|LOG|MASQUERADE|SNAT|KUBE-MARK-MASQ)\b/;

/** `53`, `50:60`, `53,5353` (iptables), `50-60` (nft) */
const namesPort53 = (ports: string): boolean =>
  ports.split(',').some((part) => {
    const [low, high = low] = part.trim().split(/[:-]/).map(Number);
    return low !== undefined && low <= 53 && 53 <= (high ?? low);
  });

/** The device a tunnel's packets are routed to: the tunnel, or the bridge it is a port of. */
export const viaOf = (device: DeviceFact, devices: readonly DeviceFact[]): string =>
  devices.find(({ ifindex }) => ifindex === device.master)?.name ?? device.name;

/** The tunnels among a namespace's devices; `routes`: sections of ROUTES_SCRIPT. */
export function tunnelEnds(
  devices: readonly DeviceFact[],
  routes: ReadonlyMap<string, string>,
  settings: Readonly<Record<string, string>>,
): TunnelEnd[] {
  return devices.flatMap((device): TunnelEnd[] => {
    const { tunnel } = device;
    if (!tunnel) return [];
    const via = viaOf(device, devices);
    const peers = parsePeers(routes.get(`peers ${device.name}`) ?? '').concat(
      tunnel.remote !== null && !isMulticast(tunnel.remote) ? tunnel.remote : [],
    );
    const family = (tunnel.local ?? peers[0] ?? '').includes(':') ? 'ip6' : 'ip';
    const underlay = underlayOf(tunnel, devices);
    return [
      {
        device: device.name,
        via,
        destinations: parseRoutes(routes.get(`routes ${via}`) ?? ''),
        local: tunnel.local,
        peers: peers.filter((peer) => peer.includes(':') === (family === 'ip6')),
        family,
        port: tunnel.port,
        sourcePorts: tunnel.sourcePorts ?? defaultPorts(tunnel.kind, settings),
        underlay: underlay?.name ?? null,
        underlayAddress: masqueradeAddress(underlay, family, tunnel.local),
      },
    ];
  });
}

/** Where none are configured: vxlan_xmit_one and geneve_xmit_skb call udp_flow_src_port (net/udp_tunnel.h). */
function defaultPorts(
  kind: Tunnel['kind'],
  settings: Readonly<Record<string, string>>,
): [number, number] {
  const [low, high] = (settings['net.ipv4.ip_local_port_range'] ?? '').split(' ').map(Number);
  return kind === 'vxlan' && low && high ? [low, high] : [1, 65535];
}

const isMulticast = (address: string): boolean => /^(22[4-9]|23\d)\.|^ff/i.test(address);

/**
 * The address that masquerading takes on a device. Where there are several the kernel's choice
 * depends on the route (inet_select_addr, net/ipv4/devinet.c): the tunnel's own when it is among
 * them.
 */
function masqueradeAddress(
  device: DeviceFact | undefined,
  family: 'ip' | 'ip6',
  local: string | null,
): string | null {
  const own = (device?.addresses ?? [])
    .map((address) => address.split('/')[0] ?? '')
    .filter((address) => address.includes(':') === (family === 'ip6') && !/^fe80:/.test(address));
  return local !== null && own.includes(local) ? local : (own[0] ?? null);
}
