// What a trace costs: threads that compute and make a call every 40 us, about 100,000 events a second in all, with a trace and without in
// turn. What counts is the CPU time that the work takes, with all that the library and its threads do: the clock on the wall says more about
// what else runs on the machine. Each time is a process of its own, this program started again; the library, if one is named, is put into those only.
//
// usage: traced [SECONDS] [LIBRARY]
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 2, ROUNDS = 9, EVERY = 38 /* us */ };

static uint64_t steps;
static int null;

static void work(struct worker *w)
{
	uint64_t x = w->id;

	while (!stopped(w)) {
		x = churn(x, steps);
		if (write(null, &x, 1) != 1)
			die("/dev/null", errno);
		w->ops++;
	}
}

static int child(double seconds, uint64_t per_us)
{
	struct team team;
	double took, cpu;
	struct rusage usage;

	steps = EVERY * per_us;
	null = open("/dev/null", O_WRONLY);
	team_init(&team, THREADS, work, NULL);
	took = team_run(&team, seconds);
	getrusage(RUSAGE_SELF, &usage);
	cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	      (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
	printf("%f %f\n", (double)team_ops(&team) / cpu, (double)team_ops(&team) / took);
	return 0;
}

static double run(const char *self, double seconds, uint64_t per_us, double *ret_rate)
{
	char command[4200];
	double per_cpu = 0;
	FILE *out;

	snprintf(command, sizeof(command), "exec %s -c %f %lu", self, seconds,
		 (unsigned long)per_us);
	out = popen(command, "r");
	if (!out || fscanf(out, "%lf %lf", &per_cpu, ret_rate) != 2 || pclose(out) != 0 ||
	    per_cpu <= 0)
		die("the program under test", errno);
	return per_cpu;
}

int main(int argc, char **argv)
{
	double kept[ROUNDS], seconds, rate = 0;
	char self[4096], path[] = "/tmp/bench-trace-XXXXXX";
	const char *library = argc > 2 ? argv[2] : NULL;
	uint64_t per_us;
	ssize_t n;

	if (argc == 4 && strcmp(argv[1], "-c") == 0)
		return child(atof(argv[2]), strtoull(argv[3], NULL, 10));
	seconds = arg_seconds(argc, argv, 1, 2);
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		die("/proc/self/exe", errno);
	self[n] = 0;
	close(mkstemp(path));
	unlink(path);
	unsetenv("LD_PRELOAD");
	per_us = churn_per_us();
	for (int i = 0; i < ROUNDS; i++) {
		double with = 0, without = 0, calls, traced = 0;

		for (int k = 0; k < 2; k++) {
			bool trace = (i + k) % 2;

			if (library)
				setenv("LD_PRELOAD", library, 1);
			if (trace)
				setenv("PREEMPT_TRACE", path, 1);
			*(trace ? &with : &without) =
				run(self, seconds / ROUNDS / 2, per_us, trace ? &traced : &calls);
			unsetenv("LD_PRELOAD");
			unsetenv("PREEMPT_TRACE");
			unlink(path);
		}
		kept[i] = with / without;
		rate += traced / ROUNDS;
	}
	metric("kept", percentile(kept, ROUNDS, 50), "ratio", "higher");
	metric("events", library ? 2 * rate : 0, "events/s", "higher");
	return 0;
}
