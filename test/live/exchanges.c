// SPDX-License-Identifier: Apache-2.0
/*
 * Connects and lookups, any number of them:
 *   exchanges serve ADDRESS TCP_PORT                  takes connections and resets them, answers every DNS
 *                                                     query at port 53; says `ready` first
 *   exchanges make ADDRESS TCP_PORT COUNT RATE        so many connects, and lookups (A and AAAA from one
 *                                                     socket, repeated after a second) in turn, RATE a
 *                                                     second; then says as JSON what became of them
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DNS_PORT 53
#define AT_ONCE 256
#define TRIES 6
/* what a kernel or a resolver waits before it sends again, and less than that, ms */
#define REPEAT_MS 1000
#define SLOW_MS 500

static struct sockaddr_in server = { .sin_family = AF_INET };

static struct {
	int fd;
	int number;
	int lookup;
	int missing; /* bit 0: A, bit 1: AAAA */
	int tries;
	double begun, asked;
} slots[AT_ONCE];

static long connects, lookups, failed, slow_connects, slow_lookups;

static double milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static struct sockaddr_in at_port(int port)
{
	struct sockaddr_in to = server;

	to.sin_port = htons(port);
	return to;
}

/* No TIME_WAIT keeps its port. */
static void reset(int fd)
{
	struct linger now = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

static int serve(int port)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0), names = socket(AF_INET, SOCK_DGRAM, 0);
	int one = 1, room = 1 << 22, all = epoll_create1(0), i, n;
	struct sockaddr_in tcp = at_port(port), udp = at_port(DNS_PORT);
	struct epoll_event ready[2];

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(names, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (bind(listener, (void *)&tcp, sizeof(tcp)) || listen(listener, 4096) ||
	    bind(names, (void *)&udp, sizeof(udp)))
		return fail("serve");
	fcntl(listener, F_SETFL, O_NONBLOCK);
	epoll_ctl(all, EPOLL_CTL_ADD, listener,
		  &(struct epoll_event){ .events = EPOLLIN, .data.fd = listener });
	epoll_ctl(all, EPOLL_CTL_ADD, names,
		  &(struct epoll_event){ .events = EPOLLIN, .data.fd = names });
	puts("ready");
	fflush(stdout);
	while ((n = epoll_wait(all, ready, 2, -1)) >= 0 || errno == EINTR)
		for (i = 0; i < n; i++) {
			unsigned char message[512];
			struct sockaddr_in from;
			socklen_t length = sizeof(from);
			ssize_t size;
			int taken;

			if (ready[i].data.fd == listener) {
				while ((taken = accept(listener, NULL, NULL)) >= 0)
					reset(taken);
				continue;
			}
			size = recvfrom(names, message, sizeof(message), 0, (void *)&from, &length);
			if (size < 12)
				continue;
			message[2] |= 0x80; /* QR: it exists, and has no records */
			sendto(names, message, size, 0, (void *)&from, length);
		}
	return fail("epoll_wait");
}

/* The query for one type (0: A, 1: AAAA) of the name nNUMBER.example. */
static void ask(int slot, int type)
{
	unsigned char message[64] = { 0 };
	char label[16];
	int n = snprintf(label, sizeof(label), "n%d", slots[slot].number), at = 12;

	message[0] = slots[slot].number >> 7;
	message[1] = slots[slot].number << 1 | type;
	message[2] = 1; /* RD */
	message[5] = 1;
	message[at++] = n;
	memcpy(message + at, label, n);
	at += n;
	memcpy(message + at, "\7example", 9);
	at += 9;
	message[at + 1] = type ? 28 : 1;
	message[at + 3] = 1;
	if (send(slots[slot].fd, message, at + 4, 0) < 0 && errno != ECONNREFUSED)
		perror("send");
}

static void ask_missing(int slot)
{
	slots[slot].asked = milliseconds();
	slots[slot].tries++;
	for (int type = 0; type < 2; type++)
		if (slots[slot].missing >> type & 1)
			ask(slot, type);
}

static int begin(int all, int slot, int number, int port)
{
	int lookup = number & 1;
	struct sockaddr_in to = at_port(lookup ? DNS_PORT : port);
	int fd = socket(AF_INET, (lookup ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);

	slots[slot].fd = fd;
	slots[slot].number = number;
	slots[slot].lookup = lookup;
	slots[slot].missing = 3;
	slots[slot].tries = 0;
	slots[slot].begun = milliseconds();
	if (fd < 0 || (connect(fd, (void *)&to, sizeof(to)) && errno != EINPROGRESS))
		return fail("connect");
	epoll_ctl(all, EPOLL_CTL_ADD, fd,
		  &(struct epoll_event){ .events = lookup ? EPOLLIN : EPOLLOUT,
					 .data.u32 = slot });
	if (lookup)
		ask_missing(slot);
	return 0;
}

static void end(int slot, int good)
{
	int slow = milliseconds() - slots[slot].begun >= SLOW_MS;

	reset(slots[slot].fd);
	slots[slot].fd = -1;
	failed += !good;
	if (slots[slot].lookup) {
		lookups++;
		slow_lookups += slow;
	} else {
		connects++;
		slow_connects += slow;
	}
}

/* Something came for it. */
static void take(int slot)
{
	unsigned char message[512];
	int error = 0;
	socklen_t length = sizeof(error);

	if (!slots[slot].lookup) {
		getsockopt(slots[slot].fd, SOL_SOCKET, SO_ERROR, &error, &length);
		/* it may be reset before we hear that it stood */
		end(slot, error == 0 || error == ECONNRESET);
		return;
	}
	while (recv(slots[slot].fd, message, sizeof(message), 0) >= 12)
		slots[slot].missing &= ~(1 << (message[1] & 1));
	if (slots[slot].missing == 0)
		end(slot, 1);
}

static int make(int port, long count, int rate)
{
	int all = epoll_create1(0), number = 0, open = 0, slot, n, i;
	double start = milliseconds();
	struct epoll_event ready[AT_ONCE];

	for (slot = 0; slot < AT_ONCE; slot++)
		slots[slot].fd = -1;
	while (number < 2 * count || open > 0) {
		double now = milliseconds();

		for (slot = open = 0; slot < AT_ONCE; slot++) {
			if (slots[slot].fd < 0 && number < 2 * count &&
			    number < (now - start) * rate / 1e3)
				if (begin(all, slot, number++, port))
					return 1;
			if (slots[slot].fd >= 0 && slots[slot].lookup &&
			    now - slots[slot].asked >= REPEAT_MS) {
				if (slots[slot].tries < TRIES)
					ask_missing(slot);
				else
					end(slot, 0);
			}
			open += slots[slot].fd >= 0;
		}
		n = epoll_wait(all, ready, AT_ONCE, 2);
		for (i = 0; i < n; i++)
			take(ready[i].data.u32);
	}
	printf("{\"connects\": %ld, \"lookups\": %ld, \"failed\": %ld, \"slowConnects\": %ld, \"slowLookups\": %ld}\n",
	       connects, lookups, failed, slow_connects, slow_lookups);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 3 && inet_pton(AF_INET, argv[2], &server.sin_addr) == 1) {
		if (!strcmp(argv[1], "serve"))
			return serve(atoi(argv[3]));
		if (!strcmp(argv[1], "make") && argc == 6)
			return make(atoi(argv[3]), atol(argv[4]), atoi(argv[5]));
	}
	fputs("usage: see the head of exchanges.c\n", stderr);
	return 2;
}
