// Busy threads and what CPU time each gets, by the kernel's clock of each thread: how equal (Jain's index), or how
// far from what was asked for.
//
//  equal   all alike
//  weights a third of them each has the name w100, w200, w400, for PREEMPT_WEIGHTS=w200:200,w400:400. The error is the larger
//          one of the two ratios' distances from 2 and 4
//  nice    half of them have nice 0, half 10: the ratio
//
// The time is taken between two moments when all have begun.
//
// usage: shares equal|weights|nice [THREADS] [SECONDS]
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { STEPS = 2000, KINDS = 3 };

static const char *mode = "equal";
static unsigned kinds = 1;

static void work(struct worker *w)
{
	unsigned kind = w->id % kinds;

	if (!strcmp(mode, "weights")) {
		char name[16];

		snprintf(name, sizeof(name), "w%u", 100u << kind);
		pthread_setname_np(pthread_self(), name);
	} else if (!strcmp(mode, "nice")) {
		setpriority(PRIO_PROCESS, 0, kind ? 10 : 0); // of this thread
	}
	while (!stopped(w)) {
		churn(w->ops, STEPS);
		w->ops++;
	}
}

static double cpu_time(const struct worker *w)
{
	struct timespec ts;
	clockid_t clock;

	if (pthread_getcpuclockid(w->thread, &clock) || clock_gettime(clock, &ts))
		die("the clock of a thread", errno);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 2, 64);
	double seconds = arg_seconds(argc, argv, 3, 5), sum[KINDS] = {0}, all = 0, squares = 0;
	double *before = calloc(threads, sizeof(*before));
	struct team team;

	if (argc > 1)
		mode = argv[1];
	if (!strcmp(mode, "weights"))
		kinds = 3;
	else if (!strcmp(mode, "nice"))
		kinds = 2;
	else if (strcmp(mode, "equal"))
		die(mode, EINVAL);
	if (!before)
		die("threads", ENOMEM);
	team_init(&team, threads, work, NULL);
	team_start(&team);
	sleep_for(kinds > 1 ? 1 : 0.1); // until names and priorities are noticed
	for (unsigned i = 0; i < threads; i++)
		before[i] = cpu_time(&team.workers[i]);
	sleep_for(seconds);
	for (unsigned i = 0; i < threads; i++) {
		double t = cpu_time(&team.workers[i]) - before[i];

		sum[i % kinds] += t;
		all += t;
		squares += t * t;
	}
	team_stop(&team);
	team_join(&team);
	metric("cpus", all / seconds, "CPUs", "higher");
	if (kinds == 1)
		metric("jain_cpu", all * all / (threads * squares), "index", "higher");
	else if (kinds == 2)
		metric("nice_ratio", sum[0] / sum[1], "ratio", "higher");
	else
		metric("weight_error",
		       100 * fmax(fabs(sum[1] / sum[0] / 2 - 1), fabs(sum[2] / sum[0] / 4 - 1)),
		       "%", "lower");
	team_fini(&team);
	free(before);
	return 0;
}
