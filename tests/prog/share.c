/*
 * share.c - what each gets: of the CPUs, of a mutex; and that many threads cost the others nothing.
 */
#include "prog.h"

#include <sys/prctl.h>

/* Busy threads get on alike: after at least the given time, none has got more than ratio times what another got. */
static void share(int threads, long long least, long ratio)
{
	long long start = now(CLOCK_MONOTONIC), t;
	long min = 0, max = 0;
	bool good = false;

	hogs_start(threads);
	while (!good && (t = now(CLOCK_MONOTONIC)) < start + 20 * SEC) {
		sleep_ns(20 * MS);
		min = LONG_MAX;
		max = 0;
		for (int i = 0; i < threads; i++) {
			long w = hogs_work(i);

			min = w < min ? w : min;
			max = w > max ? w : max;
		}
		/* Plain, a thread may be one 4 ms slice ahead: only the longer run tells. */
		good = t >= start + least && min > 0 && max <= ratio * min;
	}
	hogs_stop();
	if (!good && now(CLOCK_PROCESS_CPUTIME_ID) < 5 * SEC)
		skip("the machine has no time for it");
	if (!good)
		fail(__FILE__, __LINE__, "least work %ld, most %ld", min, max);
}

CASE(fair_64_busy)
{
	share(64, 0, 20);
}

/* Nobody has a CPU to himself while the others share one. */
CASE(fair_8_busy)
{
	share(8, SEC, 2);
}

/* Threads of two names work for two seconds; settings.py gives the names weights. All get on. */
static atomic_long named_work[4];
static atomic_bool named_end;

static void *named(void *arg)
{
	int i = (int)(intptr_t)arg;

	pthread_setname_np(pthread_self(), i % 2 ? "heavy" : "light");
	while (!atomic_load(&named_end))
		atomic_fetch_add(&named_work[i], 1);
	return NULL;
}

CASE(named_shares)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		t[i] = spawn(named, (void *)(intptr_t)i);
	sleep_ns(2 * SEC);
	atomic_store(&named_end, true);
	for (int i = 0; i < 4; i++) {
		join(t[i]);
		CHECK(atomic_load(&named_work[i]) > 0);
	}
}

/*
 * Two threads want a mutex all the time, one for ten times as long as the other; both get it. PROGS_RATIO: at most so many times
 * longer has it been held by the one than by the other, in the best of some tries: a machine with other work disturbs.
 */
static pthread_mutex_t uneven_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool uneven_end;
static atomic_long uneven_held[2];

static void *uneven_main(void *arg)
{
	int i = (int)(intptr_t)arg;
	long steps = i ? 20000 : 2000;

	while (!atomic_load(&uneven_end)) {
		CHECK_EQ(pthread_mutex_lock(&uneven_lock), 0);
		for (volatile long k = 0; k < steps; k++)
			;
		atomic_fetch_add(&uneven_held[i], steps);
		CHECK_EQ(pthread_mutex_unlock(&uneven_lock), 0);
	}
	return NULL;
}

CASE_STRESS(mutex_uneven)
{
	const char *s = getenv("PROGS_RATIO");
	double most = s ? atof(s) : 0, best = 1e9;
	pthread_t t[2];
	long had[2];

	for (int i = 0; i < 2; i++)
		t[i] = spawn(uneven_main, (void *)(intptr_t)i);
	for (int k = 0; k < (s ? 10 : 1) && best > most; k++) {
		double a, b;

		for (int i = 0; i < 2; i++)
			had[i] = atomic_load(&uneven_held[i]);
		sleep_ns((s ? 500 : 20) * MS);
		a = (double)(atomic_load(&uneven_held[0]) - had[0] + 1);
		b = (double)(atomic_load(&uneven_held[1]) - had[1] + 1);
		best = b / a < best ? b / a : best;
	}
	/* Both, if it takes time: unshared, the one may be passed over again and again. */
	while (!atomic_load(&uneven_held[0]) || !atomic_load(&uneven_held[1]))
		sleep_ns(MS);
	atomic_store(&uneven_end, true);
	join(t[0]);
	join(t[1]);
	if (s && best > most)
		fail(__FILE__, __LINE__, "held %.1f times as long", best);
}

/*
 * With many threads asleep, the kernel's table of the process's futexes grows with them, where it has one (Linux 6.16):
 * else each wake-up walks through hundreds.
 */
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t slots_cond = PTHREAD_COND_INITIALIZER;
static bool slots_end;

static void *slots_wait(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_mutex_lock(&slots_lock), 0);
	while (!slots_end)
		CHECK_EQ(pthread_cond_wait(&slots_cond, &slots_lock), 0);
	CHECK_EQ(pthread_mutex_unlock(&slots_lock), 0);
	return NULL;
}

CASE(futex_slots)
{
	enum { WAITING = 300 };
	pthread_t t[WAITING];
	int slots = 0;

	for (int i = 0; i < WAITING; i++)
		t[i] = spawn(slots_wait, NULL);
	hogs_start(8);
	if (getenv("LD_PRELOAD") && prctl(78 /* PR_FUTEX_HASH */, 2 /* its size */, 0, 0, 0) >= 0) {
		for (int i = 0; i < 2000 && slots < WAITING; i++) {
			sleep_ns(10 * MS);
			slots = prctl(78, 2, 0, 0, 0);
		}
		CHECK(slots >= WAITING);
	}
	hogs_stop();
	CHECK_EQ(pthread_mutex_lock(&slots_lock), 0);
	slots_end = true;
	CHECK_EQ(pthread_cond_broadcast(&slots_cond), 0);
	CHECK_EQ(pthread_mutex_unlock(&slots_lock), 0);
	for (int i = 0; i < WAITING; i++)
		join(t[i]);
}
