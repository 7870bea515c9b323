/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * The few kernel types that are read, with the few fields that are read. preserve_access_index
 * makes libbpf relocate every access to the running kernel's own layout (CO-RE), so order, gaps
 * and sizes here mean nothing; names and types do.
 */
#ifndef SKBWHY_KERNEL_H
#define SKBWHY_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct rtnl_link_ops {
	const char *kind;
};

struct net_device {
	int ifindex;
	possible_net_t nd_net;
	const struct rtnl_link_ops *rtnl_link_ops;
};

struct dst_entry {
	struct net_device *dev;
};

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	__u32 sk_txhash;
	__u16 sk_protocol;
	__u8 sk_txrehash; /* since 6.0 */
};

struct inet_sock {
	__be16 inet_sport;
};

struct inet_connection_sock {
	__u32 icsk_rto;
	__u8 icsk_retransmits;
};

struct tcp_sock {
	__u32 total_retrans;
};

struct tcp_request_sock {
	__u32 txhash;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	char cb[48];
	unsigned long _skb_refdst;
	unsigned long _nfct;
	unsigned int len;
	unsigned int data_len;
	__u8 ip_summed : 2;
	__u8 l4_hash : 1;
	__u8 sw_hash : 1;
	__u8 encapsulation : 1;
	__u16 csum_start;
	__u16 csum_offset;
	__u32 hash;
	__u32 mark;
	__be16 protocol;
	__u16 network_header;
	unsigned char *head;
	unsigned char *data;
};

struct tcp_skb_cb {
	__u32 seq;
};

union nf_inet_addr {
	__u32 all[4];
};

union nf_conntrack_man_proto {
	__be16 all;
};

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
	__u16 l3num;
};

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
		__u8 protonum;
		__u8 dir;
	} dst;
};

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
};

struct nf_conntrack_zone {
	__u16 id;
};

struct nf_ct_ext {
	__u8 offset[9];
};

enum nf_ct_ext_id {
	NF_CT_EXT_TSTAMP = 99, /* the running kernel's value is relocated in */
};

/* the index of tuplehash must be a literal where it is used: only then is it relocated */
struct nf_conn {
	__u32 timeout;
	struct nf_conntrack_zone zone;
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	possible_net_t ct_net;
	__u32 mark;
	struct nf_ct_ext *ext;
};

struct nf_hook_state {
	__u8 hook;
	__u8 pf;
	struct net_device *in;
	struct net_device *out;
	struct net *net;
};

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

/* Registers at a probed instruction, as far as they are read. */
struct pt_regs {
#if defined(__TARGET_ARCH_x86)
	unsigned long ax;
	unsigned long di;
	unsigned long si;
#elif defined(__TARGET_ARCH_arm64)
	unsigned long regs[31];
#endif
	unsigned long sp;
};

#pragma clang attribute pop

#if defined(__TARGET_ARCH_x86)
#define FIRST_ARGUMENT(regs) ((regs)->di)
#define SECOND_ARGUMENT(regs) ((regs)->si)
#define RETURN_VALUE(regs) ((regs)->ax)
#define RETURN_ADDRESS_BYTES 8 /* on the stack at a function's entry, gone at its return */
#elif defined(__TARGET_ARCH_arm64)
#define FIRST_ARGUMENT(regs) ((regs)->regs[0])
#define SECOND_ARGUMENT(regs) ((regs)->regs[1])
#define RETURN_VALUE(regs) ((regs)->regs[0])
#define RETURN_ADDRESS_BYTES 0
#endif

/* Constants of the kernel's interfaces; none has ever changed. */
enum {
	AF_INET = 2,
	AF_INET6 = 10,
	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86dd,
	ETH_P_8021Q = 0x8100,
	ETH_P_8021AD = 0x88a8,
	ETH_P_TEB = 0x6558,
	PROTOCOL_HOPOPTS = 0,
	PROTOCOL_ICMP = 1,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	PROTOCOL_ROUTING = 43,
	PROTOCOL_FRAGMENT = 44,
	PROTOCOL_ICMPV6 = 58,
	PROTOCOL_DSTOPTS = 60,
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_TIME_WAIT = 6,
	TCP_FIN_WAIT1 = 4,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
	TCP_NEW_SYN_RECV = 12,
	CHECKSUM_PARTIAL = 3,
	NF_ACCEPT = 1,
	NF_INET_PRE_ROUTING = 0,
	NF_INET_LOCAL_OUT = 3,
	NF_INET_POST_ROUTING = 4,
	NFCT_PTRMASK = 7, /* bits of skb->_nfct that are not the pointer: ctinfo */
	IPS_CONFIRMED = 1 << 3,
	IPS_SRC_NAT = 1 << 4,
	IPS_DST_NAT = 1 << 5,
	IPS_NAT_CLASH = 1 << 12,
};

#endif
