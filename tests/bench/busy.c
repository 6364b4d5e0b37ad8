// Threads that compute and never call anything.
//
// usage: busy [THREADS] [SECONDS]
#include "bench.h"

#include <sys/resource.h>

enum { STEPS = 2000 }; // one unit of work: a few microseconds

static void work(struct worker *w)
{
	while (!stopped(w)) {
		churn(w->ops, STEPS);
		w->ops++;
	}
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 2);
	double seconds = arg_seconds(argc, argv, 2, 1);
	struct team team;
	double elapsed, cpu;

	team_init(&team, threads, work, NULL);
	cpu = cpu_seconds();
	elapsed = team_run(&team, seconds);
	cpu = cpu_seconds() - cpu;
	metric("work", (double)team_ops(&team) / elapsed, "units/s", "higher");
	metric("work_cpu", (double)team_ops(&team) / cpu, "units/s", "higher");
	metric("jain", team_jain(&team), "index", "higher");
	team_fini(&team);
	return 0;
}
