// Pairs of threads that pass one byte back and forth over a socketpair.
//
// usage: pingpong_socket [PAIRS] [SECONDS]
#include "bench.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct pair {
	int fd[2];
};

static void give(int fd)
{
	while (write(fd, "x", 1) != 1)
		if (errno != EINTR)
			die("write", errno);
}

static void take(int fd)
{
	char byte;

	while (read(fd, &byte, 1) != 1)
		if (errno != EINTR)
			die("read", errno);
}

static void work(struct worker *w)
{
	struct pair *pair = (struct pair *)w->arg + w->id / 2;
	unsigned me = w->id % 2;

	if (!me)
		give(pair->fd[me]);
	while (!stopped(w)) {
		take(pair->fd[me]);
		give(pair->fd[me]);
		w->ops += me;
	}
	give(pair->fd[me]); // the other may still wait for its last byte
}

int main(int argc, char **argv)
{
	unsigned n = arg_count(argc, argv, 1, 1);
	double seconds = arg_seconds(argc, argv, 2, 1);
	struct pair *pairs = calloc(n, sizeof(*pairs));
	struct team team;
	double elapsed;

	if (!pairs)
		die("pairs", ENOMEM);
	for (unsigned i = 0; i < n; i++)
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i].fd))
			die("socketpair", errno);
	team_init(&team, 2 * n, work, pairs);
	elapsed = team_run(&team, seconds);
	metric("roundtrips", (double)team_ops(&team) / elapsed, "ops/s", "higher");
	team_fini(&team);
	free(pairs);
	return 0;
}
