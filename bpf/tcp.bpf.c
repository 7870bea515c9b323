/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* socket.state and tcp.retransmit: what the TCP sockets of this node do. */

/* A v6 socket may speak IPv4 (::ffff:a.b.c.d); its flow is then the IPv4 one. `flow` is zero. */
static __always_inline bool flow_of_sock(struct tuple *flow, struct sock *sk, bool closed)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	__u16 sport = bpf_htons(BPF_CORE_READ(sk, __sk_common.skc_num));
	__u16 dport = BPF_CORE_READ(sk, __sk_common.skc_dport);
	__u8 address[16];

	/* tcp_set_state gives the port back before it tells; this copy stays */
	if (closed && !sport)
		sport = BPF_CORE_READ((struct inet_sock *)sk, inet_sport);
	flow->protocol = PROTOCOL_TCP;
	if (family == AF_INET6) {
		bpf_core_read(address, 16, &sk->__sk_common.skc_v6_daddr);
		if (*(__u64 *)address == 0 && *(__u32 *)(address + 8) == bpf_htonl(0xffff))
			family = AF_INET;
	}
	if (family == AF_INET) {
		flow->family = 4;
		*(__u32 *)flow->bytes = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		*(__u32 *)(flow->bytes + 4) = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		*(__u16 *)(flow->bytes + 8) = sport;
		*(__u16 *)(flow->bytes + 10) = dport;
		return true;
	}
	if (family == AF_INET6) {
		flow->family = 6;
		bpf_core_read(flow->bytes, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(flow->bytes + 16, 16, &sk->__sk_common.skc_v6_daddr);
		*(__u16 *)(flow->bytes + 32) = sport;
		*(__u16 *)(flow->bytes + 34) = dport;
		return true;
	}
	return false;
}

static __always_inline struct event *socket_event(struct sock *sk, __u8 point, bool closed)
{
	struct tuple flow __attribute__((aligned(8))) = {};
	__u32 netns = netns_of_sock(sk);
	struct event *event;
	int selection = MATCHED;

	if (!netns_is_wanted(netns) || !flow_of_sock(&flow, sk, closed))
		return NULL;
	if (filtering) {
		selection = select_socket(&flow);
		if (selection == NOT_SELECTED)
			return NULL;
	}
	event = reserve(offsetof(struct event, socket) + sizeof(event->socket));
	if (!event)
		return NULL;
	fill_head(event, point);
	__builtin_memset(&event->socket, 0, sizeof(event->socket));
	event->size = offsetof(struct event, socket) + sizeof(event->socket);
	event->sock = (unsigned long)sk;
	event->netns = netns;
	event->sock_hash = BPF_CORE_READ(sk, sk_txhash);
	if (bpf_core_field_exists(sk->sk_txrehash))
		event->txrehash = BPF_CORE_READ(sk, sk_txrehash);
	if (selection == FOLLOWED)
		event->flags = EVENT_FOLLOWED;
	event->socket.flow = flow;
	event->socket.rto = BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_rto);
	return event;
}

/* Does the end of a stall show? A socket that waits for an answer to what it sent again changes its
 * state, or one that had to send something again goes on. */
static __always_inline bool ends_stall(struct sock *sk, int old_state)
{
	if (BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_retransmits))
		return true;
	return (old_state == TCP_ESTABLISHED || old_state == TCP_FIN_WAIT1 ||
		old_state == TCP_CLOSE_WAIT) &&
	       BPF_CORE_READ((struct tcp_sock *)sk, total_retrans);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_state, struct sock *sk, int old_state, int new_state)
{
	struct event *event;

	if (sk->sk_protocol != PROTOCOL_TCP)
		return 0;
	if (new_state != TCP_SYN_SENT && old_state != TCP_SYN_SENT &&
	    !(old_state == TCP_SYN_RECV && new_state == TCP_ESTABLISHED) &&
	    !ends_stall(sk, old_state))
		return 0;
	event = socket_event(sk, POINT_SOCKET_STATE, new_state == TCP_CLOSE);
	if (!event)
		return 0;
	event->old_state = old_state;
	event->new_state = new_state;
	event->reason = BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_retransmits);
	/* only connect() is sure to run in the process that owns the socket */
	if (new_state == TCP_SYN_SENT) {
		event->pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(event->socket.comm, sizeof(event->socket.comm));
		event->socket.cgroup = bpf_get_current_cgroup_id();
	}
	submit(event);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit, struct sock *sk, struct sk_buff *skb)
{
	struct event *event = socket_event(sk, POINT_TCP_RETRANSMIT, false);

	if (!event)
		return 0;
	event->skb = (unsigned long)skb;
	event->hash = skb->hash;
	event->length = skb->len;
	event->reason = BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_retransmits);
	event->old_state = event->new_state = BPF_CORE_READ(sk, __sk_common.skc_state);
	event->socket.seq = BPF_CORE_READ((struct tcp_skb_cb *)skb->cb, seq);
	event->socket.rto = 0;
	submit(event);
	return 0;
}
