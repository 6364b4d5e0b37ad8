// Pairs of threads that hand a turn to each other with a mutex and two condition variables.
// Counts round trips of all pairs.
//
// usage: pingpong_cond [PAIRS] [SECONDS]
#include "bench.h"

#include <errno.h>
#include <stdlib.h>

struct pair {
	_Alignas(64) pthread_mutex_t lock;
	pthread_cond_t cond[2];
	unsigned turn;
	bool done;
};

static void work(struct worker *w)
{
	struct pair *pair = (struct pair *)w->arg + w->id / 2;
	unsigned me = w->id % 2;

	pthread_mutex_lock(&pair->lock);
	for (;;) {
		while (pair->turn != me && !pair->done)
			pthread_cond_wait(&pair->cond[me], &pair->lock);
		if (stopped(w))
			pair->done = true;
		pair->turn = !me;
		pthread_cond_signal(&pair->cond[!me]);
		if (pair->done)
			break;
		w->ops += me;
	}
	pthread_mutex_unlock(&pair->lock);
}

int main(int argc, char **argv)
{
	unsigned n = arg_count(argc, argv, 1, 1);
	double seconds = arg_seconds(argc, argv, 2, 1);
	struct pair *pairs = aligned_alloc(64, n * sizeof(*pairs));
	struct team team;
	double elapsed;

	if (!pairs)
		die("pairs", ENOMEM);
	for (unsigned i = 0; i < n; i++) {
		pthread_mutex_init(&pairs[i].lock, NULL);
		pthread_cond_init(&pairs[i].cond[0], NULL);
		pthread_cond_init(&pairs[i].cond[1], NULL);
		pairs[i].turn = 0;
		pairs[i].done = false;
	}
	team_init(&team, 2 * n, work, pairs);
	elapsed = team_run(&team, seconds);
	metric("roundtrips", (double)team_ops(&team) / elapsed, "ops/s", "higher");
	team_fini(&team);
	free(pairs);
	return 0;
}
