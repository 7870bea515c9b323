/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Programs that do nothing, where skbwhy's stand: what is left of their time is the accounting. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tp_btf/net_dev_start_xmit")
int empty_transmit(void *context)
{
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int empty_receive(void *context)
{
	return 0;
}

SEC("tp_btf/kfree_skb")
int empty_drop(void *context)
{
	return 0;
}
