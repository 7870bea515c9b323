/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* How an event is written: the ring, and the one function that fills a record from a packet. */
#ifndef SKBWHY_RECORD_H
#define SKBWHY_RECORD_H

#include "filter.h"

#define RING_BYTES (16 << 20) /* the controller may choose another power of two */
#define PLAIN_PACKET_BYTES 80 /* IPv6 and TCP with 20 bytes of options, IPv4 with all */
#define NO_TIMEOUT 0xffffffff

const volatile __u32 hz; /* CONFIG_HZ; 0: not known */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} ring SEC(".maps");

/* Reservations that failed because the ring was full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

/* The values before a hook's chains ran. */
struct before {
	__u32 mark;
	__u32 status; /* of the conntrack entry */
	__u16 check;  /* transport checksum */
	__u16 sport;
	__u16 dport;
	__u16 unused;
};

/* Where and how a packet was seen. */
struct sighting {
	__u8 point;
	__u8 hook;
	__u8 flags; /* enum event_flag */
	__u32 netns;
	__u32 ifindex;
	__u32 reason;
	__u64 location;
	__u64 skb; /* its address, where what is read is a copy of it */
	struct before before;
	__u32 left_out;
	__u32 unused;
};

/* `bytes` is a constant: the verifier wants to know it. */
static __always_inline struct event *reserve(__u64 bytes)
{
	struct event *event = bpf_ringbuf_reserve(&ring, bytes, 0);
	__u32 zero = 0;
	__u64 *failed;

	if (event)
		return event;
	failed = bpf_map_lookup_elem(&lost, &zero);
	if (failed)
		(*failed)++;
	return NULL;
}

/* The controller polls: no wake-up. */
static __always_inline void submit(struct event *event)
{
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

static __always_inline void fill_head(struct event *event, __u8 point)
{
	__builtin_memset(event, 0, offsetof(struct event, packet));
	event->size = offsetof(struct event, packet);
	event->kind = 1;
	event->point = point;
	event->hook = NO_HOOK;
	event->txrehash = 255;
	event->csum_start = 65535;
	event->time = bpf_ktime_get_ns();
	event->cpu = bpf_get_smp_processor_id();
}

/* sk may be a request or time-wait socket, which has no such fields (tcp_make_synack gives the
 * SYN-ACK its request socket; skb->hash comes from its txhash). */
static __always_inline __u32 hash_of_sock(struct sock *sk)
{
	switch (BPF_CORE_READ(sk, __sk_common.skc_state)) {
	case TCP_NEW_SYN_RECV:
		return BPF_CORE_READ((struct tcp_request_sock *)sk, txhash);
	case TCP_TIME_WAIT:
		return 0;
	default:
		return BPF_CORE_READ(sk, sk_txhash);
	}
}

/* 5.10 has nf_conn_tstamp in no BTF: its first field is the start, in every version. */
static __always_inline __u64 conntrack_start(struct nf_conn *ct)
{
	struct nf_ct_ext *ext = BPF_CORE_READ(ct, ext);
	__u64 start = 0;
	__u8 offset = 0;

	if (!ext || !bpf_core_enum_value_exists(enum nf_ct_ext_id, NF_CT_EXT_TSTAMP))
		return 0;
	bpf_probe_read_kernel(&offset, 1,
			      &ext->offset[bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_TSTAMP)]);
	if (offset)
		bpf_probe_read_kernel(&start, sizeof(start), (void *)ext + offset);
	return start;
}

static __always_inline __u32 conntrack_timeout(struct nf_conn *ct, __u32 status)
{
	__s32 left;

	if (!hz || !(status & IPS_CONFIRMED))
		return NO_TIMEOUT;
	left = BPF_CORE_READ(ct, timeout) - (__u32)bpf_jiffies64();
	return left > 0 ? (__u64)(__u32)left * 1000 / hz : 0;
}

static __always_inline void fill_conntrack(struct event *event, struct nf_conn *ct)
{
	__u32 status = BPF_CORE_READ(ct, status);

	event->ct = (unsigned long)ct;
	event->ct_status = status;
	event->ct_start = conntrack_start(ct);
	event->ct_timeout = conntrack_timeout(ct, status);
	if (bpf_core_field_exists(ct->mark))
		event->ct_mark = BPF_CORE_READ(ct, mark);
	if (bpf_core_field_exists(ct->zone))
		event->ct_zone = BPF_CORE_READ(ct, zone.id);
	read_tuple(&event->original, &ct->tuplehash[0].tuple);
	read_tuple(&event->reply, &ct->tuplehash[1].tuple);
}

/* Copies the packet's headers, the DNS question included, payload never. The record has room for
 * `room` bytes, a constant. */
static __always_inline void fill_packet(struct event *event, const struct packet *packet,
					const __u32 room)
{
	__u32 headers = packet->headers, length = packet->dns ? room : headers;

	if (length > packet->linear)
		length = packet->linear;
	if (length > room)
		length = room;
	__builtin_memset(event->packet, 0, room);
	/* the verifier must see the bound on the very register that is passed */
	asm volatile("" : "+r"(length));
	length &= 0xff;
	if (length > room)
		return;
	if (bpf_probe_read_kernel(event->packet, length, packet->start)) {
		event->flags |= EVENT_UNREADABLE;
		return;
	}
	if (headers > length) {
		headers = length;
		/* unless the packet itself is that short */
		if (length < packet->outer.length)
			event->flags |= EVENT_UNREADABLE;
	} else if (packet->dns) {
		__u32 end = room == PACKET_BYTES ? question_end(event->packet, headers) : 0;

		if (end && end <= length)
			headers = end;
		else
			event->flags |= EVENT_UNREADABLE;
		/* what follows the question is payload */
		for (__u32 i = 0; i < 8; i++) {
			__u32 at = headers + i;

			if (at < room)
				event->packet[at] = 0;
		}
	}
	event->packet_length = headers;
	event->size = (offsetof(struct event, packet) + headers + 7) & ~7u;
}

static __always_inline int emit_with_room(const struct sighting *sighting,
					  const struct packet *packet, struct sk_buff *skb,
					  const __u32 room)
{
	struct event *event = reserve(offsetof(struct event, packet) + room);
	struct nf_conn *ct;
	struct sock *sk;

	if (!event)
		return 0;
	fill_head(event, sighting->point);
	event->hook = sighting->hook;
	event->flags = sighting->flags;
	event->skb = sighting->skb ? sighting->skb : (unsigned long)skb;
	event->location = sighting->location;
	event->netns = sighting->netns;
	event->ifindex = sighting->ifindex;
	event->reason = sighting->reason;
	event->left_out = sighting->left_out;
	event->mark = skb->mark;
	event->hash = skb->hash;
	event->length = skb->len;
	event->ip_summed = BPF_CORE_READ_BITFIELD_PROBED(skb, ip_summed);
	if (event->ip_summed == CHECKSUM_PARTIAL) {
		event->csum_start = skb->csum_start - (__u16)(packet->start - skb->head);
		event->csum_offset = skb->csum_offset;
	}
	if (BPF_CORE_READ_BITFIELD_PROBED(skb, l4_hash))
		event->flags |= EVENT_L4_HASH;
	if (BPF_CORE_READ_BITFIELD_PROBED(skb, sw_hash))
		event->flags |= EVENT_SW_HASH;
	if (BPF_CORE_READ_BITFIELD_PROBED(skb, encapsulation))
		event->flags |= EVENT_ENCAPSULATION;
	if (packet->tunnel)
		event->flags |= EVENT_TUNNEL;
	event->before_mark = sighting->before.mark;
	event->before_check = bpf_ntohs(sighting->before.check);
	event->before_sport = bpf_ntohs(sighting->before.sport);
	event->before_dport = bpf_ntohs(sighting->before.dport);
	sk = skb->sk;
	if (sk) {
		event->sock = (unsigned long)sk;
		event->sock_hash = hash_of_sock(sk);
	}
	event->ctinfo = skb->_nfct & NFCT_PTRMASK;
	ct = conntrack(skb);
	if (ct)
		fill_conntrack(event, ct);
	fill_packet(event, packet, room);
	submit(event);
	return 0;
}

/* Writes one event. Most are of plain TCP: those take less of the ring. */
static __attribute__((noinline)) int emit(const struct sighting *sighting,
					  const struct packet *packet, struct sk_buff *skb)
{
	if (packet->dns || packet->headers > PLAIN_PACKET_BYTES)
		return emit_with_room(sighting, packet, skb, PACKET_BYTES);
	return emit_with_room(sighting, packet, skb, PLAIN_PACKET_BYTES);
}

/*
 * Of what is thinned: so many events a second and CPU for each place in the kernel that drops (or,
 * of ICMP errors, each point), and so many that are looked at whether they are wanted. Places that
 * fall on one slot share it.
 */
#define THIN_SLOTS 256
#define THIN_EVENTS 32
#define THIN_LOOKS 1024
#define USUAL_HZ 250

struct allowance {
	__u64 since; /* jiffies: a load, where the clock takes as long as all the rest */
	__u32 looks;
	__u32 events;
	__u32 left_out;
	__u32 unused;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, THIN_SLOTS);
	__type(key, __u32);
	__type(value, struct allowance);
} allowances SEC(".maps");

static __always_inline struct allowance *allowance_of(const struct sighting *sighting)
{
	__u64 place = sighting->location ? sighting->location :
					   sighting->point | (sighting->flags & EVENT_SKIPPED);
	__u32 slot = (place * 0x9e3779b97f4a7c15) >> 56;

	return bpf_map_lookup_elem(&allowances, &slot);
}

/* In a storm of drops, whose they are is not even looked at. Takes one look of the allowance. */
static __always_inline bool in_storm(const struct sighting *sighting)
{
	struct allowance *allowance = allowance_of(sighting);
	__u64 now = bpf_jiffies64();

	if (!allowance)
		return true;
	if (now - allowance->since >= (hz ? hz : USUAL_HZ)) {
		allowance->since = now;
		allowance->looks = 0;
		allowance->events = 0;
	}
	if (allowance->looks < THIN_LOOKS) {
		allowance->looks++;
		return false;
	}
	allowance->left_out++;
	return true;
}

/* Is the allowance of the place used up? Else takes one event of it, and what was left out before. */
static __always_inline bool thinned(struct sighting *sighting)
{
	struct allowance *allowance = allowance_of(sighting);

	if (!allowance)
		return true;
	if (allowance->events >= THIN_EVENTS) {
		allowance->left_out++;
		return true;
	}
	allowance->events++;
	sighting->flags |= EVENT_THINNED;
	sighting->left_out = allowance->left_out < 65535 ? allowance->left_out : 65535;
	allowance->left_out -= sighting->left_out;
	return false;
}

/* Applies the filter, if there is one, and writes the event. */
static __always_inline int see(struct sighting *sighting, struct packet *packet,
			       struct sk_buff *skb)
{
	switch (selected(packet, skb)) {
	case NOT_SELECTED:
		return 0;
	case FOLLOWED:
		sighting->flags |= EVENT_FOLLOWED;
	}
	if (packet->thin && thinned(sighting))
		return 0;
	return emit(sighting, packet, skb);
}

#endif
