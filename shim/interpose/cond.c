// cond.c: pthread_cond_*, cnd_*.
//
// Waiters wait in the parking lot; nothing is written into the condition variable. glibc's own
// wait would release the mutex without our unlock, so both must be ours. Only process-shared ones, and
// waits of threads that cannot be scheduled (in a handler), are glibc's; a signal reaches those too.

#include <limits.h>
#include <pthread.h>
#include <threads.h>

#include "objects.h"

REAL_FN(pthread_cond_wait);
REAL_FN(pthread_cond_timedwait);
REAL_FN(pthread_cond_clockwait);
REAL_FN(pthread_cond_signal);
REAL_FN(pthread_cond_broadcast);

static bool is_shared(const pthread_cond_t *c)
{
	return c->__data.__wrefs & 1;
}

static clockid_t clock_of(const pthread_cond_t *c)
{
	return c->__data.__wrefs & 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
}

static bool glibc_has_waiters(const pthread_cond_t *c)
{
	return load_relaxed(&c->__data.__wrefs) >> 3;
}

// The wait ends for good: a handler on top of it called pthread_exit. As in
// glibc's own wait, the mutex is held again before the program's cleanup handlers run.
static void wait_left(void *mutex)
{
	park_settle();
	pthread_mutex_lock(mutex);
}

// glibc's own wait releases the mutex without our unlock. Waiters that a signal moved to the mutex's queue sleep
// until an unlock readies them: let them wait as lot_acquire does, which looks by itself.
static void glibc_will_unlock(const pthread_mutex_t *m)
{
	if (lot_has_waiters(m))
		lot_wake_moved(m);
}

#define WAIT_IN_GLIBC(m, call)                                                                     \
	__extension__({                                                                            \
		glibc_will_unlock(m);                                                              \
		WILL_BLOCK(call);                                                                  \
	})

static int wait_in_lot(struct g *gp, pthread_cond_t *c, pthread_mutex_t *m,
		       const struct deadline *until)
{
	int relock;
	volatile int r; // lives across the setjmp in pthread_cleanup_push

	chaos_point(gp);
	pthread_testcancel();
	gp->waitmutex = mutex_is_glibcs(m) ? NULL : m;
	critical_enter(); // until lot_wait has parked
	lot_enqueue(gp, c, LOT_ANY);
	r = pthread_mutex_unlock(m);
	if (r != 0) {
		if (!lot_leave(gp))
			lot_absorb(gp);
		critical_leave();
		return r;
	}
	pthread_cleanup_push(wait_left, m);
	r = lot_wait(gp, WAIT_COND, until, PARK_CANCEL);
	pthread_cleanup_pop(0);
	relock = pthread_mutex_lock(m);
	if (r == ECANCELED) {
		pthread_testcancel(); // does not return unless cancellation is disabled
		r = 0;
	}
	return relock ? relock : r;
}

EXPORT int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
	struct g *gp = getg_adopt();

	if (!gp || is_shared(c))
		return WAIT_IN_GLIBC(m, REAL(pthread_cond_wait)(c, m));
	return wait_in_lot(gp, c, m, NULL);
}

EXPORT int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *abs)
{
	struct g *gp = getg_adopt();
	struct deadline until;

	if (!gp || is_shared(c) || !is_libcs(REAL(pthread_cond_timedwait)))
		return WAIT_IN_GLIBC(m, REAL(pthread_cond_timedwait)(c, m, abs));
	if (!deadline_from(&until, clock_of(c), abs))
		return EINVAL;
	return wait_in_lot(gp, c, m, &until);
}

EXPORT int pthread_cond_clockwait(pthread_cond_t *c, pthread_mutex_t *m, clockid_t clock,
				  const struct timespec *abs)
{
	struct g *gp = getg_adopt();
	struct deadline until;

	if (!gp || is_shared(c) || !is_libcs(REAL(pthread_cond_clockwait)))
		return WAIT_IN_GLIBC(m, REAL(pthread_cond_clockwait)(c, m, clock, abs));
	if (!deadline_from(&until, clock, abs))
		return EINVAL;
	return wait_in_lot(gp, c, m, &until);
}
COMPAT(pthread_cond_clockwait, 2_30, "GLIBC_2.30");

// A waiter is queued before it lets go of the mutex, so whoever held that since sees the count.
EXPORT int pthread_cond_signal(pthread_cond_t *c)
{
	struct g *gp = getg();
	int r = 0;

	chaos_point(gp);
	if (!(lot_has_waiters(c) && lot_signal(c, gp ? gp->held : NULL)) &&
	    (is_shared(c) || glibc_has_waiters(c)))
		r = REAL(pthread_cond_signal)(c);
	if (gp)
		preempt_if_asked(gp); // chaos.c has been asked
	return r;
}

EXPORT int pthread_cond_broadcast(pthread_cond_t *c)
{
	struct g *gp = getg();
	int r = 0;

	chaos_point(gp);
	if (lot_has_waiters(c))
		lot_broadcast(c, gp ? gp->held : NULL);
	if (is_shared(c) || glibc_has_waiters(c))
		r = REAL(pthread_cond_broadcast)(c);
	if (gp)
		preempt_if_asked(gp); // chaos.c has been asked
	return r;
}

// --- C11: a cnd_t is a pthread_cond_t -------------------------------------------------------------------

static int c11(int r)
{
	return r == 0		? thrd_success
	       : r == ETIMEDOUT ? thrd_timedout
	       : r == ENOMEM	? thrd_nomem
				: thrd_error;
}

EXPORT int cnd_wait(cnd_t *c, mtx_t *m)
{
	return c11(pthread_cond_wait((pthread_cond_t *)c, (pthread_mutex_t *)m));
}
COMPAT(cnd_wait, 2_28, "GLIBC_2.28");

EXPORT int cnd_timedwait(cnd_t *restrict c, mtx_t *restrict m, const struct timespec *restrict abs)
{
	return c11(pthread_cond_timedwait((pthread_cond_t *)c, (pthread_mutex_t *)m, abs));
}
COMPAT(cnd_timedwait, 2_28, "GLIBC_2.28");

EXPORT int cnd_signal(cnd_t *c)
{
	return c11(pthread_cond_signal((pthread_cond_t *)c));
}
COMPAT(cnd_signal, 2_28, "GLIBC_2.28");

EXPORT int cnd_broadcast(cnd_t *c)
{
	return c11(pthread_cond_broadcast((pthread_cond_t *)c));
}
COMPAT(cnd_broadcast, 2_28, "GLIBC_2.28");

// --- GLIBC_2.2.5: the old, smaller type; its object points to a new one that only glibc knows -----------

#define OLD(fn, decl, args, call)                                                                  \
	REAL_FN_NAMED(old_##fn, fn, #fn, "GLIBC_2.2.5");                                           \
	EXPORT int old_##fn decl;                                                                  \
	int old_##fn decl                                                                          \
	{                                                                                          \
		return call(REAL(old_##fn) args);                                                  \
	}                                                                                          \
	SYMVER(old_##fn, fn, "GLIBC_2.2.5")

#define DIRECT(x) (x)
#define OLD_WAIT(call) WAIT_IN_GLIBC(m, call)
OLD(pthread_cond_wait, (pthread_cond_t * c, pthread_mutex_t *m), (c, m), OLD_WAIT);
OLD(pthread_cond_timedwait, (pthread_cond_t * c, pthread_mutex_t *m, const struct timespec *abs),
    (c, m, abs), OLD_WAIT);
OLD(pthread_cond_signal, (pthread_cond_t * c), (c), DIRECT);
OLD(pthread_cond_broadcast, (pthread_cond_t * c), (c), DIRECT);
