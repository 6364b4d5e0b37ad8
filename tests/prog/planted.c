// planted.c: programs with a race each, for chaos.py: planted CASE ROUNDS. Prints what happened in each round that
// went wrong, and "OK"; one with a deadlock does not end.

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t a = PTHREAD_MUTEX_INITIALIZER, b = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int x, ready;

// Who did what, in order.
static char steps[4096];
static int nsteps;

static void step(char c)
{
	int i = __atomic_fetch_add(&nsteps, 1, __ATOMIC_RELAXED);

	if (i < (int)sizeof steps - 1)
		steps[i] = c;
}

// An update in two sections.
static void *lost(void *arg)
{
	int v;

	(void)arg;
	pthread_mutex_lock(&a);
	v = x;
	pthread_mutex_unlock(&a);
	pthread_mutex_lock(&a);
	x = v + 1;
	pthread_mutex_unlock(&a);
	return NULL;
}

static void *abba(void *arg)
{
	pthread_mutex_t *first = arg ? &a : &b, *second = arg ? &b : &a;

	pthread_mutex_lock(first);
	pthread_mutex_lock(second);
	x++;
	pthread_mutex_unlock(second);
	pthread_mutex_unlock(first);
	return NULL;
}

// The predicate is looked at before the lock is taken, and not again.
static void *cond_lost(void *arg)
{
	if (arg) {
		bool seen = __atomic_load_n(&ready, __ATOMIC_RELAXED);

		pthread_mutex_lock(&a);
		if (!seen)
			pthread_cond_wait(&cond, &a);
		pthread_mutex_unlock(&a);
	} else {
		pthread_mutex_lock(&a);
		__atomic_store_n(&ready, 1, __ATOMIC_RELAXED);
		pthread_cond_signal(&cond);
		pthread_mutex_unlock(&a);
	}
	x++;
	return NULL;
}

// No race, but its order is that of the schedule.
static void *order(void *arg)
{
	char name = *(const char *)arg;

	for (int i = 0; i < 40; i++) {
		pthread_mutex_lock(i % 3 ? &a : &b);
		step(name);
		pthread_mutex_unlock(i % 3 ? &a : &b);
		if (i % 8 == 7) {
			pthread_mutex_lock(&a);
			ready++;
			pthread_cond_broadcast(&cond);
			while (ready < (i / 8 + 1) * 4)
				pthread_cond_wait(&cond, &a);
			step((char)(name - 'a' + 'A'));
			pthread_mutex_unlock(&a);
		}
	}
	return NULL;
}

static bool enough;

static void *hog(void *arg)
{
	(void)arg;
	while (!__atomic_load_n(&enough, __ATOMIC_RELAXED))
		;
	return NULL;
}

static long cpu_time(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void busy(long ns)
{
	struct timespec t;
	long end;

	clock_gettime(CLOCK_MONOTONIC, &t);
	end = t.tv_sec * 1000000000 + t.tv_nsec + ns;
	do
		clock_gettime(CLOCK_MONOTONIC, &t);
	while (t.tv_sec * 1000000000 + t.tv_nsec < end);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void *(*fn)(void *);
		int want;
	} cases[] = {{"lost", lost, 2}, {"abba", abba, 2}, {"cond", cond_lost, 2}};
	int rounds = argc > 2 ? atoi(argv[2]) : 1, wrong = 0;

	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "order")) {
		pthread_t t[4];

		for (int i = 0; i < 4; i++)
			pthread_create(&t[i], NULL, order, &"abcd"[i]);
		for (int i = 0; i < 4; i++)
			pthread_join(t[i], NULL);
		puts(steps);
		return 0;
	}
	if (!strcmp(argv[1], "hogs") && argc > 2) {
		struct timespec ms = {0, 1000000};
		long most = 0;
		pthread_t t[8];

		for (int i = 0; i < 8; i++)
			pthread_create(&t[i], NULL, hog, NULL);
		// In CPU time of all, so a busy machine is no matter. At first each is let run for longer.
		for (int i = 0; i < atoi(argv[2]); i++) {
			long before = cpu_time(), took;

			nanosleep(&ms, NULL);
			took = cpu_time() - before;
			if (i >= 20 && took > most)
				most = took;
		}
		__atomic_store_n(&enough, true, __ATOMIC_RELAXED);
		for (int i = 0; i < 8; i++)
			pthread_join(t[i], NULL);
		printf("%ld\n", most / 1000000);
		return 0;
	}
	for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
		if (strcmp(argv[1], cases[c].name))
			continue;
		for (int i = 0; i < rounds; i++) {
			pthread_t t, u;

			x = ready = 0;
			pthread_create(&t, NULL, cases[c].fn, argv);
			busy(200000); // as a program has other things to do
			pthread_create(&u, NULL, cases[c].fn, NULL);
			pthread_join(t, NULL);
			pthread_join(u, NULL);
			wrong += x != cases[c].want;
		}
		printf("%d wrong\n", wrong);
		return wrong != 0;
	}
	return 2;
}
