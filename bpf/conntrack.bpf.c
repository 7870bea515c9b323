/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* conntrack.insert and conntrack.delete: when an entry comes into the table, or not, and goes. */

/* The verdict is NF_DROP when another entry has one of its tuples and the clash was not resolved.
 * `address`: of the skb, where `skb` is a copy of it, else 0. */
static __always_inline int see_insertion(struct sk_buff *skb, __u64 address, int verdict)
{
	struct sighting sighting = { .point = POINT_CONNTRACK_INSERT, .hook = NO_HOOK, .skb = address };
	struct net_device *device;
	struct packet packet;
	struct nf_conn *ct;

	if (!read_packet(&packet, skb, skb->head + skb->network_header, false) || packet.quotes)
		return 0;
	ct = conntrack(skb);
	if (!ct)
		return 0;
	sighting.netns = netns_of_net(BPF_CORE_READ(ct, ct_net.net));
	if (!netns_is_wanted(sighting.netns))
		return 0;
	device = BPF_CORE_READ(skb, dev);
	if (netns_of_device(device))
		sighting.ifindex = BPF_CORE_READ(device, ifindex);
	sighting.reason = verdict;
	return see(&sighting, &packet, skb);
}

SEC("fexit/__nf_conntrack_confirm")
int BPF_PROG(conntrack_insert, struct sk_buff *skb, int verdict)
{
	return see_insertion(skb, 0, verdict);
}

SEC("kprobe/__nf_conntrack_confirm")
int conntrack_insert_entry(struct pt_regs *regs)
{
	note_call(regs);
	return 0;
}

SEC("kretprobe/__nf_conntrack_confirm")
int conntrack_insert_return(struct pt_regs *regs)
{
	__u64 address = noted_call(regs);
	struct sk_buff *skb = copy_skb(address);

	return skb ? see_insertion(skb, address, RETURN_VALUE(regs)) : 0;
}

/* Of a tunnel's entry, whose end lets a later packet make a new one; and of an entry that lost a
 * clash: it lives a second. Others end long after the exchange that made them. */
static __always_inline int see_deletion(struct nf_conn *ct, __u32 portid)
{
	__u32 netns = netns_of_net(BPF_CORE_READ(ct, ct_net.net));
	struct event *event;

	if (!netns_is_wanted(netns))
		return 0;
	if (!(BPF_CORE_READ(ct, status) & IPS_NAT_CLASH) && !is_tunnel_entry(ct))
		return 0;
	event = reserve(offsetof(struct event, packet));
	if (!event)
		return 0;
	fill_head(event, POINT_CONNTRACK_DELETE);
	event->netns = netns;
	event->pid = portid;
	fill_conntrack(event, ct);
	submit(event);
	return 0;
}

SEC("fentry/nf_ct_delete")
int BPF_PROG(conntrack_delete, struct nf_conn *ct, __u32 portid)
{
	return see_deletion(ct, portid);
}

SEC("kprobe/nf_ct_delete")
int conntrack_delete_entry(struct pt_regs *regs)
{
	return see_deletion((struct nf_conn *)FIRST_ARGUMENT(regs), SECOND_ARGUMENT(regs));
}
