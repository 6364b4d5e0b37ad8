// The cost of a switch beside threads that wait. Ten threads yield to each other; meanwhile WAITING others wait for a condition.
//
// usage: switch [WAITING] [SECONDS]
#include "bench.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

enum { YIELDING = 10, STACK = 65536 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static unsigned waiting;
static bool end;

static void *waits(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&lock);
	waiting++;
	while (!end)
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void work(struct worker *w)
{
	while (!stopped(w)) {
		sched_yield();
		w->ops++;
	}
}

int main(int argc, char **argv)
{
	unsigned n = arg_count(argc, argv, 1, 10);
	double seconds = arg_seconds(argc, argv, 2, 1), elapsed;
	pthread_t *threads = calloc(n, sizeof(*threads));
	pthread_attr_t attr;
	struct team team;

	if (!threads)
		die("threads", ENOMEM);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	for (unsigned i = 0; i < n; i++) {
		int err = pthread_create(&threads[i], &attr, waits, NULL);

		if (err)
			die("pthread_create", err);
	}
	for (bool all = false; !all;) {
		pthread_mutex_lock(&lock);
		all = waiting == n;
		pthread_mutex_unlock(&lock);
		sleep_for(0.001);
	}
	team_init(&team, YIELDING, work, NULL);
	elapsed = team_run(&team, seconds);
	metric("switch", elapsed * 1e9 / (double)team_ops(&team), "ns", "lower");
	pthread_mutex_lock(&lock);
	end = true;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&lock);
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	team_fini(&team);
	free(threads);
	return 0;
}
