/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * mark.set, nat.setup and nat.rewrite: what a hook's nat (and mangle) chains do to a packet, seen by
 * a pair of netfilter programs around them; or what its nat chains do, by a pair around the function
 * that runs them; and what the function that rewrites makes of a tunnel packet. The first of a pair
 * notes the values before, the second compares. device.receive, where no tracepoint told of it.
 */

struct passage {
	__u64 skb;
	__u64 hook;
};

/* What the first of a pair noted. */
struct noted {
	struct before before;
	struct tuple tuple; /* addresses and ports of the packet */
};

/* A packet that dies between the pair leaves its entry; the next one at its address overwrites it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct passage);
	__type(value, struct noted);
} passages SEC(".maps");

static __always_inline __u32 conntrack_status(const struct sk_buff *skb)
{
	struct nf_conn *ct = conntrack(skb);

	return ct ? BPF_CORE_READ(ct, status) : 0;
}

/* Whether the packet has other addresses or ports than the noted ones. */
static __always_inline bool moved(const struct layer *layer, const struct tuple *tuple)
{
	const __u32 *then = (const __u32 *)tuple->bytes;

	if (layer->family == 4)
		return *(__u32 *)(layer->bytes + 12) != then[0] ||
		       *(__u32 *)(layer->bytes + 16) != then[1] ||
		       *(__u32 *)(layer->bytes + 20) != then[2];
	for (int i = 0; i < 9; i++)
		if (*(__u32 *)(layer->bytes + 8 + i * 4) != then[i])
			return true;
	return false;
}

static __always_inline void note_before(struct sk_buff *skb, __u8 hook)
{
	struct noted noted __attribute__((aligned(8))) = {};
	struct passage passage = {};
	struct packet packet;
	const __u8 *header;

	if (!read_packet(&packet, skb, skb->head + skb->network_header, false) ||
	    packet.quotes)
		return;
	passage.skb = (unsigned long)skb;
	passage.hook = hook;
	header = transport(&packet.outer);
	tuple_of_layer(&noted.tuple, &packet.outer);
	noted.before.mark = skb->mark;
	noted.before.status = conntrack_status(skb);
	noted.before.sport = bytes16(header);
	noted.before.dport = bytes16(header + 2);
	noted.before.check =
		bytes16(header + (packet.outer.protocol == PROTOCOL_TCP ? 16 : 6));
	bpf_map_update_elem(&passages, &passage, &noted, BPF_ANY);
}

/* Reads the packet, and takes what was noted of it; false when nothing was. `rewritten`: whether its
 * addresses or ports are others now. */
static __always_inline bool take_noted(struct sighting *sighting, struct packet *packet,
				       struct sk_buff *skb, bool *rewritten)
{
	struct passage passage = {};
	struct noted *noted;

	if (!read_packet(packet, skb, skb->head + skb->network_header, false) || packet->quotes)
		return false;
	passage.skb = (unsigned long)skb;
	passage.hook = sighting->hook;
	noted = bpf_map_lookup_elem(&passages, &passage);
	if (!noted)
		return false;
	sighting->before = noted->before;
	*rewritten = moved(&packet->outer, &noted->tuple);
	bpf_map_delete_elem(&passages, &passage);
	return true;
}

static __always_inline void compare_after(struct sk_buff *skb, const struct nf_hook_state *state)
{
	struct sighting sighting = { .hook = state->hook };
	struct net_device *device;
	struct packet packet;
	bool rewritten;
	__u32 status;

	if (!take_noted(&sighting, &packet, skb, &rewritten))
		return;
	sighting.netns = netns_of_net(state->net);
	if (!netns_is_wanted(sighting.netns))
		return;
	device = state->hook == NF_INET_PRE_ROUTING ? state->in : state->out;
	if (device)
		sighting.ifindex = device->ifindex;
	switch (selected(&packet, skb)) {
	case NOT_SELECTED:
		return;
	case FOLLOWED:
		sighting.flags = EVENT_FOLLOWED;
	}
	if (skb->mark != sighting.before.mark) {
		sighting.point = POINT_MARK_SET;
		emit(&sighting, &packet, skb);
	}
	if (!conntrack(skb))
		return;
	status = conntrack_status(skb);
	if (status & IPS_CONFIRMED) {
		if (!rewritten)
			return;
		sighting.point = POINT_NAT_REWRITE;
	} else {
		/* also a null binding of a tunnel packet: it says that the second NAT was bypassed */
		if (!(status & ~sighting.before.status & (IPS_SRC_NAT | IPS_DST_NAT)) &&
		    !skb->mark && !(packet.tunnel && state->hook == NF_INET_POST_ROUTING))
			return;
		sighting.point = POINT_NAT_SETUP;
	}
	emit(&sighting, &packet, skb);
}

/* In PREROUTING, before all else there. */
SEC("netfilter")
int netfilter_arrival(struct bpf_nf_ctx *ctx)
{
	tell_if_skipped(ctx->skb, ctx->state);
	return NF_ACCEPT;
}

SEC("netfilter")
int netfilter_before(struct bpf_nf_ctx *ctx)
{
	note_before(ctx->skb, ctx->state->hook);
	return NF_ACCEPT;
}

SEC("netfilter")
int netfilter_after(struct bpf_nf_ctx *ctx)
{
	compare_after(ctx->skb, ctx->state);
	return NF_ACCEPT;
}

SEC("fentry/nf_nat_inet_fn")
int BPF_PROG(nat_before, void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
{
	note_before(skb, state->hook);
	return 0;
}

/* A packet that was not accepted may be gone. */
SEC("fexit/nf_nat_inet_fn")
int BPF_PROG(nat_after, void *priv, struct sk_buff *skb, const struct nf_hook_state *state,
	     unsigned int verdict)
{
	if (verdict == NF_ACCEPT)
		compare_after(skb, state);
	return 0;
}

SEC("fentry/nf_nat_manip_pkt")
int BPF_PROG(rewrite_before, struct sk_buff *skb, struct nf_conn *ct)
{
	if (is_tunnel_entry(ct))
		note_before(skb, NO_HOOK);
	return 0;
}

SEC("fexit/nf_nat_manip_pkt")
int BPF_PROG(rewrite_after, struct sk_buff *skb, struct nf_conn *ct, __u32 type, __u32 direction,
	     unsigned int verdict)
{
	struct sighting sighting = { .point = POINT_NAT_REWRITE, .hook = NO_HOOK };
	struct net_device *device;
	struct packet packet;
	bool rewritten;

	if (verdict != NF_ACCEPT || !is_tunnel_entry(ct) ||
	    !take_noted(&sighting, &packet, skb, &rewritten) || !rewritten || !packet.tunnel)
		return 0;
	sighting.netns = netns_of_net(BPF_CORE_READ(ct, ct_net.net));
	if (!netns_is_wanted(sighting.netns))
		return 0;
	device = skb->dev;
	if (netns_of_device(device))
		sighting.ifindex = BPF_CORE_READ(device, ifindex);
	return see(&sighting, &packet, skb);
}
