/*
 * credit.c - more threads than Ps block in calls of their own, and between two calls are woken by each other: a server with a thread for
 * each connection. All Ps are held by busy threads, so that those who come back, or are woken, run without one.
 *
 * Whatever becomes of a thread then, it gets each byte, post and signal that was meant for it, and a lock excludes.
 */
#include "prog.h"

#include "preempt.h"

enum { THREADS = 16, ROUNDS = 40 };

static int ends[THREADS][2];
static sem_t sems[THREADS], handled;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static long locked, arrived, round_now; /* mutex */
static atomic_int ended;
static struct {
	_Alignas(64) atomic_long n;
} did[THREADS];

static void takes_post(int i, bool timed)
{
	for (;;) {
		struct timespec soon = after(CLOCK_REALTIME, 30000);

		if ((timed ? sem_timedwait(&sems[i], &soon) : sem_wait(&sems[i])) == 0)
			return;
		CHECK(errno == EINTR || (timed && errno == ETIMEDOUT));
	}
}

/* All of them, by a condition variable. */
static void meet(void)
{
	long here;

	CHECK_EQ(pthread_mutex_lock(&mutex), 0);
	here = round_now;
	if (++arrived == THREADS) {
		arrived = 0;
		round_now++;
		CHECK_EQ(pthread_cond_broadcast(&cond), 0);
	}
	while (round_now == here)
		CHECK_EQ(pthread_cond_wait(&cond, &mutex), 0);
	CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
}

static void *connection(void *arg)
{
	int i = (int)(intptr_t)arg, next = (i + 1) % THREADS;

	for (int round = 0; round < ROUNDS; round++) {
		for (int k = 0; k < 8; k++) {
			char c = (char)k;

			CHECK_EQ(write(ends[next][1], &c, 1), 1);
			CHECK_EQ(read(ends[i][0], &c, 1), 1);
			CHECK_EQ(c, k);
			CHECK_EQ(pthread_mutex_lock(&mutex), 0);
			locked++;
			CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
			CHECK_EQ(sem_post(&sems[next]), 0);
			takes_post(i, k % 4 == 3);
			atomic_fetch_add_explicit(&did[i].n, 1, memory_order_relaxed);
		}
		meet();
	}
	atomic_fetch_add(&ended, 1);
	takes_post(i, false); /* until the case is done with it */
	return NULL;
}

static pthread_t threads[THREADS];

static void connections_start(void)
{
	for (int i = 0; i < THREADS; i++) {
		CHECK_EQ(pipe(ends[i]), 0);
		CHECK_EQ(sem_init(&sems[i], 0, 0), 0);
	}
	hogs_start(4);
	for (int i = 0; i < THREADS; i++)
		threads[i] = spawn(connection, (void *)(intptr_t)i);
}

static void connections_end(void)
{
	AWAIT(&ended, THREADS);
	for (int i = 0; i < THREADS; i++) {
		CHECK_EQ(sem_post(&sems[i]), 0);
		join(threads[i]);
	}
	hogs_stop();
	CHECK_EQ(locked, THREADS * ROUNDS * 8);
	for (int i = 0; i < THREADS; i++) {
		char c;
		int left;

		CHECK_EQ(sem_getvalue(&sems[i], &left), 0);
		CHECK_EQ(left, 0);
		CHECK_EQ(close(ends[i][1]), 0);
		CHECK_EQ(read(ends[i][0], &c, 1), 0);
	}
}

static void posts(int sig)
{
	(void)sig;
	sem_post(&handled);
}

static void child(void *arg)
{
	(void)arg;
	lives();
}

/* Handlers on top of their waits, which wake a thread themselves, and forks by another one. */
CASE_STRESS(woken_on_credit)
{
	struct sigaction sa = {.sa_handler = posts, .sa_flags = SA_RESTART};
	int sent = 0, left;

	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	CHECK_EQ(sem_init(&handled, 0, 0), 0);
	connections_start();
	while (atomic_load(&ended) < THREADS / 2 && sent < 300) {
		CHECK_EQ(pthread_kill(threads[sent % (THREADS / 2)], SIGUSR1), 0);
		sent++;
		for (struct timespec late = after(CLOCK_REALTIME, 20 * SEC);
		     sem_timedwait(&handled, &late) != 0;)
			CHECK_EQ(errno, EINTR);
		if (sent % 50 == 1)
			CHECK_EQ(in_child(child, NULL), 0);
	}
	connections_end();
	CHECK_EQ(sem_getvalue(&handled, &left), 0);
	CHECK_EQ(left, 0);
}

/* The world stops meanwhile: nobody who is just woken runs on. */
CASE_STRESS(woken_on_credit_world)
{
	connections_start();
	while (preempt_stop_the_world && atomic_load(&ended) < THREADS) {
		struct timespec ts = {.tv_nsec = 1000000};
		long was[THREADS];

		if (preempt_stop_the_world(20 * SEC, NULL) == 0) {
			for (int i = 0; i < THREADS; i++)
				was[i] = atomic_load(&did[i].n);
			nanosleep(&ts, NULL);
			for (int i = 0; i < THREADS; i++)
				CHECK_EQ(atomic_load(&did[i].n), was[i]);
			CHECK_EQ(preempt_start_the_world(), 0);
		}
		sleep_ns(3 * MS);
	}
	connections_end();
}
