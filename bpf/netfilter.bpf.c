/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * mark.set, nat.setup and nat.rewrite: what a hook's nat (and mangle) chains do to a packet, seen by
 * a pair of netfilter programs around them. The first notes the values before, the second compares.
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

static __always_inline void note(struct noted *noted, const struct packet *packet,
				 struct sk_buff *skb)
{
	const __u8 *header = transport(&packet->outer);
	struct nf_conn *ct = conntrack(skb);

	tuple_of_layer(&noted->tuple, &packet->outer);
	noted->before.mark = skb->mark;
	noted->before.status = ct ? BPF_CORE_READ(ct, status) : 0;
	noted->before.sport = bytes16(header);
	noted->before.dport = bytes16(header + 2);
	noted->before.check =
		bytes16(header + (packet->outer.protocol == PROTOCOL_TCP ? 16 : 6));
}

static __always_inline bool same_tuple(const struct tuple *a, const struct tuple *b)
{
	const __u32 *x = (const __u32 *)a->bytes, *y = (const __u32 *)b->bytes;

	for (int i = 0; i < 9; i++)
		if (x[i] != y[i])
			return false;
	return true;
}

SEC("netfilter")
int netfilter_before(struct bpf_nf_ctx *ctx)
{
	const struct nf_hook_state *state = ctx->state;
	struct sk_buff *skb = ctx->skb;
	struct noted noted __attribute__((aligned(8))) = {};
	struct passage passage = {};
	struct packet packet;

	if (!read_packet(&packet, skb, skb->head + skb->network_header))
		return NF_ACCEPT;
	passage.skb = (unsigned long)skb;
	passage.hook = state->hook;
	note(&noted, &packet, skb);
	bpf_map_update_elem(&passages, &passage, &noted, BPF_ANY);
	return NF_ACCEPT;
}

SEC("netfilter")
int netfilter_after(struct bpf_nf_ctx *ctx)
{
	const struct nf_hook_state *state = ctx->state;
	struct sk_buff *skb = ctx->skb;
	struct noted now __attribute__((aligned(8))) = {};
	struct sighting sighting = {};
	struct passage passage = {};
	struct net_device *device;
	struct packet packet;
	struct noted *noted;
	__u32 fresh;
	bool moved;

	if (!read_packet(&packet, skb, skb->head + skb->network_header))
		return NF_ACCEPT;
	passage.skb = (unsigned long)skb;
	passage.hook = state->hook;
	noted = bpf_map_lookup_elem(&passages, &passage);
	if (!noted)
		return NF_ACCEPT;
	sighting.before = noted->before;
	note(&now, &packet, skb);
	moved = !same_tuple(&now.tuple, &noted->tuple);
	bpf_map_delete_elem(&passages, &passage);

	sighting.netns = netns_of_net(state->net);
	if (!netns_is_wanted(sighting.netns))
		return NF_ACCEPT;
	sighting.hook = state->hook;
	device = state->hook == NF_INET_PRE_ROUTING ? state->in : state->out;
	if (device)
		sighting.ifindex = device->ifindex;
	fresh = now.before.status & ~sighting.before.status & (IPS_SRC_NAT | IPS_DST_NAT);
	if (filtering) {
		int selection = select_packet(&packet, skb);

		if (selection == NOT_SELECTED)
			return NF_ACCEPT;
		if (selection == FOLLOWED)
			sighting.flags |= EVENT_FOLLOWED;
	}
	if (now.before.mark != sighting.before.mark) {
		sighting.point = POINT_MARK_SET;
		emit(&sighting, &packet, skb);
	}
	if (!conntrack(skb))
		return NF_ACCEPT;
	if (!(now.before.status & IPS_CONFIRMED)) {
		if (fresh || now.before.mark ||
		    (packet.tunnel && state->hook == NF_INET_POST_ROUTING)) {
			sighting.point = POINT_NAT_SETUP;
			emit(&sighting, &packet, skb);
		}
	} else if (moved) {
		sighting.point = POINT_NAT_REWRITE;
		emit(&sighting, &packet, skb);
	}
	return NF_ACCEPT;
}
