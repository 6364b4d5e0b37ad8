// Threads that compute, and how late each is stopped when its slice is over, as the thread itself sees it.
//
// A thread reads the clock every few microseconds. A long gap is the others' turn; what lies between two such gaps was
// its own turn, and the turn minus the slice is how late it was stopped. async.go is the same in Go.
//
// A gap is the others' turn if it is longer than half of the time that they need for their slices. Shorter ones
// (interrupts, the kernel's own switches) belong to the turn. A turn under 90 % of the slice was not ended by its end.
//
// usage: async [THREADS] [SECONDS] [SLICE_US] [PROCS]
#include "bench.h"

#include <errno.h>
#include <stdlib.h>

enum { CHUNK = 5, MAX_TURNS = 1 << 16 }; // CHUNK in us

struct turns {
	double late[MAX_TURNS]; // us
	size_t n;
};

static uint64_t steps, slice, gap; // of churn in a chunk; ns; ns
static struct turns *turns;

static void work(struct worker *w)
{
	struct turns *mine = &turns[w->id];
	uint64_t last = now_ns(), begun = 0; // the first turn began before we looked

	while (!stopped(w)) {
		uint64_t now;

		w->ops = churn(w->ops, steps);
		now = now_ns();
		if (now - last > gap) {
			double turn = (double)(last - begun);

			if (begun && turn > 0.9 * (double)slice && mine->n < MAX_TURNS)
				mine->late[mine->n++] = (turn - (double)slice) / 1e3;
			begun = now;
		}
		last = now;
	}
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 8), procs = arg_count(argc, argv, 4, 2);
	double seconds = arg_seconds(argc, argv, 2, 10);
	struct team team;
	double *all;
	size_t n = 0;

	slice = (uint64_t)arg_count(argc, argv, 3, 1000) * 1000;
	if (threads <= procs)
		die("nobody waits", EINVAL);
	gap = (threads - procs) * slice / procs / 2;
	steps = churn_per_us() * CHUNK;
	turns = calloc(threads, sizeof(*turns));
	all = calloc(threads, sizeof(turns->late));
	if (!turns || !all)
		die("turns", ENOMEM);
	team_init(&team, threads, work, NULL);
	team_run(&team, seconds);
	for (unsigned i = 0; i < threads; i++)
		for (size_t k = 0; k < turns[i].n; k++)
			all[n++] = turns[i].late[k];
	metric("turns", (double)n, "turns", "higher");
	metric("late_p50", percentile(all, n, 50), "us", "lower");
	metric("late_p99", percentile(all, n, 99), "us", "lower");
	team_fini(&team);
	free(turns);
	free(all);
	return 0;
}
