/* getaddrinfo NAME: looks a name up as the C library does, says how long that took, in ms. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

static double milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
	double start = milliseconds();
	int error = getaddrinfo(argv[argc - 1], "80", &hints, &found);

	printf("{\"error\": %d, \"ms\": %.3f}\n", error, milliseconds() - start);
	return error != 0;
}
