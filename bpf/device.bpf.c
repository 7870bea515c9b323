/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* device.transmit and device.receive; on a tunnel device they are tunnel.transmit and .receive. */

/* A short string as the number that its bytes are on a little-endian machine. */
#define NAME(a, b, c, d, e, f)                                                                    \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |  \
	 (__u64)(f) << 40)

/* vxlan or geneve: rtnl_link_ops->kind as `ip link` shows it. */
static __always_inline bool is_tunnel_device(struct net_device *device)
{
	const struct rtnl_link_ops *ops = BPF_CORE_READ(device, rtnl_link_ops);
	__u64 kind = 0;

	if (!ops || bpf_probe_read_kernel_str(&kind, sizeof(kind), BPF_CORE_READ(ops, kind)) < 0)
		return false;
	return kind == NAME('v', 'x', 'l', 'a', 'n', 0) || kind == NAME('g', 'e', 'n', 'e', 'v', 'e');
}

/* `flags`, a constant: enum event_flag. */
static __always_inline int see_at_device(struct sk_buff *skb, struct net_device *device,
					 const unsigned char *start, bool transmit,
					 const __u8 flags)
{
	struct sighting sighting = { .hook = NO_HOOK, .flags = flags };
	struct packet packet;

	if (!read_packet(&packet, skb, start, flags & EVENT_SKIPPED))
		return 0;
	sighting.netns = netns_of_device(device);
	if (!netns_is_wanted(sighting.netns))
		return 0;
	sighting.ifindex = BPF_CORE_READ(device, ifindex);
	if (is_tunnel_device(device))
		sighting.point = transmit ? POINT_TUNNEL_TRANSMIT : POINT_TUNNEL_RECEIVE;
	else
		sighting.point = transmit ? POINT_DEVICE_TRANSMIT : POINT_DEVICE_RECEIVE;
	if (packet.thin && in_storm(&sighting))
		return 0;
	return see(&sighting, &packet, skb);
}

SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(device_transmit, struct sk_buff *skb, struct net_device *device)
{
	__be16 protocol = skb->protocol;

	/* an inserted VLAN tag is in skb->protocol, not before the network header */
	if (protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6) &&
	    protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
		return 0;
	return see_at_device(skb, device, skb->head + skb->network_header, true, 0);
}

/* The task in whose context the kernel ran device_receive last. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} receivers SEC(".maps");

static __always_inline __u64 *receiver(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&receivers, &zero);
}

/* The tracepoint stands before skb_reset_network_header (__netif_receive_skb_core): the network
 * header is at skb->data, after a VLAN tag if there is one. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(device_receive, struct sk_buff *skb)
{
	const unsigned char *start = skb->data;
	__be16 protocol = skb->protocol;
	__u64 *task = receiver();

	if (task)
		*task = bpf_get_current_task();
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD))
		start += 4;
	else if (protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6))
		return 0;
	return see_at_device(skb, skb->dev, start, false, 0);
}

/*
 * A packet that comes to PREROUTING was received by __netif_receive_skb_core just before, on the same
 * processor and in the context of the same task. Where device_receive ran in that of another one last,
 * the kernel did not run it now: there are kernels that run no program at a tracepoint while a certain
 * task is the current one, also in the softirqs that interrupt it, and do not count that
 * (bpf_prog_info.recursion_misses). What programs at tracepoints would have told of the packet is lost;
 * that it came is told here. (A bridge's own prerouting chain may queue a packet to a process, and IPsec
 * transport mode gives it back from a worker where ciphers are asynchronous: such packets are told twice.)
 */
static __always_inline void tell_if_skipped(struct sk_buff *skb, const struct nf_hook_state *state)
{
	__u64 *task = receiver();

	if (task && *task && *task != bpf_get_current_task() && state->in)
		see_at_device(skb, state->in, skb->head + skb->network_header, false,
			      EVENT_SKIPPED);
}
