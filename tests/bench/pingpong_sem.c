// Pairs of threads that hand a turn to each other with two semaphores.
//
// usage: pingpong_sem [PAIRS] [SECONDS]
#include "bench.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>

struct pair {
	_Alignas(64) sem_t sem[2];
};

static void take(sem_t *sem)
{
	while (sem_wait(sem) && errno == EINTR)
		;
}

static void work(struct worker *w)
{
	struct pair *pair = (struct pair *)w->arg + w->id / 2;
	unsigned me = w->id % 2;

	while (!stopped(w)) {
		take(&pair->sem[me]);
		sem_post(&pair->sem[!me]);
		w->ops += me;
	}
	sem_post(&pair->sem[!me]); // the other may still wait for its last turn
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
		sem_init(&pairs[i].sem[0], 0, 1);
		sem_init(&pairs[i].sem[1], 0, 0);
	}
	team_init(&team, 2 * n, work, pairs);
	elapsed = team_run(&team, seconds);
	metric("roundtrips", (double)team_ops(&team) / elapsed, "ops/s", "higher");
	team_fini(&team);
	free(pairs);
	return 0;
}
