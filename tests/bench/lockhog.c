// One mutex and two kinds of threads that want it all the time: half of them hold it for SHORT_US, half for LONG_US. Who holds a lock
// for longer has it for most of the time, whatever the scheduler of the CPUs does, unless the lock is shared as well. The ratio
// is that of the time for which the lock was held by the two kinds; held is the time for which anybody held it.
//
// usage: lockhog [THREADS] [SECONDS]
#include "bench.h"

enum { SHORT_US = 1, LONG_US = 10 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t per_us;

static void work(struct worker *w)
{
	uint64_t steps = (w->id % 2 ? LONG_US : SHORT_US) * per_us;

	while (!stopped(w)) {
		pthread_mutex_lock(&lock);
		churn(w->ops, steps);
		pthread_mutex_unlock(&lock);
		w->ops++;
	}
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 2);
	double seconds = arg_seconds(argc, argv, 2, 1), elapsed, held[2] = {0};
	struct team team;

	per_us = churn_per_us();
	team_init(&team, threads, work, NULL);
	elapsed = team_run(&team, seconds);
	for (unsigned i = 0; i < threads; i++)
		held[i % 2] += (double)team.workers[i].ops * (i % 2 ? LONG_US : SHORT_US) / 1e6;
	metric("hold_ratio", held[0] > 0 ? held[1] / held[0] : 1e9, "ratio", "lower");
	metric("held", (held[0] + held[1]) / elapsed, "share", "higher");
	metric("ops", (double)team_ops(&team) / elapsed, "ops/s", "higher");
	team_fini(&team);
	return 0;
}
