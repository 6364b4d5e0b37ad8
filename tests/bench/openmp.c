// OpenMP teams, whose runtime (libgomp) waits by futex calls of its own, not through libc. The team does the work of one
// kind in batches until the time is up; the rate of the median batch counts, so that a moment of somebody else's load
// does not.
//
// usage: openmp KIND THREADS [SECONDS] [HOGS]
//
// HOGS other threads compute meanwhile.
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"

enum { MAX_BATCHES = 100000, BATCH_US = 10000, PIECE = 400, MAX_THREADS = 256 };

static int nthreads;
static _Alignas(64) uint64_t sums[MAX_THREADS][8]; // a cache line each

static void piece(uint64_t seed)
{
	sums[omp_get_thread_num()][0] += churn(seed, PIECE);
}

// Rounds of a short piece of work and a barrier.
static void barriers(unsigned n)
{
#pragma omp parallel num_threads(nthreads)
	for (unsigned i = 0; i < n; i++) {
		piece(i);
#pragma omp barrier
	}
}

// Short parallel loops, one after the other.
static void regions(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
#pragma omp parallel for num_threads(nthreads) schedule(static)
		for (int k = 0; k < nthreads; k++)
			piece(i);
	}
}

// One thread makes tasks, all run them.
static void tasks(unsigned n)
{
#pragma omp parallel num_threads(nthreads)
#pragma omp single
	for (unsigned i = 0; i < n; i++) {
#pragma omp task
		piece(i);
	}
}

static uint64_t tree_node(unsigned depth)
{
	uint64_t a, b;

	if (depth == 0) {
		piece(depth);
		return 1;
	}
#pragma omp task shared(a)
	a = tree_node(depth - 1);
#pragma omp task shared(b)
	b = tree_node(depth - 1);
#pragma omp taskwait
	return a + b;
}

// Tasks that wait for their own tasks: n trees of 64 leaves.
static void tree(unsigned n)
{
#pragma omp parallel num_threads(nthreads)
#pragma omp single
	for (unsigned i = 0; i < n; i++)
		tree_node(6);
}

// Work with a short critical section in between.
static void criticals(unsigned n)
{
	static uint64_t shared;

#pragma omp parallel num_threads(nthreads)
	for (unsigned i = 0; i < n; i++) {
		piece(i);
#pragma omp critical
		shared = churn(shared, 20);
	}
}

// Loops of pieces of different lengths, handed out as threads become free.
static void loops(unsigned n)
{
#pragma omp parallel num_threads(nthreads)
	for (unsigned i = 0; i < n; i++) {
#pragma omp for schedule(dynamic)
		for (int k = 0; k < 4 * nthreads; k++)
			for (int j = 0; j <= k % 8; j++)
				piece(i);
	}
}

// Rounds as in barriers, with calls that pass the library in between.
static void calls(unsigned n)
{
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#pragma omp parallel num_threads(nthreads)
	for (unsigned i = 0; i < n; i++) {
		piece(i);
		pthread_mutex_lock(&mutex);
		pthread_mutex_unlock(&mutex);
#pragma omp barrier
	}
}

static const struct {
	const char *name;
	void (*fn)(unsigned n);
} kinds[] = {
	{"barrier", barriers},	 {"region", regions}, {"task", tasks}, {"tree", tree},
	{"critical", criticals}, {"loop", loops},     {"call", calls},
};

static void hog(struct worker *w)
{
	while (!stopped(w)) {
		churn(w->ops, PIECE);
		w->ops++;
	}
}

int main(int argc, char **argv)
{
	static double rates[MAX_BATCHES];
	void (*fn)(unsigned n) = NULL;
	double limit = arg_seconds(argc, argv, 3, 1);
	uint64_t first, end;
	unsigned n = 1, hogs = arg_count(argc, argv, 4, 0);
	struct team others;
	size_t batches = 0;

	nthreads = (int)arg_count(argc, argv, 2, 8);
	for (size_t i = 0; argc > 1 && i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i].name, argv[1]))
			fn = kinds[i].fn;
	if (!fn || nthreads > MAX_THREADS) {
		fprintf(stderr, "usage: openmp barrier|region|task|tree|critical|loop|call THREADS "
				"[SECONDS] [HOGS]\n");
		return 2;
	}
	omp_set_dynamic(0);
	fn(1); // makes the team
	team_init(&others, hogs, hog, NULL);
	team_start(&others);
	for (;; n *= 2) {
		uint64_t start = now_ns();

		fn(n);
		if (now_ns() - start > BATCH_US * 1000u / 2 || n > 1u << 20)
			break;
	}
	first = now_ns();
	do {
		uint64_t start = now_ns();

		fn(n);
		end = now_ns();
		rates[batches++] = n / ((double)(end - start) / 1e9);
	} while ((double)(end - first) / 1e9 < limit && batches < MAX_BATCHES);
	metric("rate_mean", (double)n * (double)batches / ((double)(end - first) / 1e9), "/s",
	       "higher");
	team_stop(&others);
	team_join(&others);
	metric("hogs", (double)team_ops(&others) / ((double)(end - first) / 1e9), "/s", "higher");
	metric("rate", percentile(rates, batches, 50), "/s", "higher");
	return 0;
}
