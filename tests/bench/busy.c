// Threads that compute and never call anything.
//
// usage: busy [THREADS] [SECONDS]
#include "bench.h"

enum { STEPS = 2000 }; // one unit of work: a few microseconds

static void work(struct worker *w)
{
	while (!stopped(w)) {
		churn(w->ops, STEPS);
		w->ops++;
	}
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 2);
	double seconds = arg_seconds(argc, argv, 2, 1);
	struct team team;
	double elapsed;

	team_init(&team, threads, work, NULL);
	elapsed = team_run(&team, seconds);
	metric("work", (double)team_ops(&team) / elapsed, "units/s", "higher");
	metric("jain", team_jain(&team), "index", "higher");
	team_fini(&team);
	return 0;
}
