// Threads that meet at a pthread_barrier, round after round. A batch is ROUNDS rounds; batches are
// repeated until the time is up (at least one), and the median batch counts.
//
// usage: barrier [THREADS] [SECONDS] [ROUNDS]
#include "bench.h"

enum { MAX_BATCHES = 100000 };

static pthread_barrier_t barrier;
static unsigned rounds;
static double limit;
static double batches[MAX_BATCHES];
static size_t nbatches;
static bool last; // written by worker 0 before a barrier, read by the others after it

static void work(struct worker *w)
{
	uint64_t first = now_ns();

	do {
		uint64_t start = now_ns();

		for (unsigned i = 0; i < rounds; i++)
			pthread_barrier_wait(&barrier);
		if (w->id == 0) {
			uint64_t end = now_ns();

			batches[nbatches++] = (double)(end - start) / 1e3 / rounds;
			last = (double)(end - first) / 1e9 > limit || nbatches == MAX_BATCHES;
		}
		pthread_barrier_wait(&barrier);
	} while (!last);
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 16);
	struct team team;

	limit = arg_seconds(argc, argv, 2, 1);
	rounds = arg_count(argc, argv, 3, 200);
	pthread_barrier_init(&barrier, NULL, threads);
	team_init(&team, threads, work, NULL);
	team_start(&team);
	team_join(&team);
	metric("round", percentile(batches, nbatches, 50), "us", "lower");
	team_fini(&team);
	return 0;
}
