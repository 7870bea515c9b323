/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * The one record layout, written in the kernel and read from TypeScript.
 *
 * src/event/layout.ts is generated from this file's BTF (npm run layout). Numbers are in host
 * byte order unless a field says "as on the wire". A record is an event (kind 1, this struct) or a
 * fact (kind 2: size, kind, time at the same offsets, then length and JSON; see src/event/fact.ts).
 */
#ifndef SKBWHY_EVENT_H
#define SKBWHY_EVENT_H

/* Longest header stack kept: IPv6 + UDP + VXLAN + Ethernet + IPv6 + TCP with all options is 170
 * bytes; a DNS question inside a tunnel fits up to a name of about 100 bytes. */
#define PACKET_BYTES 192

/* Numbers are part of the session format: append, never renumber. */
enum point {
	POINT_TCP_TRANSMIT = 1,
	POINT_TCP_RETRANSMIT = 2,
	POINT_SOCKET_STATE = 3,
	POINT_MARK_SET = 4,
	POINT_NAT_SETUP = 5,
	POINT_NAT_REWRITE = 6,
	POINT_CONNTRACK_INSERT = 7,
	POINT_CONNTRACK_REFRESH = 8,
	POINT_CONNTRACK_DELETE = 9,
	POINT_TUNNEL_TRANSMIT = 10,
	POINT_TUNNEL_RECEIVE = 11,
	POINT_CHECKSUM_FILL = 12,
	POINT_CHECKSUM_VERIFY = 13,
	POINT_DEVICE_QUEUE = 14,
	POINT_DEVICE_TRANSMIT = 15,
	POINT_DEVICE_RECEIVE = 16,
	POINT_PACKET_DROP = 17,
	POINT_HOOK_PREROUTING = 18,
	POINT_HOOK_INPUT = 19,
	POINT_HOOK_FORWARD = 20,
	POINT_HOOK_OUTPUT = 21,
	POINT_HOOK_POSTROUTING = 22,
};

#define NO_HOOK 255 /* seen at none */

enum event_flag {
	EVENT_L4_HASH = 1,	 /* skb->l4_hash: the hash covers the ports */
	EVENT_SW_HASH = 2,	 /* skb->sw_hash: computed in software */
	EVENT_ENCAPSULATION = 4, /* skb->encapsulation: inner headers are valid */
	EVENT_FOLLOWED = 8,	 /* wanted because it was followed, not because the filter matched */
	EVENT_UNREADABLE = 16,	 /* the packet's bytes could not be read whole */
	EVENT_TUNNEL = 32,	 /* the packet is a tunnel packet (UDP to a tunnel port) */
	EVENT_THINNED = 64,	 /* of a kind of which only some are recorded; see left_out */
	EVENT_SKIPPED = 128,	 /* device.receive or tunnel.receive, told in PREROUTING: the kernel did not
				  * run the program that tells of it, nor any other at a tracepoint */
};

/* A flow's addresses and ports in the order in which a packet without IP options bears them (as on
 * the wire): source, destination, source port, destination port; 12 bytes for IPv4, 36 for IPv6. */
struct tuple {
	__u8 bytes[36];
	__u8 family;   /* 4 or 6; 0: none */
	__u8 protocol; /* IPPROTO_* */
	__u16 unused;
};

struct event {
	__u32 size; /* bytes of this record up to the last packet byte, rounded up to 8 */
	__u8 kind;  /* 1 */
	__u8 point;
	__u8 hook;	/* netfilter hook number where one applies, else 255 */
	__u8 flags;	/* enum event_flag */
	__u64 time;	/* CLOCK_MONOTONIC, ns */
	__u64 skb;	/* address: identity while the packet lives */
	__u64 sock;	/* address of skb->sk or of the socket itself, else 0 */
	__u64 location; /* packet.drop: address that freed the packet */
	__u32 netns;	/* inode number of the network namespace; 0: not known */
	__u32 ifindex;
	__u32 mark;	   /* skb->mark after the point's work */
	__u32 hash;	   /* skb->hash */
	__u32 length;	   /* skb->len */
	__u32 sock_hash;   /* sk->sk_txhash */
	__u32 reason;	   /* packet.drop: reason; tcp.retransmit, socket.state: icsk_retransmits;
			    * conntrack.insert: verdict; checksum.verify: the sum, checksum.fill: errno */
	__u32 pid;	   /* socket.state: process (thread group) that acts; conntrack.delete: netlink
			    * port of who asked for it (by custom its pid), 0: the kernel; else 0 */
	__u16 cpu;
	__u16 csum_start;  /* from the first packet byte; 65535 unless ip_summed is CHECKSUM_PARTIAL */
	__u16 csum_offset; /* from csum_start */
	__u8 ip_summed;
	__u8 ctinfo;	   /* enum ip_conntrack_info of skb->_nfct */
	__u32 before_mark; /* before_*: mark.set, nat.*: the values before the hook's chains ran */
	__u16 before_check;
	__u16 before_sport;
	__u16 before_dport;
	__u8 old_state; /* socket.state, tcp.retransmit: TCP states */
	__u8 new_state;
	__u8 txrehash;	    /* sk->sk_txrehash: 0, 1; 255: default or not known */
	__u8 packet_length; /* bytes valid in packet */
	__u16 left_out;	    /* how many like it were not recorded before; beyond 65535 the next tells */

	/* conntrack block; all zero when the packet has none */
	__u64 ct;	  /* address: identity only together with tuples and start */
	__u64 ct_start;	  /* CLOCK_REALTIME, ns; 0 unless nf_conntrack_timestamp is on */
	__u32 ct_status;  /* enum ip_conntrack_status */
	__u32 ct_timeout; /* ms until the entry expires; 0xffffffff: not confirmed or not known */
	__u32 ct_mark;
	__u16 ct_zone;
	__u16 ct_unused;
	struct tuple original;
	struct tuple reply;

	union {
		/* headers from the network header on: IP, UDP + tunnel + Ethernet + IP, TCP with its
		 * options or UDP, DNS header and question, ICMP with the headers that an error quotes;
		 * payload never */
		__u8 packet[PACKET_BYTES];
		/* socket.state and tcp.retransmit have no packet: packet_length is 0 */
		struct {
			struct tuple flow; /* the socket's own view; source port 0 before bind */
			char comm[16];
			__u64 cgroup; /* id of the process's cgroup (v2) */
			__u32 seq;    /* tcp.retransmit: first sequence number */
			__u32 rto;    /* icsk_rto, ms */
		} socket;
	};
};

#endif
