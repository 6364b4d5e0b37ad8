/*
 * condcancel.c - waiters of condition variables that are cancelled: the mutex is held again, and no signal is lost.
 */
#include "prog.h"

/* A cancelled waiter holds the mutex again when its clean-up handler runs. */
static pthread_mutex_t cancel_lock;
static pthread_cond_t cancel_cond = PTHREAD_COND_INITIALIZER;
static atomic_int cancel_in, cleaned;

static void cancel_cleanup(void *arg)
{
	(void)arg;
	CHECK_EQ(pthread_mutex_lock(&cancel_lock), EDEADLK);
	CHECK_EQ(pthread_mutex_unlock(&cancel_lock), 0);
	atomic_fetch_add(&cleaned, 1);
}

static void *cancel_main(void *arg)
{
	struct timespec ts = after(CLOCK_REALTIME, 100 * SEC);

	CHECK_EQ(pthread_mutex_lock(&cancel_lock), 0);
	pthread_cleanup_push(cancel_cleanup, NULL);
	atomic_fetch_add(&cancel_in, 1);
	for (;;) {
		if (arg)
			pthread_cond_timedwait(&cancel_cond, &cancel_lock, &ts);
		else
			pthread_cond_wait(&cancel_cond, &cancel_lock);
	}
	pthread_cleanup_pop(0);
	return NULL;
}

CASE_STRESS(cond_cancel)
{
	pthread_mutexattr_t ma;
	pthread_t t[16];

	CHECK_EQ(pthread_mutexattr_init(&ma), 0);
	CHECK_EQ(pthread_mutexattr_settype(&ma, PTHREAD_MUTEX_ERRORCHECK), 0);
	CHECK_EQ(pthread_mutex_init(&cancel_lock, &ma), 0);
	for (int i = 0; i < 16; i++)
		t[i] = spawn(cancel_main, i & 1 ? &cancel_lock : NULL);
	AWAIT(&cancel_in, 16);
	for (int i = 0; i < 16; i++)
		CHECK_EQ(pthread_cancel(t[i]), 0);
	for (int i = 0; i < 16; i++)
		CHECK(join(t[i]) == PTHREAD_CANCELED);
	CHECK_EQ(atomic_load(&cleaned), 16);
	CHECK_EQ(pthread_mutex_lock(&cancel_lock), 0);
	CHECK_EQ(pthread_mutex_unlock(&cancel_lock), 0);
	CHECK_EQ(pthread_cond_destroy(&cancel_cond), 0);
}

/* A waiter that is cancelled and signalled at once does not take the signal with it: either it
 * came back from the wait, or the other waiter did. */
static pthread_mutex_t cs_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cs_cond = PTHREAD_COND_INITIALIZER;
static int cs_waiting;
static atomic_int cs_woken[2];

static void cs_cleanup(void *arg)
{
	(void)arg;
	pthread_mutex_unlock(&cs_lock);
}

static void *cs_main(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(&cs_lock), 0);
	cs_waiting++;
	pthread_cleanup_push(cs_cleanup, NULL);
	pthread_cond_wait(&cs_cond, &cs_lock);
	atomic_store(&cs_woken[(intptr_t)arg], 1);
	pthread_cleanup_pop(1);
	return NULL;
}

CASE_STRESS(cond_cancel_signal)
{
	for (int k = 0; k < 100; k++) {
		pthread_t t[2];
		int n = 0;

		cs_waiting = 0;
		atomic_store(&cs_woken[0], 0);
		atomic_store(&cs_woken[1], 0);
		for (intptr_t i = 0; i < 2; i++)
			t[i] = spawn(cs_main, (void *)i);
		while (n < 2) {
			CHECK_EQ(pthread_mutex_lock(&cs_lock), 0);
			n = cs_waiting;
			CHECK_EQ(pthread_mutex_unlock(&cs_lock), 0);
			sched_yield();
		}
		CHECK_EQ(pthread_mutex_lock(&cs_lock), 0);
		if (k & 1)
			CHECK_EQ(pthread_cancel(t[0]), 0);
		CHECK_EQ(pthread_cond_signal(&cs_cond), 0);
		if (!(k & 1))
			CHECK_EQ(pthread_cancel(t[0]), 0);
		CHECK_EQ(pthread_mutex_unlock(&cs_lock), 0);
		join(t[0]);
		if (!atomic_load(&cs_woken[0]))
			AWAIT(&cs_woken[1], 1);
		while (!atomic_load(&cs_woken[1])) {
			CHECK_EQ(pthread_cond_broadcast(&cs_cond), 0);
			sleep_ns(100000);
		}
		join(t[1]);
	}
}
