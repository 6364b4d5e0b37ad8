/*
 * timed.c - waits with a deadline: not early, hardly late, and nothing is waited for that has passed.
 */
#include "prog.h"

/* Deadlines in this second and the next are kept to: never early, and not by a second late. What
 * a busy machine makes late once is tried again. */
static pthread_mutex_t across_lock = PTHREAD_MUTEX_INITIALIZER;
static sem_t across_sem;

/* A sleep tells how late the machine is: on a loaded one everybody is. */
enum across_kind { ACROSS_MUTEX, ACROSS_SEM, ACROSS_SLEEP };

struct across {
	int ms;
	enum across_kind kind;
	long long late;
};

static void *across_main(void *arg)
{
	struct across *a = arg;
	struct timespec ts = after(CLOCK_REALTIME, a->ms * MS);

	switch (a->kind) {
	case ACROSS_MUTEX:
		CHECK_EQ(pthread_mutex_timedlock(&across_lock, &ts), ETIMEDOUT);
		break;
	case ACROSS_SEM:
		CHECK_ERRNO(sem_timedwait(&across_sem, &ts), ETIMEDOUT);
		break;
	case ACROSS_SLEEP:
		CHECK_EQ(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &ts, NULL), 0);
		break;
	}
	a->late = now(CLOCK_REALTIME) - (ts.tv_sec * SEC + ts.tv_nsec);
	CHECK(a->late >= 0);
	return NULL;
}

CASE(timed_across_second)
{
	struct across a[] = {
		{300, ACROSS_MUTEX, 0},	 {300, ACROSS_SEM, 0},	  {300, ACROSS_SLEEP, 0},
		{550, ACROSS_MUTEX, 0},	 {550, ACROSS_SEM, 0},	  {550, ACROSS_SLEEP, 0},
		{800, ACROSS_MUTEX, 0},	 {800, ACROSS_SEM, 0},	  {800, ACROSS_SLEEP, 0},
		{1050, ACROSS_MUTEX, 0}, {1050, ACROSS_SEM, 0},	  {1050, ACROSS_SLEEP, 0},
		{999, ACROSS_MUTEX, 0},	 {999, ACROSS_SLEEP, 0},  {1300, ACROSS_MUTEX, 0},
		{1300, ACROSS_SEM, 0},	 {1300, ACROSS_SLEEP, 0},
	};
	pthread_t t[ARRAY_SIZE(a)];
	long long late = 0, machine = 0;

	CHECK_EQ(sem_init(&across_sem, 0, 0), 0);
	CHECK_EQ(pthread_mutex_lock(&across_lock), 0);
	for (int k = 0; k < 3; k++) {
		late = machine = 0;
		for (size_t i = 0; i < ARRAY_SIZE(a); i++)
			t[i] = spawn(across_main, &a[i]);
		for (size_t i = 0; i < ARRAY_SIZE(a); i++) {
			long long *worst = a[i].kind == ACROSS_SLEEP ? &machine : &late;

			join(t[i]);
			if (a[i].late > *worst)
				*worst = a[i].late;
		}
		if (late <= machine + 60 * MS)
			return;
	}
	CHECK(late <= machine + 60 * MS);
}

/* A deadline before 1970 has passed: nobody waits for it, and cond_timedwait has its mutex again.
 * What is free is still taken. */
static void *before_1970_main(void *arg)
{
	static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	static pthread_mutex_t mine = PTHREAD_MUTEX_INITIALIZER, other = PTHREAD_MUTEX_INITIALIZER;
	struct timespec ts = {.tv_sec = -5, .tv_nsec = 999999999};

	for (int i = 0; i < 20; i++) {
		CHECK_EQ(pthread_mutex_lock(&mine), 0);
		CHECK_EQ(pthread_cond_timedwait(&cond, &mine, &ts), ETIMEDOUT);
		CHECK_EQ(pthread_cond_clockwait(&cond, &mine, CLOCK_MONOTONIC, &ts), ETIMEDOUT);
		CHECK_EQ(pthread_mutex_trylock(&mine), EBUSY);
		CHECK_EQ(pthread_mutex_unlock(&mine), 0);
		CHECK_EQ(pthread_mutex_timedlock(&across_lock, &ts), ETIMEDOUT);
		CHECK_EQ(pthread_mutex_clocklock(&across_lock, CLOCK_MONOTONIC, &ts), ETIMEDOUT);
		CHECK_EQ(pthread_mutex_timedlock(&other, &ts), 0);
		CHECK_EQ(pthread_mutex_unlock(&other), 0);
		CHECK_ERRNO(sem_timedwait(&across_sem, &ts), ETIMEDOUT);
		CHECK_ERRNO(sem_clockwait(&across_sem, CLOCK_MONOTONIC, &ts), ETIMEDOUT);
		CHECK_EQ(sem_post(&across_sem), 0);
		CHECK_EQ(sem_timedwait(&across_sem, &ts), 0);
	}
	return arg;
}

CASE(deadline_before_1970)
{
	CHECK_EQ(sem_init(&across_sem, 0, 0), 0);
	CHECK_EQ(pthread_mutex_lock(&across_lock), 0);
	join(spawn(before_1970_main, NULL));
	CHECK_EQ(pthread_mutex_unlock(&across_lock), 0);
}

/* A wait that times out among busy threads comes back as soon as a sleep does: it needs no turn of its own.
 * Medians of waits and sleeps in turn, for a loaded machine is late with both. */
enum { TIMED_COND, TIMED_SEM, TIMED_MUTEX, TIMED_SLEEP, TIMED_KINDS, TIMED_ROUNDS = 11 };

static int by_value(const void *a, const void *b)
{
	long long x = *(const long long *)a, y = *(const long long *)b;

	return x < y ? -1 : x > y;
}

static long long late_by(int kind)
{
	static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	static pthread_mutex_t mine = PTHREAD_MUTEX_INITIALIZER;
	long long end = now(CLOCK_REALTIME) + 2 * MS;
	struct timespec ts = {end / SEC, end % SEC};

	switch (kind) {
	case TIMED_COND:
		CHECK_EQ(pthread_mutex_lock(&mine), 0);
		CHECK_EQ(pthread_cond_timedwait(&cond, &mine, &ts), ETIMEDOUT);
		CHECK_EQ(pthread_mutex_unlock(&mine), 0);
		break;
	case TIMED_SEM:
		CHECK_ERRNO(sem_timedwait(&across_sem, &ts), ETIMEDOUT);
		break;
	case TIMED_MUTEX:
		CHECK_EQ(pthread_mutex_timedlock(&across_lock, &ts), ETIMEDOUT);
		break;
	case TIMED_SLEEP:
		CHECK_EQ(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &ts, NULL), 0);
		break;
	}
	return now(CLOCK_REALTIME) - end;
}

static void *timed_main(void *arg)
{
	static long long late[TIMED_KINDS][TIMED_ROUNDS];
	long long median[TIMED_KINDS];
	bool good = false;

	for (int try = 0; !good && try < 3; try++) {
		for (int i = 0; i < TIMED_ROUNDS; i++)
			for (int k = 0; k < TIMED_KINDS; k++)
				late[k][i] = late_by(k);
		good = true;
		for (int k = 0; k < TIMED_KINDS; k++) {
			qsort(late[k], TIMED_ROUNDS, sizeof(late[k][0]), by_value);
			median[k] = late[k][TIMED_ROUNDS / 2];
		}
		for (int k = 0; k < TIMED_SLEEP; k++)
			good &= median[k] <= median[TIMED_SLEEP] + MS;
	}
	if (!good)
		fail(__FILE__, __LINE__,
		     "late by %lld (cond), %lld (sem), %lld (mutex), %lld ns (sleep)",
		     median[TIMED_COND], median[TIMED_SEM], median[TIMED_MUTEX],
		     median[TIMED_SLEEP]);
	return arg;
}

CASE(timed_among_busy)
{
	CHECK_EQ(sem_init(&across_sem, 0, 0), 0);
	CHECK_EQ(pthread_mutex_lock(&across_lock), 0);
	hogs_start(6);
	join(spawn(timed_main, NULL));
	hogs_stop();
}
