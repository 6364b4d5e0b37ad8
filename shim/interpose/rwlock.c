// rwlock.c: pthread_rwlock_*: real try, lot to wait in; an unlock wakes the first writer, or all
// readers in front of it. Process-shared ones take glibc's own path.
//
// Where writers come first (PREFER_WRITER_NONRECURSIVE), glibc keeps new readers out while a writer waits. It does
// not know of those in the lot, so they claim the lock there, from their first failure until they have it, and
// readers ask. The default prefers readers, who may then lock recursively while a writer waits.

#include <pthread.h>

#include "objects.h"

REAL_FN(pthread_rwlock_rdlock);
REAL_FN(pthread_rwlock_wrlock);
REAL_FN(pthread_rwlock_tryrdlock);
REAL_FN(pthread_rwlock_trywrlock);
REAL_FN(pthread_rwlock_clockrdlock);
REAL_FN(pthread_rwlock_clockwrlock);
REAL_FN(pthread_rwlock_unlock);

static bool prefers_writers(const pthread_rwlock_t *l)
{
	return l->__data.__flags == PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP;
}

static int try_read(void *l)
{
	if (unlikely(prefers_writers(l)) && lot_claimed(l))
		return EBUSY;
	return REAL(pthread_rwlock_tryrdlock)(l);
}

static int try_write(void *l)
{
	return REAL(pthread_rwlock_trywrlock)(l);
}

__attribute__((noinline)) static int lock_slow(struct g *gp, pthread_rwlock_t *l, int r, bool write,
					       clockid_t clock, const struct timespec *abs)
{
	struct deadline until;

	if (r == 0)
		return 0;
	lock_not_counted(gp);
	if (r != EBUSY)
		return r;
	if (l->__data.__cur_writer == gp->tid)
		return EDEADLK;
	if (l->__data.__shared) {
		if (write)
			r = abs ? WILL_BLOCK(REAL(pthread_rwlock_clockwrlock)(l, clock, abs))
				: WILL_BLOCK(REAL(pthread_rwlock_wrlock)(l));
		else
			r = abs ? WILL_BLOCK(REAL(pthread_rwlock_clockrdlock)(l, clock, abs))
				: WILL_BLOCK(REAL(pthread_rwlock_rdlock)(l));
	} else {
		bool claimed;

		if (abs && !deadline_from(&until, clock, abs))
			return EINVAL;
		claimed = write && prefers_writers(l) && lot_claim(gp, l);
		r = lot_acquire(gp, l, write ? try_write : try_read,
				write ? LOT_WRITER : LOT_READER,
				write ? WAIT_RWLOCK_W : WAIT_RWLOCK_R, abs ? &until : NULL, 0);
		if (claimed)
			lot_unclaim(gp, r != 0);
	}
	if (r == 0)
		lock_counted(gp);
	return r;
}

static int lock(pthread_rwlock_t *l, bool write, clockid_t clock, const struct timespec *abs)
{
	struct g *gp = getg();
	int r;

	if (!gp) {
		if (write)
			return abs ? REAL(pthread_rwlock_clockwrlock)(l, clock, abs)
				   : REAL(pthread_rwlock_wrlock)(l);
		return abs ? REAL(pthread_rwlock_clockrdlock)(l, clock, abs)
			   : REAL(pthread_rwlock_rdlock)(l);
	}
	if (abs && ((clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC) || abs->tv_nsec < 0 ||
		    abs->tv_nsec >= 1000000000))
		return EINVAL; // glibc checks here before it tries
	lock_counted(gp);
	r = write ? try_write(l) : try_read(l);
	if (likely(r == 0))
		return 0;
	return lock_slow(gp, l, r, write, clock, abs);
}

EXPORT int pthread_rwlock_rdlock(pthread_rwlock_t *l)
{
	return lock(l, false, 0, NULL);
}
ALIAS(__pthread_rwlock_rdlock, pthread_rwlock_rdlock);
COMPAT(pthread_rwlock_rdlock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_rwlock_wrlock(pthread_rwlock_t *l)
{
	return lock(l, true, 0, NULL);
}
ALIAS(__pthread_rwlock_wrlock, pthread_rwlock_wrlock);
COMPAT(pthread_rwlock_wrlock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_rwlock_timedrdlock(pthread_rwlock_t *l, const struct timespec *abs)
{
	return lock(l, false, CLOCK_REALTIME, abs);
}
COMPAT(pthread_rwlock_timedrdlock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_rwlock_timedwrlock(pthread_rwlock_t *l, const struct timespec *abs)
{
	return lock(l, true, CLOCK_REALTIME, abs);
}
COMPAT(pthread_rwlock_timedwrlock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_rwlock_clockrdlock(pthread_rwlock_t *l, clockid_t clock,
				      const struct timespec *abs)
{
	return lock(l, false, clock, abs);
}
COMPAT(pthread_rwlock_clockrdlock, 2_30, "GLIBC_2.30");

EXPORT int pthread_rwlock_clockwrlock(pthread_rwlock_t *l, clockid_t clock,
				      const struct timespec *abs)
{
	return lock(l, true, clock, abs);
}
COMPAT(pthread_rwlock_clockwrlock, 2_30, "GLIBC_2.30");

static int trylock(pthread_rwlock_t *l, lot_try_fn *try)
{
	struct g *gp = getg();
	int r;

	if (!gp)
		return try(l);
	lock_counted(gp);
	r = try(l);
	if (r != 0) {
		lock_not_counted(gp);
		preempt_check(gp);
	}
	return r;
}

EXPORT int pthread_rwlock_tryrdlock(pthread_rwlock_t *l)
{
	return trylock(l, try_read);
}
ALIAS(__pthread_rwlock_tryrdlock, pthread_rwlock_tryrdlock);
COMPAT(pthread_rwlock_tryrdlock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_rwlock_trywrlock(pthread_rwlock_t *l)
{
	return trylock(l, try_write);
}
ALIAS(__pthread_rwlock_trywrlock, pthread_rwlock_trywrlock);
COMPAT(pthread_rwlock_trywrlock, 2_2_5, "GLIBC_2.2.5");

// Not a byte of *l is touched after the real unlock.
EXPORT int pthread_rwlock_unlock(pthread_rwlock_t *l)
{
	int r = REAL(pthread_rwlock_unlock)(l);
	struct g *gp = getg();

	if (r != 0)
		return r;
	if (unlikely(lot_has_waiters(l)))
		lot_wake_rwlock(l);
	lock_released(gp);
	return 0;
}
ALIAS(__pthread_rwlock_unlock, pthread_rwlock_unlock);
COMPAT(pthread_rwlock_unlock, 2_2_5, "GLIBC_2.2.5");
