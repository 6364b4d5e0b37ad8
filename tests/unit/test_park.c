// test_park.c: the parking lot: order, moving between queues, and no wakeup lost among real
// threads.
//
// Order is tested with Gs that have no thread: one that is readied before it parks keeps a token,
// and that is what is looked at.

#include <sched.h>
#include <signal.h>

#include "unit.h"

static struct g gs[8];
static int object, other; // only their addresses count

static void setup(void)
{
	unit_config();
	memset(gs, 0, sizeof(gs));
	ck_assert_int_eq(sched_init(2), 0);
	store_relaxed(&sched.active, PHASE_ACTIVE);
}

static bool readied(const struct g *gp)
{
	return gp->park == PARK_TOKEN;
}

static void enqueue(int n, const void *addr)
{
	for (int i = 0; i < n; i++)
		lot_enqueue(&gs[i], addr, LOT_ANY);
}

START_TEST(fifo)
{
	ck_assert(!lot_has_waiters(&object));
	ck_assert_int_eq(lot_wake(&object, 1), 0);
	enqueue(5, &object);
	ck_assert(lot_has_waiters(&object));
	ck_assert_int_eq(lot_wake(&other, 5), 0);
	ck_assert_int_eq(lot_wake(&object, 1), 1);
	ck_assert(readied(&gs[0]) && !readied(&gs[1]));
	ck_assert_int_eq(lot_wake(&object, 2), 2);
	ck_assert(readied(&gs[1]) && readied(&gs[2]) && !readied(&gs[3]));
	ck_assert_int_eq(lot_wake(&object, INT32_MAX), 2);
	ck_assert(readied(&gs[3]) && readied(&gs[4]));
	ck_assert(!lot_has_waiters(&object));
	ck_assert_int_eq(lot_wake(&object, 1), 0);
}
END_TEST

// Out of the head, the middle and the tail of the queue.
START_TEST(leave)
{
	enqueue(5, &object);
	ck_assert(lot_leave(&gs[0]) && lot_leave(&gs[2]) && lot_leave(&gs[4]));
	ck_assert(!lot_leave(&gs[0])); // it is in no queue any more
	ck_assert_int_eq(lot_wake(&object, INT32_MAX), 2);
	ck_assert(readied(&gs[1]) && readied(&gs[3]));
	ck_assert(!readied(&gs[0]) && !readied(&gs[2]) && !readied(&gs[4]));
	ck_assert(!lot_leave(&gs[1])); // its waker had it
	ck_assert(!lot_has_waiters(&object));
	lot_enqueue(&gs[0], &object, LOT_ANY);
	ck_assert_int_eq(lot_wake(&object, 1), 1);
}
END_TEST

// Many addresses share buckets; each queue is for itself.
START_TEST(addresses_apart)
{
	static struct g many[4096];
	static char addr[4096];

	for (int i = 0; i < 4096; i++)
		lot_enqueue(&many[i], &addr[i], LOT_ANY);
	for (int i = 4095; i >= 0; i--) {
		ck_assert_int_eq(lot_wake(&addr[i], 9), 1);
		ck_assert(readied(&many[i]));
	}
}
END_TEST

START_TEST(rwlock)
{
	static const int kinds[] = {LOT_READER, LOT_READER, LOT_WRITER, LOT_READER,
				    LOT_WRITER, LOT_WRITER, LOT_READER};
	static const int woken[] = {2, 1, 1, 1, 1, 1, 0}; // RR W R W W R
	int at = 0;

	for (int i = 0; i < 7; i++)
		lot_enqueue(&gs[i], &object, kinds[i]);
	for (int i = 0; i < 7; i++) {
		ck_assert_int_eq(lot_wake_rwlock(&object), woken[i]);
		at += woken[i];
		for (int k = 0; k < 7; k++)
			ck_assert_msg(readied(&gs[k]) == (k < at), "wake %d, G %d", i, k);
	}
}
END_TEST

// A claim: the writer comes first wherever it is queued, and while it is awake nobody is woken. Claims for other
// objects, also in the same bucket, do not count.
START_TEST(claims)
{
	static char many[4096];
	static struct g owner[4096];

	for (int i = 0; i < 4096; i++)
		ck_assert(lot_claim(&owner[i], &many[i]));
	ck_assert(!lot_claimed(&object));
	lot_enqueue(&gs[0], &object, LOT_READER);
	lot_enqueue(&gs[1], &object, LOT_WRITER);
	lot_enqueue(&gs[2], &object, LOT_READER);
	ck_assert(lot_claim(&gs[1], &object));
	ck_assert(!lot_claim(&gs[1], &other)); // one at a time
	ck_assert(lot_claimed(&object) && !lot_claimed(&other));
	ck_assert_int_eq(lot_wake_rwlock(&object), 1);
	ck_assert(readied(&gs[1]) && !readied(&gs[0]));
	ck_assert_int_eq(lot_wake_rwlock(&object), 0);
	lot_unclaim(&gs[1], true);
	ck_assert(!lot_claimed(&object));
	ck_assert(readied(&gs[0]) && readied(&gs[2]));
	lot_unclaim(&gs[1], true); // has none: nothing happens
	for (int i = 0; i < 4096; i++) {
		ck_assert(lot_claimed(&many[i]));
		lot_unclaim(&owner[i], false);
		ck_assert(!lot_claimed(&many[i]));
	}
}
END_TEST

START_TEST(requeue)
{
	enqueue(4, &object);
	for (int i = 0; i < 3; i++)
		gs[i].waitmutex = &other; // the fourth says none: it is readied
	lot_enqueue(&gs[5], &other, LOT_ANY);
	ck_assert(lot_broadcast(&object, NULL));
	ck_assert(readied(&gs[0]) && !readied(&gs[1]) && !readied(&gs[2]) && readied(&gs[3]));
	ck_assert(!lot_has_waiters(&object));
	// Behind those who waited for the mutex already.
	ck_assert_int_eq(lot_wake(&other, 1), 1);
	ck_assert(readied(&gs[5]));
	ck_assert_int_eq(lot_wake(&other, 1), 1);
	ck_assert(readied(&gs[1]) && !readied(&gs[2]));
	ck_assert(lot_leave(&gs[2])); // also from there
	ck_assert_int_eq(lot_wake(&other, 1), 0);
	ck_assert(!lot_broadcast(&object, NULL)); // nobody there
}
END_TEST

// --- with threads: each becomes a G; the test's own thread is none
// ---------------------------------

static void thread_starts(void)
{
	struct g *gp = g_alloc();

	ck_assert_ptr_nonnull(gp);
	sched_start(gp);
}

static void start(pthread_t *t, int n, void *(*fn)(void *))
{
	for (int i = 0; i < n; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, fn, (void *)(intptr_t)i), 0);
}

static void join(pthread_t *t, int n)
{
	for (int i = 0; i < n; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
}

static uint32_t mutex;
static uint64_t counter;

static int try_mutex(void *obj)
{
	return cas((uint32_t *)obj, 0, 1) ? 0 : EBUSY; // pairs with the xchg in unlock
}

static void lock(struct g *gp)
{
	if (try_mutex(&mutex))
		ck_assert_int_eq(lot_acquire(gp, &mutex, try_mutex, LOT_ANY, WAIT_SEM, NULL, 0), 0);
}

static void unlock(void)
{
	xchg(&mutex, 0); // publishes the section to the next try_mutex
	if (lot_has_waiters(&mutex))
		lot_wake(&mutex, 1);
}

static void *counts(void *arg)
{
	struct g *gp;

	(void)arg;
	thread_starts();
	gp = getg();
	for (int i = 0; i < 20000; i++) {
		lock(gp);
		counter++;
		if (i % 500 == 0)
			gosched(gp, G_RUNNABLE); // the others find the lock taken
		unlock();
	}
	goexit();
	return NULL;
}

START_TEST(mutual_exclusion)
{
	pthread_t t[16];

	start(t, 16, counts);
	join(t, 16);
	ck_assert_uint_eq(counter, 16 * 20000);
	ck_assert(!lot_has_waiters(&mutex));
	ck_assert_int_eq(load_relaxed(&sched.demand), 0);
	ck_assert_uint_eq(sched.npidle, 2);
	ck_assert_uint_eq(sched.ngs, 0);
}
END_TEST

static void *times_out(void *arg)
{
	struct deadline d;
	int64_t before, took;

	(void)arg;
	thread_starts();
	before = os_nanotime();
	d = os_deadline_in(30000000);
	ck_assert_int_eq(lot_acquire(getg(), &mutex, try_mutex, LOT_ANY, WAIT_SEM, &d, 0),
			 ETIMEDOUT);
	took = os_nanotime() - before;
	ck_assert_int_ge(took, 30000000);
	ck_assert_int_lt(took, 3000000000);
	d = os_deadline_in(0);
	ck_assert_int_eq(lot_acquire(getg(), &mutex, try_mutex, LOT_ANY, WAIT_SEM, &d, 0),
			 ETIMEDOUT);
	d = (struct deadline){CLOCK_REALTIME, {INT64_MAX, 0}}; // far away, not long ago
	xchg(&mutex, 0);
	ck_assert_int_eq(lot_acquire(getg(), &mutex, try_mutex, LOT_ANY, WAIT_SEM, &d, 0), 0);
	ck_assert_ptr_null(getg()->waitaddr);
	ck_assert_int_eq(getg()->status, G_RUNNING);
	goexit();
	return NULL;
}

START_TEST(timeout)
{
	pthread_t t;

	mutex = 1;
	start(&t, 1, times_out);
	join(&t, 1);
	ck_assert(!lot_has_waiters(&mutex));
}
END_TEST

static void *waits_for_ever(void *arg)
{
	(void)arg;
	thread_starts();
	lock(getg());
	unlock();
	goexit();
	return NULL;
}

// A release by code that was not interposed tells the lot nothing.
START_TEST(silent_release)
{
	pthread_t t[4];

	mutex = 1;
	start(t, 4, waits_for_ever);
	usleep(50000);
	xchg(&mutex, 0);
	join(t, 4);
}
END_TEST

// lot_wait as condition variables use it: a turn goes round, each waiter waits for its own.
enum { RING = 8, TURNS = 20000 };
static uint32_t turn;
static int conds[RING];

static void *takes_turns(void *arg)
{
	uint32_t me = (uint32_t)(intptr_t)arg;
	struct g *gp;

	thread_starts();
	gp = getg();
	for (;;) {
		uint32_t now;

		lock(gp);
		while ((now = turn) % RING != me && now < TURNS) {
			critical_enter();
			lot_enqueue(gp, &conds[me], LOT_ANY);
			unlock();
			ck_assert_int_eq(lot_wait(gp, WAIT_COND, NULL, 0), 0);
			lock(gp);
		}
		if (now < TURNS)
			turn++;
		lot_wake(&conds[(me + 1) % RING], 1);
		unlock();
		if (now >= TURNS)
			break;
	}
	goexit();
	return NULL;
}

START_TEST(ring)
{
	pthread_t t[RING];

	start(t, RING, takes_turns);
	join(t, RING);
	ck_assert_uint_eq(turn, TURNS);
	ck_assert_int_eq(load_relaxed(&sched.demand), 0);
	ck_assert_uint_eq(sched.npidle, 2);
}
END_TEST

// Waits that time out at about the moment they are woken: each ends in exactly one of the two ways.
static uint32_t woken, timed_out, finished;

static void *short_waits(void *arg)
{
	struct g *gp;

	(void)arg;
	thread_starts();
	gp = getg();
	for (int i = 0; i < 2000; i++) {
		struct deadline d = os_deadline_in(50000 + i % 7 * 10000);
		int r;

		critical_enter();
		lot_enqueue(gp, &object, LOT_ANY);
		r = lot_wait(gp, WAIT_COND, &d, 0);
		ck_assert(r == 0 || r == ETIMEDOUT);
		fetch_add(r ? &timed_out : &woken, 1);
		ck_assert_ptr_null(gp->waitaddr);
	}
	fetch_add(&finished, 1);
	goexit();
	return NULL;
}

START_TEST(timeout_against_wake)
{
	pthread_t t[4];
	uint32_t readied_here = 0;

	start(t, 4, short_waits);
	while (load_relaxed(&finished) < 4) {
		readied_here += (uint32_t)lot_wake(&object, 1);
		usleep(20);
	}
	join(t, 4);
	ck_assert_uint_eq(woken + timed_out, 8000);
	ck_assert_uint_eq(woken, readied_here);
	ck_assert_uint_eq(sched.npidle, 2);
}
END_TEST

// A wake that reaches a waiter which no longer needs it belongs to the next one in the queue. Here
// the try function is the other thread: it does what sem_post would do at that moment.
static bool wake_done;

static int try_late(void *obj)
{
	if (load_relaxed(&getg()->waitaddr) && !wake_done) {
		lot_enqueue(&gs[0], obj, LOT_ANY);
		ck_assert_int_eq(lot_wake(obj, 1), 1); // takes the caller
		ck_assert(!readied(&gs[0]));
		wake_done = true;
		return 0; // by an earlier post
	}
	return EBUSY;
}

static void *gets_late_wake(void *arg)
{
	(void)arg;
	thread_starts();
	ck_assert_int_eq(lot_acquire(getg(), &object, try_late, LOT_ANY, WAIT_SEM, NULL, 0), 0);
	ck_assert(wake_done);
	goexit();
	return NULL;
}

START_TEST(late_wake_is_passed_on)
{
	pthread_t t;

	start(&t, 1, gets_late_wake);
	join(&t, 1);
	ck_assert(readied(&gs[0]));
}
END_TEST

// --- handlers of the program
// ----------------------------------------------------------------------

// A handler may wait for objects itself, so it must not find its thread in a queue of the lot but not parked:
// the thread would be linked twice. The try function raises the signal at just that moment.
static uint32_t handlers, handlers_in_queue;

static void waits_in_handler(int sig)
{
	struct g *gp = getg();

	(void)sig;
	fetch_add(&handlers, 1);
	if (gp && gp->waitaddr)
		fetch_add(&handlers_in_queue, 1);
}

static void handle(int flags)
{
	struct sigaction sa = {.sa_handler = waits_in_handler, .sa_flags = flags};

	ck_assert_int_eq(signal_sigaction(SIGUSR1, &sa, NULL), 0);
}

static int try_raises(void *obj)
{
	(void)obj;
	if (tls.self->waitaddr && load_relaxed(&handlers) == 0)
		raise(SIGUSR1);
	return load_relaxed(&handlers) ? 0 : EBUSY;
}

static void *queues_with_signal(void *arg)
{
	(void)arg;
	thread_starts();
	ck_assert_int_eq(lot_acquire(getg(), &object, try_raises, LOT_ANY, WAIT_SEM, NULL, 0), 0);
	goexit();
	return NULL;
}

START_TEST(handler_while_queueing)
{
	pthread_t t;

	handle(0);
	start(&t, 1, queues_with_signal);
	join(&t, 1);
	ck_assert_uint_eq(handlers, 1);
	ck_assert_uint_eq(handlers_in_queue, 0);
	ck_assert(!lot_has_waiters(&object));
}
END_TEST

// A handler that runs at any moment of an interruptible wait ends it with EINTR: while it queues, when it
// looks at the object by itself. With SA_RESTART only where any handler does.
enum moment { QUEUEING, LOOKING };
static enum moment moment;

static int try_raises_once(void *obj)
{
	bool parked = load_relaxed(&tls.self->park) == PARK_PARKED;

	(void)obj;
	if (tls.self->waitaddr && parked == (moment == LOOKING) && load_relaxed(&handlers) == 0)
		raise(SIGUSR1);
	return EBUSY;
}

static int interrupted(enum moment when, unsigned flags)
{
	// Near its end a wait does not look by itself any more.
	struct deadline d = os_deadline_in(when == LOOKING ? 3000000000 : 100000000);
	int r;

	moment = when;
	store_relaxed(&handlers, 0);
	r = lot_acquire(getg(), &object, try_raises_once, LOT_ANY, WAIT_SEM, &d, flags);
	ck_assert_uint_eq(load_relaxed(&handlers), 1);
	return r;
}

static void *is_interrupted(void *arg)
{
	(void)arg;
	thread_starts();
	for (enum moment when = QUEUEING; when <= LOOKING; when++) {
		handle(0);
		ck_assert_int_eq(interrupted(when, PARK_EINTR), EINTR);
		ck_assert_int_eq(interrupted(when, PARK_EINTR_ANY), EINTR);
		if (when == QUEUEING)
			ck_assert_int_eq(interrupted(when, 0), ETIMEDOUT);
		handle(SA_RESTART);
		ck_assert_int_eq(interrupted(when, PARK_EINTR), ETIMEDOUT);
		ck_assert_int_eq(interrupted(when, PARK_EINTR_ANY), EINTR);
	}
	goexit();
	return NULL;
}

START_TEST(eintr_at_any_moment)
{
	pthread_t t;

	start(&t, 1, is_interrupted);
	join(&t, 1);
	ck_assert(!lot_has_waiters(&object));
}
END_TEST

// --- barrier
// --------------------------------------------------------------------------------------

enum { BARRIER = 5, BARRIER_ROUNDS = 2000 };
static uint32_t arrived, serial;

static void *meets(void *arg)
{
	(void)arg;
	thread_starts();
	for (uint32_t round = 1; round <= BARRIER_ROUNDS; round++) {
		fetch_add(&arrived, 1);
		if (lot_barrier(getg(), &object, BARRIER))
			fetch_add(&serial, 1);
		ck_assert_uint_ge(load_relaxed(&arrived), round * BARRIER);
	}
	goexit();
	return NULL;
}

START_TEST(barrier)
{
	pthread_t t[BARRIER];

	start(t, BARRIER, meets);
	join(t, BARRIER);
	ck_assert_uint_eq(serial, BARRIER_ROUNDS);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, fifo);
	tcase_add_test(tc, leave);
	tcase_add_test(tc, addresses_apart);
	tcase_add_test(tc, rwlock);
	tcase_add_test(tc, claims);
	tcase_add_test(tc, requeue);
	tcase_add_test(tc, mutual_exclusion);
	tcase_add_test(tc, timeout);
	tcase_add_test(tc, silent_release);
	tcase_add_test(tc, ring);
	tcase_add_test(tc, timeout_against_wake);
	tcase_add_test(tc, barrier);
	tcase_add_test(tc, late_wake_is_passed_on);
	tcase_add_test(tc, handler_while_queueing);
	tcase_add_test(tc, eintr_at_any_moment);
}

int main(void)
{
	return unit_run("park", add);
}
