/*
 * rwsync.c - spin locks, barriers, semaphores and once.
 */
#include "prog.h"

#include <fcntl.h>
#include <sys/mman.h>

/* 64 threads count under a spin lock. */
static pthread_spinlock_t spin_lock;
static long spin_count;

static void *spin_main(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++) {
		CHECK_EQ(pthread_spin_lock(&spin_lock), 0);
		long v = spin_count;

		spin(20);
		spin_count = v + 1;
		CHECK_EQ(pthread_spin_unlock(&spin_lock), 0);
	}
	return NULL;
}

CASE_STRESS(spin_64)
{
	pthread_t t[64];

	CHECK_EQ(pthread_spin_init(&spin_lock, PTHREAD_PROCESS_PRIVATE), 0);
	for (int i = 0; i < 64; i++)
		t[i] = spawn(spin_main, NULL);
	for (int i = 0; i < 64; i++)
		join(t[i]);
	CHECK_EQ(spin_count, 12800);
	CHECK_EQ(pthread_spin_trylock(&spin_lock), 0);
	CHECK_EQ(pthread_spin_trylock(&spin_lock), EBUSY);
	CHECK_EQ(pthread_spin_unlock(&spin_lock), 0);
	CHECK_EQ(pthread_spin_destroy(&spin_lock), 0);
}

/* A spin lock whose owner sleeps. */
static void *spin_sleeper(void *arg)
{
	CHECK_EQ(pthread_spin_lock(&spin_lock), 0);
	sleep_ns(2 * MS);
	spin_count++;
	CHECK_EQ(pthread_spin_unlock(&spin_lock), 0);
	return arg;
}

CASE_STRESS(spin_owner_sleeps)
{
	pthread_t t[8];

	CHECK_EQ(pthread_spin_init(&spin_lock, PTHREAD_PROCESS_PRIVATE), 0);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(spin_sleeper, NULL);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	CHECK_EQ(spin_count, 8);
}

/* A barrier lets 16 threads through together, 200 rounds, with one serial thread in each. */
static pthread_barrier_t bar;
static atomic_int bar_serial, bar_in[200];

static void *bar_main(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++) {
		atomic_fetch_add(&bar_in[i], 1);
		int r = pthread_barrier_wait(&bar);

		CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
		CHECK_EQ(atomic_load(&bar_in[i]), 16);
		if (r)
			atomic_fetch_add(&bar_serial, 1);
	}
	return NULL;
}

CASE_STRESS(barrier_16)
{
	pthread_t t[16];

	CHECK_EQ(pthread_barrier_init(&bar, NULL, 0), EINVAL);
	CHECK_EQ(pthread_barrier_init(&bar, NULL, 16), 0);
	for (int i = 0; i < 16; i++)
		t[i] = spawn(bar_main, NULL);
	for (int i = 0; i < 16; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&bar_serial), 200);
	CHECK_EQ(pthread_barrier_destroy(&bar), 0);
}

/* The serial thread may destroy the barrier, and reuse its memory, at once. */
static void *bar_destroy_main(void *arg)
{
	pthread_barrier_t *b = arg;

	if (pthread_barrier_wait(b) == PTHREAD_BARRIER_SERIAL_THREAD) {
		CHECK_EQ(pthread_barrier_destroy(b), 0);
		memset(b, 0xa5, sizeof(*b));
	}
	return NULL;
}

CASE_STRESS(barrier_destroy)
{
	for (int k = 0; k < 100; k++) {
		pthread_barrier_t b;
		pthread_t t[4];

		CHECK_EQ(pthread_barrier_init(&b, NULL, 4), 0);
		for (int i = 0; i < 4; i++)
			t[i] = spawn(bar_destroy_main, &b);
		for (int i = 0; i < 4; i++)
			join(t[i]);
	}
}

/* A semaphore as a mutex, and another as a count of items. */
static sem_t s_mutex, s_items;
static long s_count;

static void *sem_main(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++) {
		CHECK_EQ(sem_wait(&s_mutex), 0);
		long v = s_count;

		spin(20);
		s_count = v + 1;
		CHECK_EQ(sem_post(&s_mutex), 0);
		CHECK_EQ(sem_post(&s_items), 0);
	}
	return NULL;
}

CASE_STRESS(sem_mutex)
{
	pthread_t t[32];
	int v;

	CHECK_EQ(sem_init(&s_mutex, 0, 1), 0);
	CHECK_EQ(sem_init(&s_items, 0, 0), 0);
	for (int i = 0; i < 32; i++)
		t[i] = spawn(sem_main, NULL);
	for (int i = 0; i < 6400; i++)
		CHECK_EQ(sem_wait(&s_items), 0);
	for (int i = 0; i < 32; i++)
		join(t[i]);
	CHECK_EQ(s_count, 6400);
	CHECK_EQ(sem_getvalue(&s_items, &v), 0);
	CHECK_EQ(v, 0);
	CHECK_ERRNO(sem_trywait(&s_items), EAGAIN);
	CHECK_EQ(sem_destroy(&s_items), 0);
}

/* Two threads take turns by two semaphores. */
static sem_t pp[2];

static void *pp_main(void *arg)
{
	intptr_t me = (intptr_t)arg;

	for (int i = 0; i < 2000; i++) {
		CHECK_EQ(sem_wait(&pp[me]), 0);
		CHECK_EQ(sem_post(&pp[!me]), 0);
	}
	return NULL;
}

CASE_STRESS(sem_ping_pong)
{
	pthread_t a, b;

	CHECK_EQ(sem_init(&pp[0], 0, 1), 0);
	CHECK_EQ(sem_init(&pp[1], 0, 0), 0);
	a = spawn(pp_main, (void *)0);
	b = spawn(pp_main, (void *)1);
	join(a);
	join(b);
}

/* timedwait and clockwait: exact, ETIMEDOUT and EINVAL through errno. */
static void *sem_timed_main(void *arg)
{
	sem_t s;
	struct timespec ts, bad = {.tv_sec = 1, .tv_nsec = 1000000000};
	const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC};

	(void)arg;
	CHECK_EQ(sem_init(&s, 0, 0), 0);
	for (int i = 0; i < 3; i++) {
		clockid_t clock = clocks[i & 1];
		long long late = LLONG_MAX;

		for (int k = 0; k < 10 && late >= 50 * MS; k++) {
			ts = after(clock, 10 * MS);
			CHECK_ERRNO(i == 2 ? sem_timedwait(&s, &ts) : sem_clockwait(&s, clock, &ts),
				    ETIMEDOUT);
			long long d = now(clock) - (ts.tv_sec * SEC + ts.tv_nsec);

			CHECK(d >= 0);
			late = d < late ? d : late;
		}
		CHECK(late < 50 * MS);
	}
	CHECK_ERRNO(sem_timedwait(&s, &bad), EINVAL);
	CHECK_ERRNO(sem_clockwait(&s, CLOCK_MONOTONIC, &bad), EINVAL);
	CHECK_ERRNO(sem_clockwait(&s, CLOCK_PROCESS_CPUTIME_ID, &ts), EINVAL);
	CHECK_EQ(sem_post(&s), 0);
	ts = (struct timespec){0, 0};
	CHECK_EQ(sem_timedwait(&s, &ts), 0);
	CHECK_ERRNO(sem_timedwait(&s, &ts), ETIMEDOUT);
	return NULL;
}

CASE(sem_timed)
{
	sem_timed_main(NULL);
	join(spawn(sem_timed_main, NULL));
}

/* sem_post from a signal handler, at any moment, wakes the waiter. */
static sem_t h_sem;

static void h_post(int sig)
{
	(void)sig;
	CHECK_EQ(sem_post(&h_sem), 0);
}

static void *h_main(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++)
		while (sem_wait(&h_sem))
			CHECK_EQ(errno, EINTR);
	return NULL;
}

CASE_STRESS(sem_post_handler)
{
	struct sigaction sa = {.sa_handler = h_post};
	pthread_t t;

	CHECK_EQ(sem_init(&h_sem, 0, 0), 0);
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	t = spawn(h_main, NULL);
	for (int i = 0; i < 200; i++)
		CHECK_EQ(raise(SIGUSR1), 0);
	join(t);
}

/* The waiter may destroy the semaphore as soon as it is through. */
static void *sem_destroy_main(void *arg)
{
	CHECK_EQ(sem_post(arg), 0);
	return NULL;
}

CASE_STRESS(sem_destroy_after_wait)
{
	pthread_t t[200];

	for (int i = 0; i < 200; i++) {
		sem_t s;

		CHECK_EQ(sem_init(&s, 0, 0), 0);
		t[i] = spawn_small(sem_destroy_main, &s);
		CHECK_EQ(sem_wait(&s), 0);
		CHECK_EQ(sem_destroy(&s), 0);
		/* glibc's post may still wake the dead word; it must not read it as a count. */
		join(t[i]);
	}
}

/* A process-shared semaphore across fork, with threads busy in the parent. */
CASE_STRESS(sem_pshared)
{
	sem_t *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	CHECK(s != MAP_FAILED);
	CHECK_EQ(sem_init(&s[0], 1, 0), 0);
	CHECK_EQ(sem_init(&s[1], 1, 0), 0);
	hogs_start(2);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		watchdog();
		for (int i = 0; i < 20; i++) {
			CHECK_EQ(sem_wait(&s[0]), 0);
			CHECK_EQ(sem_post(&s[1]), 0);
		}
		_exit(0);
	}
	for (int i = 0; i < 20; i++) {
		CHECK_EQ(sem_post(&s[0]), 0);
		CHECK_EQ(sem_wait(&s[1]), 0);
	}
	CHECK_EQ(wait_child(pid), 0);
	hogs_stop();
}

/* A named semaphore, opened twice. */
static void *named_main(void *arg)
{
	for (int i = 0; i < 100; i++)
		CHECK_EQ(sem_post(arg), 0);
	return NULL;
}

CASE(sem_named)
{
	char name[64];
	sem_t *a, *b;
	pthread_t t;

	snprintf(name, sizeof(name), "/progs-%d", (int)getpid());
	a = sem_open(name, O_CREAT | O_EXCL, 0600, 0);
	CHECK(a != SEM_FAILED);
	b = sem_open(name, 0);
	CHECK(b != SEM_FAILED);
	CHECK_EQ(sem_unlink(name), 0);
	t = spawn(named_main, a);
	for (int i = 0; i < 100; i++)
		CHECK_EQ(sem_wait(b), 0);
	join(t);
	CHECK_EQ(sem_close(a), 0);
	CHECK(sem_open(name, 0) == SEM_FAILED && errno == ENOENT);
}

/* A cancelled sem_wait does not eat a post. */
static void *sem_cancel_main(void *arg)
{
	sem_wait(arg);
	return NULL;
}

CASE_STRESS(sem_cancel)
{
	for (int i = 0; i < 100; i++) {
		pthread_t t;
		sem_t s;
		int v;
		bool cancelled;

		CHECK_EQ(sem_init(&s, 0, 0), 0);
		t = spawn(sem_cancel_main, &s);
		if (i & 1)
			sched_yield();
		CHECK_EQ(pthread_cancel(t), 0);
		CHECK_EQ(sem_post(&s), 0);
		cancelled = join(t) == PTHREAD_CANCELED;
		CHECK_EQ(sem_getvalue(&s, &v), 0);
		CHECK_EQ(v, cancelled);
	}
}

/* 32 racers, one runs the initialiser, and all see its result. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_n, once_value;
static pthread_barrier_t once_bar;

static void once_init(void)
{
	once_n++;
	sleep_ns(5 * MS);
	once_value = 42;
}

static void *once_main(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&once_bar);
	CHECK_EQ(pthread_once(&once, once_init), 0);
	CHECK_EQ(once_value, 42);
	return NULL;
}

CASE_STRESS(once_32)
{
	pthread_t t[32];

	CHECK_EQ(pthread_barrier_init(&once_bar, NULL, 32), 0);
	for (int i = 0; i < 32; i++)
		t[i] = spawn(once_main, NULL);
	for (int i = 0; i < 32; i++)
		join(t[i]);
	CHECK_EQ(once_n, 1);
}

/* An initialiser that needs another thread's help, which calls a once of its own. */
static pthread_once_t outer = PTHREAD_ONCE_INIT, inner = PTHREAD_ONCE_INIT;

static void *inner_main(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_once(&inner, once_init), 0);
	return NULL;
}

static void outer_init(void)
{
	join(spawn(inner_main, NULL));
}

static void *outer_main(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_once(&outer, outer_init), 0);
	CHECK_EQ(once_n, 1);
	return NULL;
}

CASE_STRESS(once_nested)
{
	pthread_t t[8];

	for (int i = 0; i < 8; i++)
		t[i] = spawn(outer_main, NULL);
	for (int i = 0; i < 8; i++)
		join(t[i]);
}

/* An initialiser that is cancelled leaves the work to the next caller. */
static pthread_once_t again = PTHREAD_ONCE_INIT;
static atomic_int again_n;

static void again_init(void)
{
	if (atomic_fetch_add(&again_n, 1) == 0)
		for (;;)
			sleep(1);
}

static void *again_main(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_once(&again, again_init), 0);
	return NULL;
}

CASE_STRESS(once_cancel)
{
	pthread_t a = spawn(again_main, NULL), b;

	AWAIT(&again_n, 1);
	b = spawn(again_main, NULL);
	sleep_ns(MS);
	CHECK_EQ(pthread_cancel(a), 0);
	CHECK(join(a) == PTHREAD_CANCELED);
	CHECK(join(b) == NULL);
	CHECK_EQ(atomic_load(&again_n), 2);
}

/* A barrier of 2 that 4 or 6 threads share: each wait pairs with one other, whoever comes, and one
 * of the two is serial. The waits are taken from a common even number, so that no thread is left
 * without a partner. */
static atomic_int many_left, many_serial, many_waits;

static void *many_main(void *arg)
{
	while (atomic_fetch_sub(&many_left, 1) > 0) {
		int r = pthread_barrier_wait(&bar);

		CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
		atomic_fetch_add(&many_waits, 1);
		if (r)
			atomic_fetch_add(&many_serial, 1);
	}
	return arg;
}

CASE_STRESS(barrier_many)
{
	pthread_t t[6];

	for (int n = 4; n <= 6; n += 2) {
		CHECK_EQ(pthread_barrier_init(&bar, NULL, 2), 0);
		atomic_store(&many_left, 200 * n);
		atomic_store(&many_serial, 0);
		atomic_store(&many_waits, 0);
		for (int i = 0; i < n; i++)
			t[i] = spawn(many_main, NULL);
		for (int i = 0; i < n; i++)
			join(t[i]);
		CHECK_EQ(atomic_load(&many_waits), 200 * n);
		CHECK_EQ(atomic_load(&many_serial), 100 * n);
		CHECK_EQ(pthread_barrier_destroy(&bar), 0);
	}
}
