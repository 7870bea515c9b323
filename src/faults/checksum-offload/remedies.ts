import type { DeviceFact } from '../../event/fact.js';
import type { Remedy, Subject } from '../../explain/finding.js';
import type { Defect } from './defect.js';

/**
 * What cures a device that spoils checksums.
 * @param sender the last device at which it was right, or left to the device; null: not traced
 * @param receiver the first at which it is wrong
 * @param tunnel that carries it
 */
export function remedies(
  defect: Defect,
  sender: DeviceFact | null,
  receiver: DeviceFact | null,
  tunnel: Subject['tunnel'],
): Remedy[] {
  const from = sender?.name ?? '<sending device>';
  const to = receiver?.name ?? '<receiving device>';
  if (defect === 'altered' || defect === 'rewritten')
    return [
      {
        what: `checksum offload of ${from} had no part in it: look for what rewrites packets between ${from} and ${to} (a middlebox that clamps the MSS, XDP and tc programs, a switch or a card with bad memory)`,
        command: `bpftool net; tc filter show dev ${from} egress; tc filter show dev ${to} ingress; ethtool -S ${to}`,
        source: 'what changes a packet has to change its checksum by the same (RFC 1624)',
      },
    ];
  const feature = sender?.offloads['tx-checksum-ip-generic'] === false ? 'tx' : GENERIC;
  const list: Remedy[] = [
    {
      what: `let the kernel of the sending side finish checksums itself${tunnel ? ' (and cut large packets: segmentation offload goes off with it)' : ''}: it costs CPU, and cures at once. Make it permanent where the device is set up (systemd.link, NetworkManager, a udev rule)`,
      command: `ethtool -K ${from} ${feature} off`,
      source: 'ethtool(8); skb_checksum_help in validate_xmit_skb, net/core/dev.c',
    },
  ];
  if (tunnel)
    list.push({
      what: 'or, where the device fails at tunnel packets only, turn it off on the tunnel’s own device: what goes in is finished before',
      command: `ethtool -K ${tunnel.device ?? '<tunnel device>'} ${GENERIC} off`,
      source: 'calico issues 4727 and 9433, kURL pull request 5071 (vmxnet3)',
    });
  list.push(
    {
      what: `mend what promised to finish them: update the driver${sender ? ` of ${from} (${sender.driver ?? (sender.kind || 'see ethtool -i')})` : ''}, the card’s firmware, or the hypervisor, whose backend must finish them or hand them on as unfinished`,
      command: `ethtool -i ${from}`,
      source: tunnel
        ? 'vmxnet3 offered tunnel offload for ports that the host does not know: kernel commits 1dac3b1bc66d (5.9) and b22580233d47 (5.14)'
        : 'virtio 1.2, section 5.1.6.2: VIRTIO_NET_HDR_F_NEEDS_CSUM; FreeBSD reviews D51688 and D56564 (bhyve)',
    },
    {
      what: 'turning rx offload off at the receiver is no cure: before it drops a packet, its kernel has summed it itself, whatever the device said',
      command: null,
      source: '__skb_checksum_validate_complete, include/linux/skbuff.h',
    },
  );
  return list;
}

const GENERIC = 'tx-checksum-ip-generic';
