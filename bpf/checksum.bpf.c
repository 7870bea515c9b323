/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* checksum.fill and checksum.verify: where the kernel computes a checksum, and where it finds one wrong. */

static __always_inline int see_checksum(struct sk_buff *skb, __u8 point, __u32 result)
{
	struct sighting sighting = { .point = point, .hook = NO_HOOK, .reason = result };
	struct net_device *device;
	struct packet packet;

	if (!read_packet(&packet, skb, skb->head + skb->network_header, false))
		return 0;
	device = BPF_CORE_READ(skb, dev);
	sighting.netns = netns_of_device(device);
	if (sighting.netns)
		sighting.ifindex = BPF_CORE_READ(device, ifindex);
	else
		sighting.netns = netns_of_sock(BPF_CORE_READ(skb, sk));
	if (!netns_is_wanted(sighting.netns))
		return 0;
	return see(&sighting, &packet, skb);
}

SEC("fexit/skb_checksum_help")
int BPF_PROG(checksum_fill, struct sk_buff *skb, int error)
{
	return see_checksum(skb, POINT_CHECKSUM_FILL, -error);
}

/* Of those that are right nothing is said: nearly all are. */
SEC("fexit/__skb_checksum_complete")
int BPF_PROG(checksum_complete, struct sk_buff *skb, __u64 sum)
{
	return (__u16)sum ? see_checksum(skb, POINT_CHECKSUM_VERIFY, (__u16)sum) : 0;
}

SEC("fexit/nf_ip_checksum")
int BPF_PROG(conntrack_checksum, struct sk_buff *skb, unsigned int hook, unsigned int offset,
	     __u8 protocol, __u64 sum)
{
	return (__u16)sum ? see_checksum(skb, POINT_CHECKSUM_VERIFY, (__u16)sum) : 0;
}
