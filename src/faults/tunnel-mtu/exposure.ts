import type { DeviceFact } from '../../event/fact.js';
import { isIpv6Tunnel, underlayOf } from '../../host/devices.js';
import { exposedTo, notExposedTo } from '../exposures.js';
import type { Exposure, ExposureReport, Place } from '../fault.js';

const VERDICT = 'tunnel-mtu';
/**
 * What a tunnel adds to each packet over IPv4, bytes; over IPv6 20 more. VXLAN and Geneve: IPv4 20,
 * UDP 8, their own header 8, the inner Ethernet header 14 (VXLAN_HEADROOM, include/net/vxlan.h;
 * GENEVE_IPV4_HLEN and Ethernet, drivers/net/geneve.c; Geneve options come on top).
 */
const OVERHEAD = 50;
const IPV6_MORE = 20;

/**
 * A tunnel is exposed when it takes packets that its underlay does not carry once they are wrapped, or
 * when devices that feed it take larger ones than it does.
 */
export function exposure(place: Place): ExposureReport {
  const report: ExposureReport = { exposures: [], unexposed: [] };
  const tunnels = place.devices.filter(({ tunnel }) => tunnel);
  if (tunnels.length === 0)
    return notExposedTo(VERDICT, place, 'there is no VXLAN or Geneve device here');
  for (const tunnel of tunnels) {
    const found = [tooLargeForUnderlay(place, tunnel), tooLargeForTunnel(place, tunnel)];
    const exposures = found.filter((one) => one !== null);
    report.exposures.push(...exposures);
    if (exposures.length === 0)
      report.unexposed.push(
        ...notExposedTo(VERDICT, place, fits(place, tunnel), tunnel.name).unexposed,
      );
  }
  return report;
}

/** Where a tunnel is bound to no device and no address, its packets take the default route. */
const underlayDevice = (
  device: DeviceFact,
  devices: readonly DeviceFact[],
): DeviceFact | undefined =>
  underlayOf(device.tunnel!, devices) ??
  devices.find(({ routes = [] }) => routes.some((route) => /^default( |$)/.test(route)));

/** The underlay and the largest packet that fits into it once it is wrapped; null where not known. */
function roomOf(
  { devices }: Place,
  device: DeviceFact,
): { underlay: DeviceFact; overhead: number; room: number } | null {
  const underlay = underlayDevice(device, devices);
  if (!underlay || underlay.mtu === 0) return null;
  const overhead = OVERHEAD + (isIpv6Tunnel(device.tunnel!) ? IPV6_MORE : 0);
  return { underlay, overhead, room: underlay.mtu - overhead };
}

function tooLargeForUnderlay(place: Place, device: DeviceFact): Exposure | null {
  const fit = roomOf(place, device);
  if (!fit || device.mtu <= fit.room) return null;
  const { underlay, overhead, room } = fit;
  const { kind } = device.tunnel!;
  return exposedTo(VERDICT, place, {
    device: device.name,
    confidence: 'likely',
    why: [
      `${device.name} takes packets of up to ${device.mtu} bytes and adds ${overhead} (${kind}), but ${underlay.name} sends ${underlay.mtu} at most.`,
      `What is larger than ${room} inside leaves in fragments, which many networks drop, or not at all: a connection stands, and stalls with its first large packet.`,
    ],
    remedies: [
      {
        what: `let ${device.name}, and the pods behind it, take ${room} bytes at most (in the CNI’s configuration: it sets both)`,
        command: `ip link set ${device.name} mtu ${room}`,
        source:
          'vxlan_xmit_one and geneve_xmit_skb wrap the packet; the underlay’s MTU holds for the whole',
      },
    ],
  });
}

function tooLargeForTunnel(place: Place, device: DeviceFact): Exposure | null {
  const larger = feeding(place, device).filter(({ mtu }) => mtu > device.mtu);
  const [first] = larger;
  if (!first) return null;
  return exposedTo(VERDICT, place, {
    device: device.name,
    confidence: 'possible',
    why: [
      `${larger.length === 1 ? `${first.name}, to which a pod is connected, takes` : `${larger.length} devices to which pods are connected (${first.name}, …) take`} packets of up to ${first.mtu} bytes, ${device.name} ${device.mtu}.`,
      'A pod learns of it only by ICMP (fragmentation needed, packet too big) for each destination: where a rule or the pod’s namespace drops that, its large packets are lost.',
    ],
    remedies: [
      {
        what: `let the pods’ own devices send ${device.mtu} bytes at most (in the CNI’s configuration; new pods get it). At this end of the cable alone it would lose what is larger`,
        command: `nsenter --net --target <PID of the pod> ip link set eth0 mtu ${device.mtu}`,
        source:
          'is_skb_forwardable (net/core/dev.c): veth drops what exceeds the MTU of the end it comes to',
      },
      {
        what: 'or let TCP agree on smaller segments',
        command: `iptables -t mangle -A FORWARD -o ${device.name} -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`,
        source: 'iptables-extensions(8): TCPMSS',
      },
    ],
  });
}

/** The ends, here, of the cables to pods: what they send goes into the tunnel. */
const feeding = ({ devices }: Place, tunnel: DeviceFact): DeviceFact[] =>
  devices.filter(
    ({ kind, ifindex }) => kind === 'veth' && ifindex !== underlayDevice(tunnel, devices)?.ifindex,
  );

function fits(place: Place, device: DeviceFact): string {
  const fit = roomOf(place, device);
  if (!fit)
    return `${device.name} takes packets of up to ${device.mtu} bytes; over which device it sends could not be told`;
  const { underlay, overhead } = fit;
  return `${device.name} takes packets of up to ${device.mtu} bytes and adds ${overhead}: that fits into the ${underlay.mtu} of ${underlay.name}, and no pod’s device takes larger ones`;
}
