/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Fills a ring with records as skbwhy's programs do: reserved whole, submitted without a wake-up. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include "event.h"

#define RECORDS 4096

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The records to write, in turn. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RECORDS);
	__type(key, __u32);
	__type(value, struct event);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} ring SEC(".maps");

struct fill {
	__u32 first;	 /* entry of `records` to begin with */
	__u32 kinds;	 /* entries that are set */
	__u32 wanted;
	__u32 submitted; /* out */
};

static long submit_one(__u32 i, struct fill *fill)
{
	__u32 key = fill->kinds ? (fill->first + i) % fill->kinds : 0;
	struct event *from = bpf_map_lookup_elem(&records, &key), *event;

	if (!from)
		return 1;
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event)
		return 1;
	__builtin_memcpy(event, from, sizeof(*event));
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	fill->submitted++;
	return 0;
}

SEC("syscall")
int fill_ring(struct fill *context)
{
	struct fill fill = { .first = context->first, .kinds = context->kinds };

	bpf_loop(context->wanted, submit_one, &fill, 0);
	context->submitted = fill.submitted;
	return 0;
}
