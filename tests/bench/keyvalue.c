// A server whose requests are short or long, half and half: SHORT_US and LONG_US of CPU time, at LOAD percent of all CPUs. Requests
// come by an open loop, at random times that do not wait for answers; each goes to one of the server's threads, over
// a socket as from a client of its own. How many times longer than its work a request takes, from when it was due.
//
// usage: keyvalue [THREADS] [SECONDS] [CPUS]
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SHORT_US = 10, LONG_US = 1000, LOAD = 80, MAX_REQUESTS = 1 << 20 };

struct request {
	uint64_t due; // 0: the end
	unsigned us;
};

static double *slow[2]; // short, long
static atomic_size_t n[2];
static int (*sockets)[2];
static uint64_t per_us, start, end;
static unsigned threads, cpus;

static double at_random(void) // 0 to 1, not 0
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return ((double)(x >> 11) + 1) / 9007199254740993.0;
}

static void client(void)
{
	double mean = (SHORT_US + LONG_US) / 2.0 * 1e3 / (cpus * LOAD / 100.0); // ns
	double due = (double)start;

	while (due < (double)end) {
		struct request r;
		uint64_t now;

		due += -log(at_random()) * mean;
		r.due = (uint64_t)due;
		r.us = at_random() < 0.5 ? SHORT_US : LONG_US;
		now = now_ns();
		if (now < r.due)
			sleep_for((double)(r.due - now) / 1e9);
		if (write(sockets[(unsigned)(at_random() * 0.999999 * threads)][0], &r, sizeof(r)) <
		    0)
			die("write", errno);
	}
	for (unsigned i = 0; i < threads; i++)
		if (write(sockets[i][0], &(struct request){0}, sizeof(struct request)) < 0)
			die("write", errno);
}

static void work(struct worker *w)
{
	struct request r;

	if (w->id == threads) {
		client();
		return;
	}
	while (read(sockets[w->id][1], &r, sizeof(r)) == sizeof(r) && r.due) {
		unsigned kind = r.us == LONG_US;
		size_t i;

		churn(r.due, r.us * per_us);
		i = atomic_fetch_add(&n[kind], 1);
		if (i < MAX_REQUESTS)
			slow[kind][i] = (double)(now_ns() - r.due) / 1e3 / r.us;
		w->ops++;
	}
}

int main(int argc, char **argv)
{
	double seconds = arg_seconds(argc, argv, 2, 3);
	struct team team;

	threads = arg_count(argc, argv, 1, 64);
	cpus = arg_count(argc, argv, 3, (unsigned)sysconf(_SC_NPROCESSORS_ONLN));
	per_us = churn_per_us();
	sockets = calloc(threads, sizeof(*sockets));
	for (int i = 0; i < 2; i++)
		if (!(slow[i] = malloc(MAX_REQUESTS * sizeof(double))) || !sockets)
			die("samples", ENOMEM);
	for (unsigned i = 0; i < threads; i++)
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets[i]) < 0)
			die("socketpair", errno);
	start = now_ns() + 100000000; // time for the threads to begin
	end = start + (uint64_t)(seconds * 1e9);
	team_init(&team, threads + 1, work, NULL);
	team_start(&team);
	team_join(&team);
	metric("short_p50", percentile(slow[0], n[0], 50), "times", "lower");
	metric("short_p999", percentile(slow[0], n[0], 99.9), "times", "lower");
	metric("long_p99", percentile(slow[1], n[1], 99), "times", "lower");
	metric("rate", (double)team_ops(&team) / seconds, "ops/s", "higher");
	team_fini(&team);
	return 0;
}
