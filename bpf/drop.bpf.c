/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* packet.drop: where a packet died, and of what. */

/* How many arguments this kernel's skb:kfree_skb has: 2 (skb, location), 3 (+ reason, 5.17),
 * 4 (+ receiving socket, 6.11); the verifier leaves out reads of what is not there. */
const volatile __u8 kfree_skb_arguments = 2;

SEC("tp_btf/kfree_skb")
int packet_drop(__u64 *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx[0];
	struct sighting sighting = { .point = POINT_PACKET_DROP, .hook = NO_HOOK };
	__be16 protocol = skb->protocol;
	struct net_device *device;
	struct packet packet;
	struct nf_conn *ct;

	if (protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6))
		return 0;
	if (!read_packet(&packet, skb, skb->head + skb->network_header, true))
		return 0;
	sighting.location = ctx[1];
	if (packet.thin && in_storm(&sighting))
		return 0;
	if (kfree_skb_arguments > 2)
		sighting.reason = ctx[2];

	/* skb->dev shares its place with dev_scratch (UDP receive queues) and list pointers */
	device = BPF_CORE_READ(skb, dev);
	sighting.netns = netns_of_device(device);
	if (sighting.netns)
		sighting.ifindex = BPF_CORE_READ(device, ifindex);
	if (!sighting.netns)
		sighting.netns = netns_of_sock(BPF_CORE_READ(skb, sk));
	ct = conntrack(skb);
	if (!sighting.netns && ct)
		sighting.netns = netns_of_net(BPF_CORE_READ(ct, ct_net.net));
	if (!sighting.netns && bpf_core_field_exists(struct dst_entry, dev)) {
		struct dst_entry *dst = (struct dst_entry *)(skb->_skb_refdst & ~1ul);

		if (dst)
			sighting.netns = netns_of_device(BPF_CORE_READ(dst, dev));
	}
	if (!sighting.netns && kfree_skb_arguments > 3) {
		struct sock *receiver = (struct sock *)ctx[3];

		if (receiver) {
			/* keeps the compiler from dropping the check, which the verifier wants */
			asm volatile("" : "+r"(receiver));
			sighting.netns = netns_of_sock(receiver);
		}
	}
	if (!netns_is_wanted(sighting.netns))
		return 0;
	return see(&sighting, &packet, skb);
}
