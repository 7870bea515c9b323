import type { PointName } from '../event/point.js';

/** What happens at an observation point, for those who do not know the kernel by heart. */
export const MEANING: Readonly<Record<PointName, string>> = {
  'tcp.transmit': 'TCP hands a segment to the network layer.',
  'tcp.retransmit': 'TCP sends a segment again: no answer came in time.',
  'socket.state': 'A TCP socket changes its state.',
  'mark.set': 'A rule gave the packet another mark.',
  'nat.setup': 'Address translation is chosen for a new connection.',
  'nat.rewrite': 'Address translation rewrote the packet.',
  'conntrack.insert': 'The connection enters the connection tracking table, or is refused.',
  'conntrack.refresh': 'A packet prolongs its connection tracking entry.',
  'conntrack.delete': 'The connection tracking entry is deleted.',
  'tunnel.transmit': 'A tunnel device takes the packet to wrap it up.',
  'tunnel.receive': 'A tunnel hands out the packet that was wrapped up.',
  'checksum.fill': 'The checksum is finished in software.',
  'checksum.verify': 'The checksum of a received packet is found wrong.',
  'device.queue': 'The packet is queued for a device.',
  'device.transmit': 'A device is given the packet to send.',
  'device.receive': 'A device received the packet.',
  'packet.drop': 'The kernel gives the packet up.',
  'hook.PREROUTING': 'Netfilter looks at a packet that came in, before routing.',
  'hook.INPUT': 'Netfilter looks at a packet for this node.',
  'hook.FORWARD': 'Netfilter looks at a packet that passes through.',
  'hook.OUTPUT': 'Netfilter looks at a packet made on this node.',
  'hook.POSTROUTING': 'Netfilter looks at a packet that is about to leave.',
};
