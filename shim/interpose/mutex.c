// mutex.c: pthread_mutex_*, mtx_*.
//
// The lock word stays glibc's, and waiting is the parking lot's. Robust, priority-inheriting, priority-protected and
// process-shared mutexes take glibc's own path.
//
// The plain kinds, which are nearly all, are tried and released here, in the same fields and the same order as glibc does it: for an uncontended
// pair the two calls are a good part of what we would add. mutex_probe looks first whether those really are the fields; where
// another library wraps these functions as well, it is called. All else, and whoever has waited, takes by the real trylock.

#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <threads.h>

#include "interpose.h"
#include "objects.h"
#include "probes.h"

REAL_FN(pthread_mutex_lock);
REAL_FN(pthread_mutex_trylock);
REAL_FN(pthread_mutex_timedlock);
REAL_FN(pthread_mutex_clocklock);
REAL_FN(pthread_mutex_unlock);
REAL_FN(mtx_lock);
REAL_FN(mtx_trylock);
REAL_FN(mtx_timedlock);
REAL_FN(mtx_unlock);

enum { TRY_PAUSE = 1000000 }; // ns
#define NO_ELISION 512u	      // in the kind, if the program has named a type

static uint64_t plain_kinds; // bit k: a mutex of kind k is taken here

static int try(void *m)
{
	return REAL(pthread_mutex_trylock)(m);
}

static bool same(const pthread_mutex_t *a, const pthread_mutex_t *b)
{
	return memcmp(a->__size, b->__size, sizeof a->__size) == 0;
}

// Does libc take and release a mutex of this kind by these fields alone?
static bool probe(int kind)
{
	pthread_mutex_t free = {.__data.__kind = kind}, taken = free, m = free, while_taken;

	taken.__data.__lock = 1;
	taken.__data.__owner = os_gettid();
	taken.__data.__nusers = 1;
	if (try(&m) != 0)
		return false;
	while_taken = m;
	return REAL(pthread_mutex_unlock)(&m) == 0 && same(&m, &free) && same(&while_taken, &taken);
}

void mutex_probe(void)
{
	static const int kinds[] = {PTHREAD_MUTEX_TIMED_NP, PTHREAD_MUTEX_ADAPTIVE_NP};

	// valgrind's tools wrap libc's functions where they are.
	if (!helper_valgrind() && libc_hi != UINTPTR_MAX && is_libcs(REAL(pthread_mutex_trylock)) &&
	    is_libcs(REAL(pthread_mutex_unlock)))
		for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
			if (probe(kinds[i]))
				plain_kinds |= 1ull << kinds[i];
	if (!plain_kinds)
		log_line(LOG_INFO, "mutexes are taken by calls of libc's functions, not without");
}

static inline bool is_plain(const pthread_mutex_t *m)
{
	unsigned kind = (unsigned)m->__data.__kind & ~NO_ELISION;

	return likely(kind < 64 && plain_kinds >> kind & 1);
}

static inline int try_as(const struct g *gp, pthread_mutex_t *m)
{
	if (!is_plain(m))
		return REAL(pthread_mutex_trylock)(m);
	// As libc does it, who only tries does not take the cache line from the holder.
	if (load_relaxed(&m->__data.__lock) != 0 ||
	    !cas(&m->__data.__lock, 0, 1)) // pairs with the xchg in release, and libc's unlock
		return EBUSY;
	m->__data.__owner = gp->tid;
	m->__data.__nusers++;
	return 0;
}

// Threads that are no Gs wait in libc, with 2 in the lock word.
__attribute__((noinline)) static void wake_foreign(pthread_mutex_t *m)
{
	sys6(SYS_futex, (long)&m->__data.__lock, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

// Any thread may unlock this kind, and one that is not locked.
static inline int release(pthread_mutex_t *m)
{
	if (!is_plain(m))
		return REAL(pthread_mutex_unlock)(m);
	m->__data.__owner = 0;
	m->__data.__nusers--;
	// Pairs with the cas in try_as, and with a waiter that raises the lot's count before it tries again (park.c).
	if (unlikely(xchg(&m->__data.__lock, 0) > 1))
		wake_foreign(m);
	return 0;
}

bool mutex_is_glibcs(const pthread_mutex_t *m)
{
	return m->__data.__kind & (16 | 32 | 64 | 128); // robust, inherit, protect, process-shared
}

static bool deadlocks(const struct g *gp, const pthread_mutex_t *m)
{
	return (m->__data.__kind & 3) == PTHREAD_MUTEX_ERRORCHECK_NP &&
	       m->__data.__owner == gp->tid;
}

static bool took(int r)
{
	return r == 0 || r == EOWNERDEAD;
}

// glibc's own path was taken.
static int count_lock(struct g *gp, int r)
{
	gp->locks += took(r);
	return r;
}

// r: what the first try said. gp->locks counts the lock already; it does not when this fails.
__attribute__((noinline)) static int lock_slow(struct g *gp, pthread_mutex_t *m, int r,
					       clockid_t clock, const struct timespec *abs)
{
	struct deadline until;

	if (took(r))
		return r;
	lock_not_counted(gp);
	if (r != EBUSY)
		return r;
	if (deadlocks(gp, m))
		return EDEADLK;
	if (abs && !deadline_from(&until, clock, abs))
		return EINVAL;
	share_waits(gp, m);
	r = lot_acquire(gp, m, try, LOT_ANY, WAIT_MUTEX, abs ? &until : NULL, 0);
	if (took(r)) {
		lock_counted(gp);
		gp->held = m;
	}
	return r;
}

EXPORT int pthread_mutex_lock(pthread_mutex_t *m)
{
	struct g *gp = getg();
	int r;

	if (unlikely(!gp))
		return REAL(pthread_mutex_lock)(m);
	if (unlikely(mutex_is_glibcs(m)))
		return count_lock(gp, MAY_BLOCK(REAL(pthread_mutex_lock)(m)));
	if (unlikely(gp->barred == m) && m->__data.__owner != gp->tid)
		share_barred(gp, m);
	lock_counted(gp);
	r = try_as(gp, m);
	if (likely(r == 0)) {
		gp->held = m;
		return 0;
	}
	return lock_slow(gp, m, r, 0, NULL);
}
ALIAS(__pthread_mutex_lock, pthread_mutex_lock);

// In a loop that does nothing else it is a wait by spinning. Such a thread parks, as in a lock: but for a
// moment only, for it may not be what it seems; and not with a lock held, which others may wait for, or have to back off from.
__attribute__((noinline)) static void try_failed(struct g *gp, pthread_mutex_t *m, int r)
{
	lock_not_counted(gp);
	preempt_check(gp);
	if (r == EBUSY && spin_tried(gp, m) && gp->locks <= 0 && !tls.critical) {
		STAT(spin_yields);
		PROBE3(spin_yield, gp->goid, gp->tid, SPIN_LOCK);
		TRACE(write, TRACE_SPIN, TRACE_SPIN_LOCK, gp->p, gp->goid, 0, (uintptr_t)m, 0);
		lot_pause(gp, m, &m->__data.__lock, TRY_PAUSE);
	}
}

EXPORT int pthread_mutex_trylock(pthread_mutex_t *m)
{
	struct g *gp = getg();
	int r;

	if (unlikely(!gp))
		return REAL(pthread_mutex_trylock)(m);
	lock_counted(gp);
	r = try_as(gp, m);
	if (unlikely(!took(r)))
		try_failed(gp, m, r);
	else
		gp->tries = 0;
	return r;
}
ALIAS(__pthread_mutex_trylock, pthread_mutex_trylock);
COMPAT(pthread_mutex_trylock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_mutex_clocklock(pthread_mutex_t *m, clockid_t clock, const struct timespec *abs)
{
	struct g *gp = getg();

	if (!gp || (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC))
		return REAL(pthread_mutex_clocklock)(m, clock, abs);
	if (mutex_is_glibcs(m))
		return count_lock(gp, MAY_BLOCK(REAL(pthread_mutex_clocklock)(m, clock, abs)));
	lock_counted(gp);
	return lock_slow(gp, m, REAL(pthread_mutex_trylock)(m), clock, abs);
}
COMPAT(pthread_mutex_clocklock, 2_30, "GLIBC_2.30");

EXPORT int pthread_mutex_timedlock(pthread_mutex_t *m, const struct timespec *abs)
{
	struct g *gp = getg();

	if (!gp)
		return REAL(pthread_mutex_timedlock)(m, abs);
	if (mutex_is_glibcs(m))
		return count_lock(gp, MAY_BLOCK(REAL(pthread_mutex_timedlock)(m, abs)));
	lock_counted(gp);
	return lock_slow(gp, m, REAL(pthread_mutex_trylock)(m), CLOCK_REALTIME, abs);
}
COMPAT(pthread_mutex_timedlock, 2_2_5, "GLIBC_2.2.5");

// Not a byte of *m is touched after the real unlock: another thread may destroy it at once.
static inline int unlocked(int r, const void *m)
{
	struct g *gp = getg();

	if (unlikely(r != 0))
		return r;
	if (likely(gp && gp->held == m))
		gp->held = NULL;
	if (unlikely(lot_has_waiters(m)))
		share_released(gp, m);
	lock_released(gp);
	return 0;
}

EXPORT int pthread_mutex_unlock(pthread_mutex_t *m)
{
	return unlocked(release(m), m);
}
ALIAS(__pthread_mutex_unlock, pthread_mutex_unlock);

// --- C11: a mtx_t is a pthread_mutex_t ------------------------------------------------------------------

static int c11(int r)
{
	switch (r) {
	case 0:
		return thrd_success;
	case EBUSY:
		return thrd_busy;
	case ENOMEM:
		return thrd_nomem;
	case ETIMEDOUT:
		return thrd_timedout;
	default:
		return thrd_error;
	}
}

EXPORT int mtx_lock(mtx_t *m)
{
	return getg() ? c11(pthread_mutex_lock((pthread_mutex_t *)m)) : REAL(mtx_lock)(m);
}
COMPAT(mtx_lock, 2_28, "GLIBC_2.28");

EXPORT int mtx_trylock(mtx_t *m)
{
	return getg() ? c11(pthread_mutex_trylock((pthread_mutex_t *)m)) : REAL(mtx_trylock)(m);
}
COMPAT(mtx_trylock, 2_28, "GLIBC_2.28");

EXPORT int mtx_timedlock(mtx_t *restrict m, const struct timespec *restrict abs)
{
	return getg() ? c11(pthread_mutex_timedlock((pthread_mutex_t *)m, abs))
		      : REAL(mtx_timedlock)(m, abs);
}
COMPAT(mtx_timedlock, 2_28, "GLIBC_2.28");

EXPORT int mtx_unlock(mtx_t *m)
{
	return c11(unlocked(REAL(mtx_unlock)(m) == thrd_success ? 0 : EPERM, m));
}
COMPAT(mtx_unlock, 2_28, "GLIBC_2.28");
