// Threads that serve requests, and wait for a mutex by trying it again and again, as schbench does: a failing
// pthread_mutex_trylock in a loop with nothing else in it. There is a mutex for each CPU, and a thread takes the one
// of the CPU it runs on: without preemption nobody would ever wait, and who waits has preempted the holder.
//
// A request is a short sleep, and then CHUNKS pieces of work, each under the mutex. Its latency is the time from the end of the sleep,
// as it was asked for, to the end of its work. First that is done without the mutex, then with it: `kept` is the share
// of requests that the mutex leaves.
//
// usage: trylock [THREADS] [SECONDS]
#include "bench.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <errno.h>

enum { CHUNKS = 5, CHUNK_US = 200, SLEEP_US = 100, MAX_CPUS = 1024, SAMPLES = 200000 };

static struct {
	_Alignas(64) pthread_mutex_t m;
} locks[MAX_CPUS];
static uint64_t per_us;
static bool with_lock;
static atomic_bool counts;

struct samples {
	double *us;
	size_t n;
};

static pthread_mutex_t *lock_this_cpu(void)
{
	pthread_mutex_t *m = &locks[sched_getcpu() % MAX_CPUS].m;

	while (pthread_mutex_trylock(m) != 0)
		;
	return m;
}

static void work(struct worker *w)
{
	struct samples *s = w->arg;
	uint64_t x = w->id;

	while (!stopped(w)) {
		uint64_t due = now_ns() + SLEEP_US * 1000;
		struct timespec ts = {(time_t)(due / 1000000000), (long)(due % 1000000000)};

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
			;
		for (int i = 0; i < CHUNKS; i++) {
			pthread_mutex_t *m = with_lock ? lock_this_cpu() : NULL;

			x = churn(x, CHUNK_US * per_us);
			if (m)
				pthread_mutex_unlock(m);
		}
		if (!atomic_load_explicit(&counts, memory_order_relaxed))
			continue;
		w->ops++;
		if (s->n < SAMPLES)
			s->us[s->n++] = (double)(now_ns() - due) / 1e3;
	}
	w->ops += x & 0;
}

// Requests per second; the latencies of all threads are put one behind the other.
static double phase(unsigned threads, double seconds, struct samples *all)
{
	struct samples *each = calloc(threads, sizeof(*each));
	struct team team;
	uint64_t start, end;
	double rate;

	atomic_store(&counts, false);
	team_init(&team, threads, work, NULL);
	for (unsigned i = 0; i < threads; i++) {
		each[i].us = malloc(SAMPLES * sizeof(double));
		team.workers[i].arg = &each[i];
	}
	team_start(&team);
	sleep_for(0.2); // the library reads its tables
	atomic_store(&counts, true);
	start = now_ns();
	sleep_for(seconds);
	end = team_stop(&team);
	team_join(&team);
	rate = (double)team_ops(&team) / ((double)(end - start) / 1e9);
	all->us = malloc(threads * SAMPLES * sizeof(double));
	all->n = 0;
	for (unsigned i = 0; i < threads; i++) {
		for (size_t k = 0; k < each[i].n; k++)
			all->us[all->n++] = each[i].us[k];
		free(each[i].us);
	}
	free(each);
	team_fini(&team);
	return rate;
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 8);
	double seconds = arg_seconds(argc, argv, 2, 1), without, with;
	struct samples s;

	for (int i = 0; i < MAX_CPUS; i++)
		pthread_mutex_init(&locks[i].m, NULL);
	per_us = churn_per_us();
	without = phase(threads, seconds, &s);
	free(s.us);
	with_lock = true;
	with = phase(threads, seconds, &s);
	metric("requests", with, "1/s", "higher");
	metric("kept", without > 0 ? with / without : 0, "ratio", "higher");
	metric("p50", percentile(s.us, s.n, 50), "us", "lower");
	metric("p99", percentile(s.us, s.n, 99), "us", "lower");
	free(s.us);
	return 0;
}
