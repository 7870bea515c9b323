/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* conntrack.insert and conntrack.delete: when an entry comes into the table, or not, and goes. */

/* The verdict is NF_DROP when another entry has one of its tuples and the clash was not resolved. */
SEC("fexit/__nf_conntrack_confirm")
int BPF_PROG(conntrack_insert, struct sk_buff *skb, int verdict)
{
	struct sighting sighting = { .point = POINT_CONNTRACK_INSERT, .hook = 255 };
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

static __always_inline bool is_tunnel_entry(struct nf_conn *ct)
{
	struct tunnel_ports *ports;
	__u32 zero = 0, port;

	if (BPF_CORE_READ(ct, tuplehash[0].tuple.dst.protonum) != PROTOCOL_UDP)
		return false;
	ports = bpf_map_lookup_elem(&tunnel_ports, &zero);
	if (!ports)
		return false;
	port = bpf_ntohs(BPF_CORE_READ(ct, tuplehash[0].tuple.dst.u.all));
	asm volatile("" : "+r"(port));
	return ports->kind[port & 0xffff] != TUNNEL_NONE;
}

/* Of a tunnel's entry, whose end lets a later packet make a new one; and of an entry that lost a
 * clash: it lives a second. Others end long after the exchange that made them. */
SEC("fentry/nf_ct_delete")
int BPF_PROG(conntrack_delete, struct nf_conn *ct, __u32 portid)
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
