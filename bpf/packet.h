/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * How a packet is read: header by header, each with one bounded read, so that a packet nobody wants
 * costs one read of 64 bytes. Nothing is read beyond the linear part of the skb.
 */
#ifndef SKBWHY_PACKET_H
#define SKBWHY_PACKET_H

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "event.h"
#include "kernel.h"

#define LAYER_BYTES 64
#define TRANSPORT_BYTES 20 /* of the transport header that are looked at: TCP without options */
#define EXTENSION_HEADERS 6 /* IPv6 extension headers that are skipped at most */
#define DNS_PORT 53
#define DNS_HEADER 12
#define DNS_LABELS 40 /* ip6.arpa names have 34 */

enum tunnel_kind { TUNNEL_NONE = 0, TUNNEL_VXLAN = 1, TUNNEL_GENEVE = 2 };

/* What UDP port means what tunnel, in host byte order; filled by the controller. One value, so
 * that the look-up is a load. */
struct tunnel_ports {
	__u8 kind[65536];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tunnel_ports);
} tunnel_ports SEC(".maps");

/* An IP packet in one shape: the IP header without options or extension headers, then the first 20
 * bytes of the transport header: the shape in which the filter sees it. */
struct layer {
	__u8 bytes[LAYER_BYTES];
	__u8 family;	 /* 4 or 6 */
	__u8 protocol;	 /* transport protocol */
	__u16 transport; /* where the transport header starts, from the first byte of the packet */
	__u32 length;	 /* of the IP packet */
};

struct packet {
	const unsigned char *start; /* network header */
	__u32 linear;		    /* bytes from there on that are in the linear part */
	__u32 headers;		    /* bytes of headers to keep; for DNS up to its question */
	__u8 dns;
	__u8 tunnel; /* enum tunnel_kind */
	__u8 thin;   /* of a kind of which only some are recorded */
	__u8 quotes; /* an ICMP error: inner is the packet that it quotes */
	struct layer outer;
	struct layer inner; /* of a tunnel packet, or what an ICMP error quotes */
	__u32 unused_end;
};

static __always_inline __u16 bytes16(const __u8 *bytes)
{
	return *(const __u16 *)bytes;
}

static __always_inline const __u8 *transport(const struct layer *layer)
{
	return layer->family == 4 ? layer->bytes + 20 : layer->bytes + 40;
}

/* Skips IPv6 extension headers; false for a later fragment or too many of them. */
static __always_inline bool skip_extensions(struct layer *layer, const unsigned char *start)
{
	__u8 next = layer->protocol, header[8];
	__u32 at = layer->transport;

	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		if (next != PROTOCOL_HOPOPTS && next != PROTOCOL_ROUTING &&
		    next != PROTOCOL_DSTOPTS && next != PROTOCOL_FRAGMENT) {
			layer->protocol = next;
			layer->transport = at;
			return true;
		}
		if (bpf_probe_read_kernel(header, sizeof(header), start + at))
			return false;
		if (next == PROTOCOL_FRAGMENT) {
			if (bytes16(header + 2) & bpf_htons(0xfff8))
				return false;
			at += 8;
		} else {
			at += (header[1] + 1) * 8;
		}
		next = header[0];
	}
	return false;
}

/* Reads the IP packet at `offset`; false when it is none, or has no transport header of its own. */
static __always_inline bool read_layer(struct layer *layer, const struct packet *packet,
				       __u32 offset)
{
	const unsigned char *at = packet->start + offset;
	__u8 *bytes = layer->bytes;
	__u32 header;

	if (offset + 28 > packet->linear || bpf_probe_read_kernel(bytes, LAYER_BYTES, at))
		return false;
	if (bytes[0] >> 4 == 4) {
		if (bytes16(bytes + 6) & bpf_htons(0x1fff))
			return false;
		header = (bytes[0] & 15) * 4;
		layer->family = 4;
		layer->protocol = bytes[9];
		layer->transport = offset + header;
		if (header != 20) {
			if (header < 20 || bpf_probe_read_kernel(bytes + 20, TRANSPORT_BYTES,
								 packet->start + layer->transport))
				return false;
			bytes[0] = 0x45;
		}
	} else if (bytes[0] >> 4 == 6) {
		layer->family = 6;
		layer->protocol = bytes[6];
		layer->transport = offset + 40;
		if (layer->protocol != PROTOCOL_TCP && layer->protocol != PROTOCOL_UDP) {
			if (!skip_extensions(layer, packet->start) ||
			    bpf_probe_read_kernel(bytes + 40, TRANSPORT_BYTES,
						  packet->start + layer->transport))
				return false;
			bytes[6] = layer->protocol;
		}
	} else {
		return false;
	}
	return layer->transport + (layer->protocol == PROTOCOL_TCP ? 20u : 8u) <= packet->linear;
}

/* Does the ICMP header report an error about another packet (RFC 792, RFC 4443)? */
static __always_inline bool is_icmp_error(const struct layer *layer)
{
	__u8 type = *transport(layer);

	if (layer->protocol == PROTOCOL_ICMP)
		return type == 3 || type == 11 || type == 12; /* unreachable, time exceeded, parameter */
	return layer->protocol == PROTOCOL_ICMPV6 && type >= 1 && type <= 4;
}

/* Where the Ethernet frame's payload inside a tunnel packet starts, 0 when it is no IP packet. */
static __always_inline __u32 inner_offset(const struct packet *packet)
{
	__u32 at = packet->outer.transport + 8;
	__u8 header[8], frame[18];
	__u16 protocol;

	if (bpf_probe_read_kernel(header, sizeof(header), packet->start + at))
		return 0;
	at += 8;
	if (packet->tunnel == TUNNEL_VXLAN) {
		if (!(header[0] & 0x08)) /* I: the VNI is valid */
			return 0;
	} else {
		if (bytes16(header + 2) != bpf_htons(ETH_P_TEB))
			return 0;
		at += (header[0] & 0x3f) * 4;
	}
	if (bpf_probe_read_kernel(frame, sizeof(frame), packet->start + at))
		return 0;
	at += 14;
	protocol = bytes16(frame + 12);
	if (protocol == bpf_htons(ETH_P_8021Q)) {
		protocol = bytes16(frame + 16);
		at += 4;
	}
	if (protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6))
		return 0;
	return at;
}

/* Where a DNS question ends that starts at `at` in the packet's bytes; 0 when it ends beyond. */
static __always_inline __u32 question_end(const __u8 *bytes, __u32 at)
{
	for (int i = 0; i < DNS_LABELS; i++) {
		__u8 label;

		if (at >= PACKET_BYTES)
			return 0;
		label = bytes[at];
		if (label == 0)
			return at + 5; /* the root label, type, class */
		if (label > 63)
			return 0;
		at += label + 1;
	}
	return 0;
}

/* A conntrack tuple in the shape of the record. */
static __always_inline void read_tuple(struct tuple *tuple, struct nf_conntrack_tuple *from)
{
	tuple->protocol = BPF_CORE_READ(from, dst.protonum);
	if (BPF_CORE_READ(from, src.l3num) == AF_INET) {
		tuple->family = 4;
		bpf_core_read(tuple->bytes, 4, &from->src.u3);
		bpf_core_read(tuple->bytes + 4, 4, &from->dst.u3);
		bpf_core_read(tuple->bytes + 8, 2, &from->src.u.all);
		bpf_core_read(tuple->bytes + 10, 2, &from->dst.u.all);
	} else {
		tuple->family = 6;
		bpf_core_read(tuple->bytes, 16, &from->src.u3);
		bpf_core_read(tuple->bytes + 16, 16, &from->dst.u3);
		bpf_core_read(tuple->bytes + 32, 2, &from->src.u.all);
		bpf_core_read(tuple->bytes + 34, 2, &from->dst.u.all);
	}
}

/* The skb's conntrack entry, NULL without one or when this kernel has no conntrack. */
static __always_inline struct nf_conn *conntrack(const struct sk_buff *skb)
{
	if (!bpf_core_field_exists(struct nf_conn, status))
		return NULL;
	return (struct nf_conn *)(skb->_nfct & ~(unsigned long)NFCT_PTRMASK);
}

/* Is the entry that of a tunnel between two nodes? */
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

static __always_inline __u32 netns_of_net(struct net *net)
{
	__u32 inum = BPF_CORE_READ(net, ns.inum);

	/* Numbers of namespaces start at 0xf0000000 (PROC_DYNAMIC_FIRST), those of the initial ones
	 * a little below since 6.18; whatever else was read is no namespace. */
	return inum >= 0xeffffff0 ? inum : 0;
}

/* The network namespace of a device; 0 for a pointer that is none (skb->dev is a union). */
static __always_inline __u32 netns_of_device(struct net_device *device)
{
	if ((unsigned long)device < 0xffff000000000000)
		return 0;
	return netns_of_net(BPF_CORE_READ(device, nd_net.net));
}

static __always_inline __u32 netns_of_sock(struct sock *sk)
{
	if ((unsigned long)sk < 0xffff000000000000)
		return 0;
	return netns_of_net(BPF_CORE_READ(sk, __sk_common.skc_net.net));
}

#endif
