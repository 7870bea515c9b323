/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The one translation unit: one object, one ring, one filter slot; programs load one by one. */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "kprobe.h"
#include "record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* So that the record layout is in the object's BTF, from which src/event/layout.ts is made. */
struct event *record_layout __attribute__((unused));

#include "tcp.bpf.c"
#include "device.bpf.c"
#include "drop.bpf.c"
#include "netfilter.bpf.c"
#include "conntrack.bpf.c"
#include "checksum.bpf.c"
