// What it costs at least to interrupt every CPU once in a period: one timer whose signal comes to a busy thread, whose handler
// signals the other busy ones. No thread is switched, nothing decided. It is the floor below what a short slice can cost.
//
// usage: interrupts [THREADS] [SECONDS] [PERIOD_US]; period 0: nobody is interrupted
#include "bench.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { STEPS = 2000 }; // as busy's

static unsigned threads;
static long period_us;
static struct team team;
static __thread struct worker *self;

static void handler(int sig)
{
	if (self && self->id == 0)
		for (unsigned i = 1; i < threads; i++)
			pthread_kill(team.workers[i].thread, sig);
}

static void work(struct worker *w)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
	struct itimerspec every = {{0, period_us * 1000}, {0, period_us * 1000}};
	timer_t timer;

	self = w;
	if (w->id == 0 && period_us > 0) {
		event._sigev_un._tid = gettid();
		if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
		    timer_settime(timer, 0, &every, NULL) != 0)
			die("timer", errno);
	}
	while (!stopped(w)) {
		churn(w->ops, STEPS);
		w->ops++;
	}
	if (w->id == 0 && period_us > 0)
		timer_delete(timer);
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART};
	double elapsed;

	threads = arg_count(argc, argv, 1, 2);
	period_us = argc > 3 ? strtol(argv[3], NULL, 10) : 0;
	if (period_us < 0 || period_us >= 1000000)
		die("PERIOD_US", EINVAL);
	sigaction(SIGUSR1, &sa, NULL);
	team_init(&team, threads, work, NULL);
	elapsed = team_run(&team, arg_seconds(argc, argv, 2, 1));
	metric("work", (double)team_ops(&team) / elapsed, "units/s", "higher");
	team_fini(&team);
	return 0;
}
