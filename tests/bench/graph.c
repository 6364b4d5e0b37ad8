// A team that computes graphs, as ggml (llama.cpp) does: for each node of the graph the threads take chunks of its work from a
// shared counter, and meet at a barrier of two counters with PAUSE before the next node. Between graphs they poll for the next one with
// PAUSE, and after many polls sleep on a condition variable. The first thread of the program is a member of the team.
//
// A token is one graph of NODES nodes, with CHUNKS chunks of some microseconds each; then the first thread works for a moment
// alone, as a sampler does. The first tokens are slow while the library reads its tables, and are left out as in spinbarrier.
//
// usage: graph [THREADS] [SECONDS]
#include "bench.h"

#include <stdlib.h>

enum {
	NODES = 60,
	CHUNKS = 16,
	CHUNK_STEPS = 1500,
	ALONE_STEPS = 20000,
	POLLS = 1 << 16,
	MAX = 100000
};

static unsigned threads;
static struct {
	_Alignas(64) atomic_int n_arrived;
	_Alignas(64) atomic_int n_passed;
	_Alignas(64) atomic_int chunk;
	_Alignas(64) atomic_int n_graph;
	_Alignas(64) atomic_bool stop;
} pool;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static _Alignas(64) uint64_t sums[1000][8];

static void meet(void)
{
	int passed = atomic_load_explicit(&pool.n_passed, memory_order_relaxed);

	if (threads == 1)
		return;
	if (atomic_fetch_add(&pool.n_arrived, 1) == (int)threads - 1) {
		atomic_store_explicit(&pool.n_arrived, 0, memory_order_relaxed);
		atomic_fetch_add(&pool.n_passed, 1);
		return;
	}
	while (atomic_load_explicit(&pool.n_passed, memory_order_relaxed) == passed)
		__builtin_ia32_pause();
	atomic_thread_fence(memory_order_seq_cst);
}

static void compute(unsigned id)
{
	for (int node = 0; node < NODES; node++) {
		int chunk;

		if (id == 0)
			atomic_store_explicit(&pool.chunk, (int)threads, memory_order_relaxed);
		meet();
		for (chunk = (int)id; chunk < CHUNKS;
		     chunk = atomic_fetch_add_explicit(&pool.chunk, 1, memory_order_relaxed))
			sums[id][0] += churn((uint64_t)chunk, CHUNK_STEPS) & 1;
		meet();
	}
}

static void *member(void *arg)
{
	unsigned id = (unsigned)(uintptr_t)arg;
	int seen = 0;

	for (;;) {
		int now = 0;

		for (int i = 0; i < POLLS; i++) {
			now = atomic_load_explicit(&pool.n_graph, memory_order_acquire);
			if (now != seen || atomic_load_explicit(&pool.stop, memory_order_relaxed))
				break;
			__builtin_ia32_pause();
		}
		if (now == seen) {
			pthread_mutex_lock(&mutex);
			while ((now = atomic_load(&pool.n_graph)) == seen &&
			       !atomic_load(&pool.stop))
				pthread_cond_wait(&cond, &mutex);
			pthread_mutex_unlock(&mutex);
		}
		if (atomic_load(&pool.stop))
			return NULL;
		seen = now;
		compute(id);
	}
}

int main(int argc, char **argv)
{
	double limit, slow = 0, *tokens = malloc(MAX * sizeof(*tokens));
	pthread_t *team;
	size_t n = 0;
	uint64_t first = now_ns();

	threads = arg_count(argc, argv, 1, 8);
	limit = arg_seconds(argc, argv, 2, 2);
	team = calloc(threads, sizeof(*team));
	if (threads > sizeof(sums) / sizeof(*sums) || !tokens || !team)
		return 1;
	for (unsigned i = 1; i < threads; i++) {
		int err = pthread_create(&team[i], NULL, member, (void *)(uintptr_t)i);

		if (err)
			die("pthread_create", err);
	}
	while (n < MAX) {
		uint64_t start = now_ns(), end;
		double ms, since;

		sums[0][1] += churn(start, ALONE_STEPS) & 1;
		pthread_mutex_lock(&mutex);
		atomic_fetch_add(&pool.n_graph, 1);
		pthread_cond_broadcast(&cond);
		pthread_mutex_unlock(&mutex);
		compute(0);
		end = now_ns();
		ms = (double)(end - start) / 1e6;
		since = (double)(end - first) / 1e9;
		if (slow == 0)
			slow = ms;
		if (since > limit || ms < slow / 2 || since > limit / 4)
			tokens[n++] = ms;
		if (n && since > limit)
			break;
	}
	pthread_mutex_lock(&mutex);
	atomic_store(&pool.stop, true);
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&mutex);
	for (unsigned i = 1; i < threads; i++)
		pthread_join(team[i], NULL);
	metric("token", percentile(tokens, n, 50), "ms", "lower");
	free(team);
	free(tokens);
	return 0;
}
