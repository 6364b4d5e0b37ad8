/*
 * rwlock.c - read-write locks.
 */
#include "prog.h"

/* Readers see the two halves equal, writers make them differ for a while. */
static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static volatile long half_a, half_b;
static atomic_int rw_readers, rw_writers;

static void *rw_main(void *arg)
{
	intptr_t me = (intptr_t)arg;

	for (int i = 0; i < 200; i++) {
		struct timespec ts = after(CLOCK_REALTIME, 20 * SEC);
		bool write = (i + me) % 8 == 0;
		int r = -1;

		switch ((i + me) % 3) {
		case 0:
			r = write ? pthread_rwlock_wrlock(&rw) : pthread_rwlock_rdlock(&rw);
			break;
		case 1:
			do
				r = write ? pthread_rwlock_trywrlock(&rw)
					  : pthread_rwlock_tryrdlock(&rw);
			while (r == EBUSY && sched_yield() == 0);
			break;
		case 2:
			r = write ? pthread_rwlock_timedwrlock(&rw, &ts)
				  : pthread_rwlock_timedrdlock(&rw, &ts);
			break;
		}
		CHECK_EQ(r, 0);
		if (write) {
			CHECK_EQ(atomic_fetch_add(&rw_writers, 1), 0);
			CHECK_EQ(atomic_load(&rw_readers), 0);
			half_a++;
			spin(200);
			half_b++;
			atomic_fetch_sub(&rw_writers, 1);
		} else {
			atomic_fetch_add(&rw_readers, 1);
			CHECK_EQ(atomic_load(&rw_writers), 0);
			CHECK_EQ(half_a, half_b);
			spin(100);
			atomic_fetch_sub(&rw_readers, 1);
		}
		CHECK_EQ(pthread_rwlock_unlock(&rw), 0);
	}
	return NULL;
}

static void rw_mix(int kind)
{
	pthread_rwlockattr_t a;
	pthread_t t[16];

	CHECK_EQ(pthread_rwlockattr_init(&a), 0);
	CHECK_EQ(pthread_rwlockattr_setkind_np(&a, kind), 0);
	CHECK_EQ(pthread_rwlock_init(&rw, &a), 0);
	half_a = half_b = 0;
	for (int i = 0; i < 16; i++)
		t[i] = spawn(rw_main, (void *)(intptr_t)i);
	for (int i = 0; i < 16; i++)
		join(t[i]);
	CHECK_EQ(half_a, 16 * 25);
	CHECK_EQ(half_b, 16 * 25);
	CHECK_EQ(pthread_rwlock_destroy(&rw), 0);
}

/* Readers and writers by lock, trylock and timedlock, in the default kind. */
CASE_STRESS(rwlock_mix)
{
	rw_mix(PTHREAD_RWLOCK_PREFER_READER_NP);
}

/* The same when writers come first. */
CASE_STRESS(rwlock_mix_writer)
{
	rw_mix(PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
}

/* Return values of a lock held for reading, for writing, and its timeouts on both clocks. */
static void *rw_ask(void *arg)
{
	pthread_rwlock_t *l = arg;

	for (int i = 0; i < 3; i++) {
		clockid_t clock = i == 1 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
		struct timespec ts, bad = {.tv_sec = 1, .tv_nsec = 1000000000};

		CHECK_EQ(pthread_rwlock_tryrdlock(l), EBUSY);
		CHECK_EQ(pthread_rwlock_trywrlock(l), EBUSY);
		ts = after(clock, 10 * MS);
		CHECK_EQ(i == 2 ? pthread_rwlock_timedrdlock(l, &ts)
				: pthread_rwlock_clockrdlock(l, clock, &ts),
			 ETIMEDOUT);
		CHECK(now(clock) >= ts.tv_sec * SEC + ts.tv_nsec);
		ts = after(clock, 10 * MS);
		CHECK_EQ(i == 2 ? pthread_rwlock_timedwrlock(l, &ts)
				: pthread_rwlock_clockwrlock(l, clock, &ts),
			 ETIMEDOUT);
		CHECK(now(clock) >= ts.tv_sec * SEC + ts.tv_nsec);
		CHECK_EQ(pthread_rwlock_clockrdlock(l, clock, &bad), EINVAL);
		CHECK_EQ(pthread_rwlock_clockwrlock(l, clock, &bad), EINVAL);
		CHECK_EQ(pthread_rwlock_timedrdlock(l, &bad), EINVAL);
		CHECK_EQ(pthread_rwlock_timedwrlock(l, &bad), EINVAL);
		CHECK_EQ(pthread_rwlock_clockrdlock(l, CLOCK_PROCESS_CPUTIME_ID, &ts), EINVAL);
	}
	return NULL;
}

static void *rw_ask_shared(void *arg)
{
	pthread_rwlock_t *l = arg;
	struct timespec ts = after(CLOCK_REALTIME, 10 * MS);

	CHECK_EQ(pthread_rwlock_tryrdlock(l), 0);
	CHECK_EQ(pthread_rwlock_unlock(l), 0);
	CHECK_EQ(pthread_rwlock_rdlock(l), 0);
	CHECK_EQ(pthread_rwlock_unlock(l), 0);
	CHECK_EQ(pthread_rwlock_trywrlock(l), EBUSY);
	CHECK_EQ(pthread_rwlock_timedwrlock(l, &ts), ETIMEDOUT);
	CHECK(now(CLOCK_REALTIME) >= ts.tv_sec * SEC + ts.tv_nsec);
	return NULL;
}

CASE(rwlock_results)
{
	pthread_rwlock_t l = PTHREAD_RWLOCK_INITIALIZER;

	CHECK_EQ(pthread_rwlock_wrlock(&l), 0);
	CHECK_EQ(pthread_rwlock_wrlock(&l), EDEADLK);
	CHECK_EQ(pthread_rwlock_rdlock(&l), EDEADLK);
	join(spawn(rw_ask, &l));
	CHECK_EQ(pthread_rwlock_unlock(&l), 0);
	CHECK_EQ(pthread_rwlock_rdlock(&l), 0);
	CHECK_EQ(pthread_rwlock_rdlock(&l), 0);
	join(spawn(rw_ask_shared, &l));
	CHECK_EQ(pthread_rwlock_unlock(&l), 0);
	CHECK_EQ(pthread_rwlock_unlock(&l), 0);
	CHECK_EQ(pthread_rwlock_trywrlock(&l), 0);
	CHECK_EQ(pthread_rwlock_unlock(&l), 0);
	CHECK_EQ(pthread_rwlock_destroy(&l), 0);
}

/* A lock that prefers writers: readers that overlap without end (each holds it until the next one has it, or
 * cannot get it) do not keep a writer out. */
static atomic_int rw_holders, rw_turn, rw_done, rw_writer_ready;

static void *rw_stream(void *arg)
{
	(void)arg;
	while (!atomic_load(&rw_done)) {
		CHECK_EQ(pthread_rwlock_rdlock(&rw), 0);
		int mine = atomic_fetch_add(&rw_turn, 1);
		long long end = now(CLOCK_MONOTONIC) + 300 * MS;

		while (atomic_load(&rw_turn) == mine + 1 && now(CLOCK_MONOTONIC) < end)
			sleep_ns(100000);
		CHECK_EQ(pthread_rwlock_unlock(&rw), 0);
	}
	return NULL;
}

CASE_STRESS(rwlock_writer_gets_in)
{
	pthread_rwlockattr_t a;
	pthread_t t[4];

	CHECK_EQ(pthread_rwlockattr_init(&a), 0);
	CHECK_EQ(pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP),
		 0);
	CHECK_EQ(pthread_rwlock_init(&rw, &a), 0);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(rw_stream, NULL);
	for (int i = 0; i < 2; i++) {
		int turn = atomic_load(&rw_turn);
		struct timespec ts = after(CLOCK_REALTIME, 3 * SEC);

		while (atomic_load(&rw_turn) < turn + 10)
			sleep_ns(MS);
		CHECK_EQ(i ? pthread_rwlock_wrlock(&rw) : pthread_rwlock_timedwrlock(&rw, &ts), 0);
		CHECK_EQ(pthread_rwlock_unlock(&rw), 0);
	}
	atomic_store(&rw_done, 1);
	for (int i = 0; i < 4; i++)
		join(t[i]);
}

/* A writer that gives up lets the readers in that waited behind it. */
static void *rw_gives_up(void *arg)
{
	struct timespec ts = after(CLOCK_REALTIME, 50 * MS);

	atomic_store(&rw_writer_ready, 1);
	CHECK_EQ(pthread_rwlock_timedwrlock(&rw, &ts), ETIMEDOUT);
	return arg;
}

static void *rw_reads(void *arg)
{
	CHECK_EQ(pthread_rwlock_rdlock(&rw), 0);
	atomic_fetch_add(&rw_holders, 1);
	CHECK_EQ(pthread_rwlock_unlock(&rw), 0);
	return arg;
}

CASE_STRESS(rwlock_writer_gives_up)
{
	pthread_rwlockattr_t a;
	pthread_t w, t[4];

	CHECK_EQ(pthread_rwlockattr_init(&a), 0);
	CHECK_EQ(pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP),
		 0);
	CHECK_EQ(pthread_rwlock_init(&rw, &a), 0);
	CHECK_EQ(pthread_rwlock_rdlock(&rw), 0);
	w = spawn(rw_gives_up, NULL);
	AWAIT(&rw_writer_ready, 1);
	sleep_ns(5 * MS);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(rw_reads, NULL);
	join(w);
	AWAIT(&rw_holders, 4); /* while we hold it still */
	CHECK_EQ(pthread_rwlock_unlock(&rw), 0);
	for (int i = 0; i < 4; i++)
		join(t[i]);
}

/* The default kind prefers readers: who holds it for reading may lock it once more while a writer waits. */
static void *rw_waits(void *arg)
{
	atomic_store(&rw_writer_ready, 1);
	CHECK_EQ(pthread_rwlock_wrlock(&rw), 0);
	CHECK_EQ(atomic_load(&rw_done), 1);
	CHECK_EQ(pthread_rwlock_unlock(&rw), 0);
	return arg;
}

CASE_STRESS(rwlock_recursive_read)
{
	pthread_t w;

	CHECK_EQ(pthread_rwlock_rdlock(&rw), 0);
	w = spawn(rw_waits, NULL);
	AWAIT(&rw_writer_ready, 1);
	sleep_ns(20 * MS);
	for (int i = 0; i < 100; i++)
		CHECK_EQ(i & 1 ? pthread_rwlock_rdlock(&rw) : pthread_rwlock_tryrdlock(&rw), 0);
	for (int i = 0; i < 100; i++)
		CHECK_EQ(pthread_rwlock_unlock(&rw), 0);
	atomic_store(&rw_done, 1);
	CHECK_EQ(pthread_rwlock_unlock(&rw), 0);
	join(w);
}
