// SPDX-License-Identifier: Apache-2.0
/* What the ring reader in JavaScript is compared with: libbpf's consumer, on the same ring. */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include "event.h"

#define BATCH_BYTES (256 << 10)

struct fill {
	__u32 first, kinds, wanted, submitted;
};

enum { LOOKING = 0, COPYING = 1 };

static struct bpf_object *object;
static struct ring_buffer *consumers[2];
static int ring_fd, records_fd, fill_fd;
static unsigned char batch[BATCH_BYTES];
static __u64 used, looked;

/* Reads what every reader needs: size, kind, point, time. */
static int look(void *context, void *data, size_t size)
{
	const struct event *event = data;

	looked += event->size + event->kind + event->point + event->time;
	return 0;
}

/* Moves the record out of the ring: it may outlive its place there. */
static int copy(void *context, void *data, size_t size)
{
	const struct event *event = data;

	if (used + event->size > BATCH_BYTES)
		used = 0;
	memcpy(batch + used, event, event->size);
	used += event->size;
	return 0;
}

/* Loads the producer; 0, or -errno. */
int consumer_open(const char *path, unsigned int ring_bytes)
{
	struct bpf_map *ring;
	int error;

	object = bpf_object__open_file(path, NULL);
	if (!object)
		return -1;
	ring = bpf_object__find_map_by_name(object, "ring");
	bpf_map__set_max_entries(ring, ring_bytes);
	error = bpf_object__load(object);
	if (error)
		return error;
	ring_fd = bpf_map__fd(ring);
	records_fd = bpf_object__find_map_fd_by_name(object, "records");
	fill_fd = bpf_program__fd(bpf_object__find_program_by_name(object, "fill_ring"));
	consumers[LOOKING] = ring_buffer__new(ring_fd, look, NULL, NULL);
	consumers[COPYING] = ring_buffer__new(ring_fd, copy, NULL, NULL);
	return consumers[LOOKING] && consumers[COPYING] ? 0 : -1;
}

int consumer_ring(void)
{
	return ring_fd;
}

/* Gives the producer its record number `index`. */
int consumer_record(unsigned int index, const void *event)
{
	return bpf_map_update_elem(records_fd, &index, event, 0);
}

/* Goes to a CPU of `set`, other than `but`. */
static void move_to(const cpu_set_t *set, int but)
{
	cpu_set_t one;

	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (cpu == but || !CPU_ISSET(cpu, set))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
		return;
	}
}

/* Submits up to `wanted` records, of the first `kinds` ones in turn, from another CPU than the
 * caller's if there is one: events mostly come from elsewhere. Returns how many went in. */
long consumer_fill(unsigned int first, unsigned int kinds, unsigned int wanted)
{
	struct fill fill = { .first = first, .kinds = kinds, .wanted = wanted };
	/* the kernel writes the context back where it came from (bpf_prog_test_run_syscall) */
	LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = &fill, .ctx_size_in = sizeof(fill));
	cpu_set_t all, here;
	int error;

	sched_getaffinity(0, sizeof(all), &all);
	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	move_to(&all, sched_getcpu());
	error = bpf_prog_test_run_opts(fill_fd, &options);
	move_to(&here, -1);
	sched_setaffinity(0, sizeof(all), &all);
	return error ? -1 : (long)fill.submitted;
}

/* Empties the ring; how many records came, and the CPU time, ns. */
long consumer_consume(int copying, double *ns)
{
	struct timespec before, after;
	long count;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	count = ring_buffer__consume(consumers[copying]);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	*ns = (after.tv_sec - before.tv_sec) * 1e9 + (after.tv_nsec - before.tv_nsec);
	return count;
}

void consumer_close(void)
{
	ring_buffer__free(consumers[LOOKING]);
	ring_buffer__free(consumers[COPYING]);
	bpf_object__close(object);
}
