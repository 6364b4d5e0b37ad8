// pthread_mutex_lock shared by many threads.
// The section is that of spinlock.c: SECTION additions to one shared counter, and nothing between
// sections. The counter at the end shows whether the lock excluded.
//
// usage: mutex [THREADS] [SECONDS]
#include "bench.h"

#include <stdio.h>

enum { SECTION = 48 };

static _Alignas(64) pthread_mutex_t lock;
static _Alignas(64) volatile uint64_t counter;

static void work(struct worker *w)
{
	while (!stopped(w)) {
		pthread_mutex_lock(&lock);
		for (int i = 0; i < SECTION; i++)
			counter++;
		pthread_mutex_unlock(&lock);
		w->ops++;
	}
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 64);
	double seconds = arg_seconds(argc, argv, 2, 1);
	struct team team;
	double elapsed;

	pthread_mutex_init(&lock, NULL);
	team_init(&team, threads, work, NULL);
	elapsed = team_run(&team, seconds);
	if (counter != team_ops(&team) * SECTION) {
		fprintf(stderr, "mutex: the lock did not exclude\n");
		return 1;
	}
	metric("ops", (double)team_ops(&team) / elapsed, "ops/s", "higher");
	metric("jain", team_jain(&team), "index", "higher");
	team_fini(&team);
	return 0;
}
