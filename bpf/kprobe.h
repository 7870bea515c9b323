/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/*
 * What programs at kprobes need, where a kernel has no type information of its modules and so no
 * fentry programs at their functions: an argument at the function's return, and an skb that the
 * verifier lets them read.
 */
#ifndef SKBWHY_KPROBE_H
#define SKBWHY_KPROBE_H

#include "packet.h"

#define SKB_BYTES 512 /* sk_buff has 232 or so; a kernel where it is larger refuses the program */

/* The first argument of a call, by the stack pointer that it returns to: no two calls that are under
 * way share one. Each CPU takes entries by the hundred; one that is pushed out is not told of. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} calls SEC(".maps");

struct skb_copy {
	__u8 bytes[SKB_BYTES];
};
/* No second program at a kprobe starts on a CPU while one is running there. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct skb_copy);
} skb_copies SEC(".maps");

/* At the entry of a function. */
static __always_inline void note_call(const struct pt_regs *regs)
{
	__u64 stack = regs->sp + RETURN_ADDRESS_BYTES, argument = FIRST_ARGUMENT(regs);

	bpf_map_update_elem(&calls, &stack, &argument, BPF_ANY);
}

/* At its return: its first argument; 0 where the entry was not seen. */
static __always_inline __u64 noted_call(const struct pt_regs *regs)
{
	__u64 stack = regs->sp, argument = 0;
	__u64 *noted = bpf_map_lookup_elem(&calls, &stack);

	if (!noted)
		return 0;
	argument = *noted;
	bpf_map_delete_elem(&calls, &stack);
	return argument;
}

/* NULL when there is none at that address. */
static __always_inline struct sk_buff *copy_skb(__u64 address)
{
	__u32 zero = 0;
	struct skb_copy *copy = bpf_map_lookup_elem(&skb_copies, &zero);

	if (!address || !copy ||
	    bpf_probe_read_kernel(copy, bpf_core_type_size(struct sk_buff), (void *)address))
		return NULL;
	return (struct sk_buff *)copy;
}

#endif
