// The common part of the benchmark programs; bench.h says what each function does.
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_SAMPLES = 1 << 20 };

void die(const char *what, int err)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(err));
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void sleep_for(double seconds)
{
	struct timespec ts = {.tv_sec = (time_t)seconds};

	ts.tv_nsec = (long)((seconds - (double)ts.tv_sec) * 1e9);
	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct team *team = w->team;

	pthread_mutex_lock(&team->gate_lock);
	team->ready++;
	pthread_cond_broadcast(&team->gate);
	while (!team->open)
		pthread_cond_wait(&team->gate, &team->gate_lock);
	pthread_mutex_unlock(&team->gate_lock);
	team->fn(w);
	return NULL;
}

void team_init(struct team *team, unsigned n, void (*fn)(struct worker *), void *arg)
{
	memset(team, 0, sizeof(*team));
	team->n = n;
	team->fn = fn;
	pthread_mutex_init(&team->gate_lock, NULL);
	pthread_cond_init(&team->gate, NULL);
	team->workers = aligned_alloc(64, n * sizeof(*team->workers));
	if (!team->workers)
		die("workers", ENOMEM);
	memset(team->workers, 0, n * sizeof(*team->workers));

	for (unsigned i = 0; i < n; i++) {
		struct worker *w = &team->workers[i];
		int err;

		w->id = i;
		w->arg = arg;
		w->team = team;
		err = pthread_create(&w->thread, NULL, worker_main, w);
		if (err)
			die("pthread_create", err);
	}
}

uint64_t team_start(struct team *team)
{
	uint64_t start;

	pthread_mutex_lock(&team->gate_lock);
	while (team->ready < team->n)
		pthread_cond_wait(&team->gate, &team->gate_lock);
	team->open = true;
	start = now_ns();
	pthread_cond_broadcast(&team->gate);
	pthread_mutex_unlock(&team->gate_lock);
	return start;
}

uint64_t team_stop(struct team *team)
{
	uint64_t end = now_ns();

	atomic_store_explicit(&team->stop, true, memory_order_relaxed);
	return end;
}

void team_join(struct team *team)
{
	for (unsigned i = 0; i < team->n; i++)
		pthread_join(team->workers[i].thread, NULL);
}

void team_fini(struct team *team)
{
	free(team->workers);
	pthread_cond_destroy(&team->gate);
	pthread_mutex_destroy(&team->gate_lock);
}

double team_run(struct team *team, double seconds)
{
	uint64_t start = team_start(team);
	uint64_t end;

	sleep_for(seconds);
	end = team_stop(team);
	team_join(team);
	return (double)(end - start) / 1e9;
}

uint64_t team_ops(const struct team *team)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < team->n; i++)
		sum += team->workers[i].ops;
	return sum;
}

double team_jain(const struct team *team)
{
	double sum = 0, squares = 0;

	for (unsigned i = 0; i < team->n; i++) {
		double x = (double)team->workers[i].ops;

		sum += x;
		squares += x * x;
	}
	return squares > 0 ? sum * sum / (team->n * squares) : 0;
}

static pthread_mutex_t sleeper_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sleeper_cond = PTHREAD_COND_INITIALIZER;

static void *sleeper_main(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&sleeper_lock);
	for (;;)
		pthread_cond_wait(&sleeper_cond, &sleeper_lock);
	return NULL;
}

void start_sleeper(void)
{
	pthread_t t;
	int err = pthread_create(&t, NULL, sleeper_main, NULL);

	if (err)
		die("pthread_create", err);
	pthread_detach(t);
	sleep_for(0.01); // long enough for it to be asleep
}

uint64_t churn(uint64_t seed, uint64_t steps)
{
	while (steps--) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		__asm__ volatile("" : "+r"(seed));
	}
	return seed;
}

uint64_t churn_per_us(void)
{
	enum { STEPS = 100000, TRIES = 20 };
	uint64_t best = UINT64_MAX;
	uint64_t per_us;

	for (int i = 0; i < TRIES; i++) {
		uint64_t t = now_ns();

		churn((uint64_t)i, STEPS);
		t = now_ns() - t;
		if (t < best)
			best = t;
	}
	per_us = (uint64_t)STEPS * 1000 / (best ? best : 1);
	return per_us ? per_us : 1;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double percentile(double *samples, size_t n, double p)
{
	size_t i = (size_t)(p / 100 * (double)n);

	if (!n)
		return 0;
	qsort(samples, n, sizeof(*samples), compare);
	return samples[i < n ? i : n - 1];
}

void time_batches(const char *name, void (*fn)(void *, unsigned), void *arg, unsigned batch,
		  double seconds, const char *unit, double ns_per_unit)
{
	double *samples = malloc(MAX_SAMPLES * sizeof(*samples));
	uint64_t start, last, end;
	size_t n = 0;
	char line[80];

	if (!samples)
		die("samples", ENOMEM);
	fn(arg, batch);
	start = last = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while (last < end && n < MAX_SAMPLES) {
		uint64_t t;

		fn(arg, batch);
		t = now_ns();
		samples[n++] = (double)(t - last) / batch / ns_per_unit;
		last = t;
	}
	snprintf(line, sizeof(line), "%s_median", name);
	metric(line, percentile(samples, n, 50), unit, "lower");
	snprintf(line, sizeof(line), "%s_mean", name);
	metric(line, (double)(last - start) / ((double)n * batch) / ns_per_unit, unit, "lower");
	free(samples);
}

void metric(const char *name, double value, const char *unit, const char *better)
{
	printf("METRIC %s %.6g %s %s\n", name, value, unit, better);
	fflush(stdout);
}

unsigned arg_count(int argc, char **argv, int i, unsigned dflt)
{
	char *end;
	unsigned long v;

	if (i >= argc)
		return dflt;
	v = strtoul(argv[i], &end, 10);
	if (*end || v < 1 || v > 100000)
		die(argv[i], EINVAL);
	return (unsigned)v;
}

double arg_seconds(int argc, char **argv, int i, double dflt)
{
	char *end;
	double v;

	if (i >= argc)
		return dflt;
	v = strtod(argv[i], &end);
	if (*end || !(v > 0) || v > 3600)
		die(argv[i], EINVAL);
	return v;
}
