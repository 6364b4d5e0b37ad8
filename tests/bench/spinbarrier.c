// Threads that meet at a barrier of their own, which waits in a loop with PAUSE, as many programs' do: nothing of it is a
// call. Between rounds each works for 2000 steps. A batch is ROUNDS rounds; batches are repeated until the time is up (at
// least one), and the median batch counts.
//
// The first batches are slow while the library makes and reads its tables. So they are left out: until one is faster than
// half of the first, but for at most the time given.
//
// usage: spinbarrier [THREADS] [SECONDS] [ROUNDS]
#include "bench.h"

enum { MAX_BATCHES = 100000, WORK = 2000 };

static struct {
	_Alignas(64) atomic_uint arrived;
	_Alignas(64) atomic_uint round;
} barrier;
static unsigned threads, rounds;
static double limit;
static double batches[MAX_BATCHES];
static size_t nbatches;
static atomic_bool last;

static void meet(void)
{
	unsigned round = atomic_load_explicit(&barrier.round, memory_order_relaxed);

	if (atomic_fetch_add(&barrier.arrived, 1) == threads - 1) {
		atomic_store_explicit(&barrier.arrived, 0, memory_order_relaxed);
		atomic_store_explicit(&barrier.round, round + 1, memory_order_release);
		return;
	}
	while (atomic_load_explicit(&barrier.round, memory_order_acquire) == round)
		__builtin_ia32_pause();
}

static void work(struct worker *w)
{
	uint64_t first = now_ns();
	double slow = 0;

	do {
		uint64_t start = now_ns();

		for (unsigned i = 0; i < rounds; i++) {
			w->ops += churn(w->ops + i, WORK) & 1;
			meet();
		}
		if (w->id == 0) {
			uint64_t end = now_ns();
			double ms = (double)(end - start) / 1e6;
			double since = (double)(end - first) / 1e9;

			if (slow == 0)
				slow = ms;
			if (since > limit || ms < slow / 2)
				batches[nbatches++] = ms;
			atomic_store(&last,
				     nbatches > 0 && (since > limit || nbatches == MAX_BATCHES));
		}
		meet();
	} while (!atomic_load(&last));
}

int main(int argc, char **argv)
{
	struct team team;

	threads = arg_count(argc, argv, 1, 16);
	limit = arg_seconds(argc, argv, 2, 2);
	rounds = arg_count(argc, argv, 3, 200);
	team_init(&team, threads, work, NULL);
	team_start(&team);
	team_join(&team);
	metric("batch", percentile(batches, nbatches, 50), "ms", "lower");
	metric("work", (double)team_ops(&team), "", "higher");
	team_fini(&team);
	return 0;
}
