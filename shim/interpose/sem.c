// sem.c: sem_*. Private semaphores wait in the lot; shared and named ones (another process may post)
// take glibc's own path. Whether one is private is read from the object, at a place checked once.

#include <pthread.h>
#include <semaphore.h>

#include "objects.h"

REAL_FN(sem_wait);
REAL_FN(sem_trywait);
REAL_FN(sem_timedwait);
REAL_FN(sem_clockwait);
REAL_FN(sem_post);

struct layout {
	uint64_t value;
	int shared;
};

static bool layout_known(void)
{
	static int known; // 0: not asked yet, 1: yes, -1: no

	if (!known) {
		sem_t own, shared;

		sem_init(&own, 0, 3);
		sem_init(&shared, 1, 3);
		store_relaxed(&known, ((struct layout *)&own)->shared == 0 &&
						      ((struct layout *)&shared)->shared != 0
					      ? 1
					      : -1);
	}
	return load_relaxed(&known) > 0;
}

// 0 or an error; keeps errno.
static int try(void *s)
{
	int saved = errno, r = 0;

	if (REAL(sem_trywait)(s) != 0) {
		r = errno == EAGAIN ? EBUSY : errno;
		errno = saved;
	}
	return r;
}

static int wait_slow(struct g *gp, sem_t *s, clockid_t clock, const struct timespec *abs)
{
	struct deadline until;
	int r;

	if (abs && !deadline_from(&until, clock, abs)) {
		errno = EINVAL;
		return -1;
	}
	// Timed waits are interrupted by any handler, others by those without SA_RESTART (signal(7)).
	r = lot_acquire(gp, s, try, LOT_ANY, WAIT_SEM, abs ? &until : NULL,
			PARK_CANCEL | (abs ? PARK_EINTR_ANY : PARK_EINTR));
	if (r == ECANCELED) {
		pthread_testcancel(); // returns only if cancellation is disabled
		return wait_slow(gp, s, clock, abs);
	}
	if (r == 0)
		return 0;
	errno = r;
	return -1;
}

static bool in_lot(const sem_t *s)
{
	return layout_known() && ((const struct layout *)s)->shared == 0;
}

EXPORT int sem_wait(sem_t *s)
{
	struct g *gp = getg_adopt();

	if (!gp || !in_lot(s))
		return WILL_BLOCK_IF(true, REAL(sem_wait)(s));
	chaos_point(gp);
	pthread_testcancel();
	return try(s) == 0 ? 0 : wait_slow(gp, s, 0, NULL);
}
COMPAT(sem_wait, 2_2_5, "GLIBC_2.2.5");

EXPORT int sem_timedwait(sem_t *restrict s, const struct timespec *restrict abs)
{
	struct g *gp = getg_adopt();

	if (!gp || !in_lot(s) || !is_libcs(REAL(sem_timedwait)))
		return WILL_BLOCK_IF(true, REAL(sem_timedwait)(s, abs));
	pthread_testcancel();
	if (abs->tv_nsec >= 0 && abs->tv_nsec < 1000000000 && try(s) == 0)
		return 0;
	return wait_slow(gp, s, CLOCK_REALTIME, abs);
}
COMPAT(sem_timedwait, 2_2_5, "GLIBC_2.2.5");

EXPORT int sem_clockwait(sem_t *restrict s, clockid_t clock, const struct timespec *restrict abs)
{
	struct g *gp = getg_adopt();

	if (!gp || !in_lot(s) || !is_libcs(REAL(sem_clockwait)))
		return WILL_BLOCK_IF(true, REAL(sem_clockwait)(s, clock, abs));
	pthread_testcancel();
	if ((clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC) && abs->tv_nsec >= 0 &&
	    abs->tv_nsec < 1000000000 && try(s) == 0)
		return 0;
	return wait_slow(gp, s, clock, abs);
}
COMPAT(sem_clockwait, 2_30, "GLIBC_2.30");

EXPORT int sem_trywait(sem_t *s)
{
	struct g *gp = getg();
	int r = REAL(sem_trywait)(s);

	if (r != 0 && gp)
		preempt_check(gp);
	return r;
}
COMPAT(sem_trywait, 2_2_5, "GLIBC_2.2.5");

// Async-signal-safe. Not a byte of *s is touched after the real post.
EXPORT int sem_post(sem_t *s)
{
	struct g *gp = getg();
	int r = REAL(sem_post)(s);

	if (r == 0 && unlikely(lot_has_waiters(s)))
		lot_wake(s, 1);
	if (gp)
		preempt_check(gp);
	return r;
}
COMPAT(sem_post, 2_2_5, "GLIBC_2.2.5");
