import type { DeviceFact } from '../../event/fact.js';
import type { Remedy } from '../../explain/finding.js';
import type { Notice } from './notice.js';

/** What cures it where; `device`: what the packets should have gone into. */
export function remedies(at: {
  node: string;
  sender: string;
  fits: number | null;
  tunnelled: boolean;
  device: DeviceFact | null;
  notice: Notice;
}): Remedy[] {
  const { node, sender, fits, tunnelled, device, notice } = at;
  const mtu = fits === null ? 'MTU' : String(fits);
  const list: Remedy[] = [];
  if (tunnelled)
    list.push({
      what: `give the tunnel of ${node} an MTU whose packets fit: that of the path below, less 50 bytes for VXLAN over IPv4 (70 over IPv6)`,
      command: fits === null ? null : `ip link set TUNNEL mtu ${fits - 50}`,
      source: 'RFC 7348, section 4.3; vxlan_build_skb (drivers/net/vxlan/vxlan_core.c)',
    });
  else
    list.push({
      what: `give the pods the MTU of the tunnel: the network plugin’s setting (flannel and Calico find it by themselves unless told otherwise), or ${sender}’s own device`,
      command: `ip link set eth0 mtu ${mtu}`,
      source: 'RFC 1191: a sender needs no telling when its own link is the narrowest',
    });
  if (notice.fate === 'dropped')
    list.push({
      what: 'let ICMP errors pass: “fragmentation needed” is not optional',
      command:
        'nft insert rule inet TABLE CHAIN icmp type destination-unreachable accept; nft insert rule inet TABLE CHAIN icmpv6 type packet-too-big accept',
      source: 'RFC 4890, section 4.3.1; RFC 2923, section 2.1',
    });
  list.push(
    {
      what: `or lower what TCP agrees on when it opens connections through ${device?.name ?? 'the tunnel'}`,
      command: `iptables -t mangle -A FORWARD ${device && !tunnelled ? `-o ${device.name} ` : ''}-p tcp --tcp-flags SYN,RST SYN -j TCPMSS ${tunnelled ? `--set-mss ${fits === null ? 'MSS' : fits - 50 - 40}` : '--clamp-mss-to-pmtu'}`,
      source: 'iptables-extensions(8), TCPMSS',
    },
    {
      what: `or let TCP at ${sender} find out by itself, after some retransmissions`,
      command: 'sysctl -w net.ipv4.tcp_mtu_probing=1',
      source: 'RFC 4821; tcp_mtu_probing (net/ipv4/tcp_timer.c)',
    },
  );
  return list;
}
