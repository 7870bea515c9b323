// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Loses one packet of a hundred, at random. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int lose(struct xdp_md *context)
{
	return bpf_get_prandom_u32() % 100 == 0 ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
