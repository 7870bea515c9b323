// SPDX-License-Identifier: Apache-2.0
/*
 * Traffic for measuring:
 *   traffic sink ADDRESS PORT               takes connections and what they send, says `ready` first
 *   traffic stream ADDRESS PORT BYTES       one connection that sends so much
 *   traffic datagrams ADDRESS PORT COUNT    UDP, 100 bytes each
 *   traffic connects ADDRESS PORT COUNT     one after another, each reset when it is there or refused
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 16];
static struct sockaddr_in address = { .sin_family = AF_INET };

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int sink(void)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, taken;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (void *)&address, sizeof(address)) || listen(listener, 4096))
		return fail("sink");
	puts("ready");
	fflush(stdout);
	while ((taken = accept(listener, NULL, NULL)) >= 0) {
		while (read(taken, buffer, sizeof(buffer)) > 0)
			;
		close(taken);
	}
	return fail("accept");
}

static int stream(long bytes)
{
	int to = socket(AF_INET, SOCK_STREAM, 0);

	if (connect(to, (void *)&address, sizeof(address)))
		return fail("stream");
	while (bytes > 0) {
		ssize_t sent = send(to, buffer, sizeof(buffer), MSG_NOSIGNAL);

		if (sent < 0)
			return fail("send");
		bytes -= sent;
	}
	return 0;
}

static int datagrams(long count)
{
	int to = socket(AF_INET, SOCK_DGRAM, 0);

	for (; count > 0; count--)
		if (sendto(to, buffer, 100, 0, (void *)&address, sizeof(address)) < 0 && errno != ENOBUFS)
			return fail("sendto");
	return 0;
}

static int connects(long count)
{
	struct linger at_once = { .l_onoff = 1 };

	for (; count > 0; count--) {
		int to = socket(AF_INET, SOCK_STREAM, 0);

		setsockopt(to, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		if (connect(to, (void *)&address, sizeof(address)) && errno != ECONNREFUSED)
			return fail("connect");
		close(to);
	}
	return 0;
}

int main(int argc, char **argv)
{
	long amount = argc > 4 ? atol(argv[4]) : 0;

	if (argc < 4 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
		return 2;
	address.sin_port = htons(atoi(argv[3]));
	if (!strcmp(argv[1], "sink"))
		return sink();
	if (!strcmp(argv[1], "stream"))
		return stream(amount);
	if (!strcmp(argv[1], "datagrams"))
		return datagrams(amount);
	if (!strcmp(argv[1], "connects"))
		return connects(amount);
	return 2;
}
