/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * What is wanted: packets that open or refuse a TCP connection, DNS, and the tunnel packets that
 * carry those; ICMP errors, and of the drops those of any packet, both thinned; of all that, when
 * --filter gave an expression, what it matches and what belongs to a flow that it matched once.
 * Cheapest test first: most packets leave after one read.
 */
#ifndef SKBWHY_FILTER_H
#define SKBWHY_FILTER_H

#include "packet.h"

/* Set in the object before it is opened; the verifier then leaves out what is switched off. */
const volatile __u8 filtering;	/* expression() holds a filter */
const volatile __u8 netns_only; /* look into netns_wanted */

#define FILTER_SLOTS 2048
#define FOLLOWED_FLOWS 65536
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

/* Namespaces given with --netns, by inode number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} netns_wanted SEC(".maps");

/* Flows that matched once, lower end first, so that both directions are one. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FOLLOWED_FLOWS);
	__type(key, struct tuple);
	__type(value, __u8);
} followed SEC(".maps");

/*
 * The slot for --filter: one-instruction no-ops (goto +0), overwritten in the object's bytes by the
 * translated expression. `captured`: readable bytes of the layer, `length`: of the packet. Not
 * static, so that the verifier looks at it once and not at every call; a kernel before 5.13 takes no
 * pointers in such a function, so without a filter the controller makes it static.
 */
__attribute__((noinline)) int expression(const struct layer *layer, __u32 captured, __u32 length)
{
	int matches;

	asm volatile(".rept 2048\n.quad 5\n.endr\n%0 = 1"
		     : "=r"(matches)
		     : "r"(layer), "r"(captured), "r"(length)
		     : "memory");
	return matches;
}

static __always_inline bool netns_is_wanted(__u32 netns)
{
	return !netns_only || bpf_map_lookup_elem(&netns_wanted, &netns);
}

static __always_inline bool is_dns_port(__be16 port)
{
	return port == bpf_htons(DNS_PORT);
}

static __always_inline bool has_dns_port(const __u8 *ports)
{
	return is_dns_port(bytes16(ports)) || is_dns_port(bytes16(ports + 2));
}

/* A Service may listen on 53 and its backend elsewhere: either tuple counts. */
static __always_inline bool conntrack_has_dns_port(struct nf_conn *ct)
{
	struct nf_conntrack_tuple original, reply;

	if (bpf_core_read(&original, sizeof(original), &ct->tuplehash[0].tuple) ||
	    bpf_core_read(&reply, sizeof(reply), &ct->tuplehash[1].tuple))
		return false;
	return is_dns_port(original.dst.u.all) || is_dns_port(reply.src.u.all) ||
	       is_dns_port(original.src.u.all) || is_dns_port(reply.dst.u.all);
}

static __always_inline bool opens_or_resets(const __u8 *tcp)
{
	return tcp[13] & 0x06; /* SYN, RST */
}

/* Keeps TCP's options too, where they can be had: without them, no checksum over a SYN can be
 * verified. */
static __always_inline void keep_tcp(struct packet *packet, const __u8 *tcp, __u32 start)
{
	__u32 header = (tcp[12] >> 4) * 4;

	packet->headers = start + TRANSPORT_BYTES;
	if (header > TRANSPORT_BYTES && start + header <= packet->linear &&
	    start + header <= PACKET_BYTES)
		packet->headers = start + header;
}

/* An ICMP error quotes the packet it is about: its IP header and 8 bytes (RFC 792), or more. Of a TCP
 * segment cut shorter than its header, the filter does not know; what there is of it is kept. */
static __always_inline void keep_quoted(struct packet *packet, __u32 start)
{
	packet->quotes = read_layer(&packet->inner, packet, start);
	packet->headers = start + (packet->quotes ? packet->inner.transport - start : 40) +
			  (packet->inner.protocol == PROTOCOL_TCP ? TRANSPORT_BYTES : 8);
}

/*
 * Notes which headers of the packet are kept, from its transport header on; false when nobody wants
 * it. `any`, a constant: every packet is wanted, most of them thinned.
 */
static __always_inline bool keep_transport(struct packet *packet, const struct layer *layer,
					   const bool any)
{
	const __u8 *header = transport(layer);

	packet->headers = layer->transport;
	switch (layer->protocol) {
	case PROTOCOL_TCP:
		packet->thin = !opens_or_resets(header);
		if (packet->thin && !any)
			return false;
		keep_tcp(packet, header, layer->transport);
		return true;
	case PROTOCOL_UDP:
		packet->headers += 8;
		packet->dns = has_dns_port(header);
		if (packet->dns)
			packet->headers += DNS_HEADER;
		packet->thin = !packet->dns;
		return packet->dns || any;
	case PROTOCOL_ICMP:
	case PROTOCOL_ICMPV6:
		packet->headers += 8;
		packet->thin = 1;
		if (is_icmp_error(layer)) {
			keep_quoted(packet, layer->transport + 8);
			return true;
		}
		/* every device hears neighbours and multicast listeners that it has no use for */
		return any && (layer->protocol == PROTOCOL_ICMP || *header == ICMPV6_ECHO_REQUEST ||
			       *header == ICMPV6_ECHO_REPLY);
	}
	return false;
}

/*
 * Reads the packet whose network header is at `start`; false when nobody wants it. `any`: see
 * keep_transport().
 */
static __always_inline bool read_packet(struct packet *packet, struct sk_buff *skb,
					const unsigned char *start, const bool any)
{
	struct tunnel_ports *ports;
	__u32 zero = 0, at, port;
	struct nf_conn *ct;
	const __u8 *header;

	packet->start = start;
	packet->linear = skb->len - skb->data_len + (__u32)(skb->data - start);
	packet->outer.length = skb->len + (__u32)(skb->data - start);
	packet->dns = packet->thin = packet->quotes = 0;
	packet->tunnel = TUNNEL_NONE;
	packet->unused_end = 0;
	if (!read_layer(&packet->outer, packet, 0))
		return false;
	header = transport(&packet->outer);
	if (packet->outer.protocol != PROTOCOL_UDP || has_dns_port(header))
		return keep_transport(packet, &packet->outer, any);
	ports = bpf_map_lookup_elem(&tunnel_ports, &zero);
	if (!ports)
		return false;
	port = bpf_ntohs(bytes16(header + 2));
	/* kernels before 6.2 do not know that a swapped 16-bit number still is one */
	asm volatile("" : "+r"(port));
	packet->tunnel = ports->kind[port & 0xffff];
	if (packet->tunnel != TUNNEL_NONE) {
		at = inner_offset(packet);
		if (!at || !read_layer(&packet->inner, packet, at))
			return false;
		packet->inner.length = packet->outer.length - at;
		return keep_transport(packet, &packet->inner, any);
	}
	packet->headers = packet->outer.transport + 8;
	ct = conntrack(skb);
	packet->dns = ct && conntrack_has_dns_port(ct);
	if (packet->dns)
		packet->headers += DNS_HEADER;
	packet->thin = !packet->dns;
	return packet->dns || any;
}

static __always_inline void swap32(__u32 *a, __u32 *b)
{
	__u32 c = *a;

	*a = *b;
	*b = c;
}

/* Puts the lower end first. `flow` is aligned to 8 bytes. */
static __always_inline void normalise(struct tuple *flow)
{
	__u32 *words = (__u32 *)flow->bytes;
	__u16 *ports = (__u16 *)(flow->bytes + (flow->family == 4 ? 8 : 32)), port;

	if (flow->family == 4) {
		if (words[0] < words[1] || (words[0] == words[1] && ports[0] <= ports[1]))
			return;
		swap32(&words[0], &words[1]);
	} else {
		__u64 *wide = (__u64 *)flow->bytes;

		if (wide[0] < wide[2])
			return;
		if (wide[0] == wide[2]) {
			if (wide[1] < wide[3])
				return;
			if (wide[1] == wide[3] && ports[0] <= ports[1])
				return;
		}
		for (int i = 0; i < 4; i++)
			swap32(&words[i], &words[i + 4]);
	}
	port = ports[0];
	ports[0] = ports[1];
	ports[1] = port;
}

/* `tuple` is zero and aligned to 8 bytes. */
static __always_inline void tuple_of_layer(struct tuple *tuple, const struct layer *layer)
{
	__u32 *to = (__u32 *)tuple->bytes;

	tuple->family = layer->family;
	tuple->protocol = layer->protocol;
	if (layer->family == 4) {
		to[0] = *(__u32 *)(layer->bytes + 12);
		to[1] = *(__u32 *)(layer->bytes + 16);
		to[2] = *(__u32 *)(layer->bytes + 20);
	} else {
		for (int i = 0; i < 9; i++)
			to[i] = *(__u32 *)(layer->bytes + 8 + i * 4);
	}
}

/* Gives the packet the addresses and ports of `tuple`. */
static __always_inline void put_tuple(struct layer *layer, const struct tuple *tuple)
{
	const __u32 *from = (const __u32 *)tuple->bytes;

	if (tuple->family != layer->family)
		return;
	if (layer->family == 4) {
		*(__u32 *)(layer->bytes + 12) = from[0];
		*(__u32 *)(layer->bytes + 16) = from[1];
		*(__u32 *)(layer->bytes + 20) = from[2];
	} else {
		for (int i = 0; i < 9; i++)
			*(__u32 *)(layer->bytes + 8 + i * 4) = from[i];
	}
}

static __always_inline bool layer_matches(const struct layer *layer, const struct packet *packet)
{
	__u32 captured = layer->family == 4 ? 20 : 40, left = packet->linear - layer->transport;

	captured += left < TRANSPORT_BYTES ? left : TRANSPORT_BYTES;
	return expression(layer, captured, layer->length);
}

static __always_inline bool is_followed(const struct tuple *flow)
{
	return bpf_map_lookup_elem(&followed, flow);
}

static __always_inline void follow(const struct tuple *flow)
{
	__u8 one = 1;

	if (!is_followed(flow))
		bpf_map_update_elem(&followed, flow, &one, BPF_ANY);
}

/* Of a conntrack entry. One at a time, because the stack is short (512 bytes over all calls). */
static __always_inline bool tuple_matches(struct packet *packet, struct nf_conntrack_tuple *from)
{
	struct tuple tuple __attribute__((aligned(8))) = {};

	read_tuple(&tuple, from);
	put_tuple(&packet->outer, &tuple);
	return layer_matches(&packet->outer, packet);
}

static __always_inline bool tuple_is_followed(struct nf_conntrack_tuple *from)
{
	struct tuple tuple __attribute__((aligned(8))) = {};

	read_tuple(&tuple, from);
	normalise(&tuple);
	return is_followed(&tuple);
}

static __always_inline void follow_tuple(struct nf_conntrack_tuple *from)
{
	struct tuple tuple __attribute__((aligned(8))) = {};

	read_tuple(&tuple, from);
	normalise(&tuple);
	follow(&tuple);
}

enum selection { NOT_SELECTED = 0, MATCHED = 1, FOLLOWED = 2 };

/*
 * Whether the filter wants the packet: as it is, as the packet it carries, or with the addresses of
 * either tuple of its conntrack entry (a Service's address is gone after DNAT); or because its flow
 * matched before. Of a tunnel packet only the inner flow is followed: outer ports are shared; of an
 * ICMP error the flow that it quotes.
 * `nfct`: address of the entry, or 0. Leaves the addresses in packet->outer changed. Not static for
 * the reason of expression().
 */
__attribute__((noinline)) int select_packet(struct packet *packet, __u64 nfct)
{
	struct tuple flow __attribute__((aligned(8))) = {};
	struct nf_conn *ct = (struct nf_conn *)(unsigned long)nfct;
	bool carries, matched, known = false;

	if (!packet)
		return NOT_SELECTED;
	carries = packet->tunnel || packet->quotes;
	matched = layer_matches(&packet->outer, packet) ||
		  (carries && layer_matches(&packet->inner, packet));
	tuple_of_layer(&flow, carries ? &packet->inner : &packet->outer);
	normalise(&flow);
	if (ct) {
		matched = matched || tuple_matches(packet, &ct->tuplehash[0].tuple) ||
			  tuple_matches(packet, &ct->tuplehash[1].tuple);
	}
	if (!matched) {
		known = is_followed(&flow);
		if (!known && ct && !packet->tunnel)
			known = tuple_is_followed(&ct->tuplehash[0].tuple) ||
				tuple_is_followed(&ct->tuplehash[1].tuple);
		if (!known)
			return NOT_SELECTED;
	}
	follow(&flow);
	if (ct && !packet->tunnel) {
		follow_tuple(&ct->tuplehash[0].tuple);
		follow_tuple(&ct->tuplehash[1].tuple);
	}
	return matched ? MATCHED : FOLLOWED;
}

/* Applies the filter to a packet that is wanted otherwise. */
static __always_inline int selected(struct packet *packet, const struct sk_buff *skb)
{
	if (!filtering)
		return MATCHED;
	if (!packet->tunnel && !packet->quotes)
		__builtin_memset(&packet->inner, 0, sizeof(packet->inner));
	return select_packet(packet, (unsigned long)conntrack(skb));
}

/* The same for a socket: its flow as a SYN. A source port of 0 (before bind) cannot be followed. */
__attribute__((noinline)) int select_socket(const struct tuple *from)
{
	struct tuple flow __attribute__((aligned(8)));
	struct layer syn = { .protocol = PROTOCOL_TCP };
	bool matched, bound;
	__u32 captured;

	if (!from)
		return NOT_SELECTED;
	syn.family = from->family;
	for (int i = 0; i < 5; i++)
		((__u64 *)&flow)[i] = ((const __u64 *)from)[i];
	put_tuple(&syn, &flow);
	if (flow.family == 4) {
		syn.bytes[0] = 0x45;
		syn.bytes[3] = 40;
		syn.bytes[8] = 64;
		syn.bytes[9] = PROTOCOL_TCP;
		syn.bytes[20 + 12] = 5 << 4;
		syn.bytes[20 + 13] = 0x02;
		bound = *(__u16 *)(flow.bytes + 8);
		captured = 40;
	} else {
		syn.bytes[0] = 0x60;
		syn.bytes[5] = 20;
		syn.bytes[6] = PROTOCOL_TCP;
		syn.bytes[7] = 64;
		syn.bytes[40 + 12] = 5 << 4;
		syn.bytes[40 + 13] = 0x02;
		bound = *(__u16 *)(flow.bytes + 32);
		captured = 60;
	}
	matched = expression(&syn, captured, captured);
	if (!bound)
		return matched ? MATCHED : NOT_SELECTED;
	normalise(&flow);
	if (!matched && !is_followed(&flow))
		return NOT_SELECTED;
	follow(&flow);
	return matched ? MATCHED : FOLLOWED;
}

#endif
