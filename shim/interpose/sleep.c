// sleep.c: sleeping and yielding.
//
// A sleep is class 3: it blocks for certain, and for much longer than a hand-off takes. A sleep of
// no length is an old idiom for yielding; the kernel may still add its timer slack: class 2.

#include <sched.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#include "interpose.h"

#define SLEEPS(zero, call) ((zero) ? MAY_BLOCK(call) : WILL_BLOCK(call))

static bool is_zero(const struct timespec *t)
{
	return t && t->tv_sec == 0 && t->tv_nsec == 0;
}

REAL_FN(sleep);
EXPORT unsigned int sleep(unsigned int seconds)
{
	return SLEEPS(seconds == 0, REAL(sleep)(seconds));
}

REAL_FN(usleep);
EXPORT int usleep(useconds_t us)
{
	return SLEEPS(us == 0, REAL(usleep)(us));
}

REAL_FN(nanosleep);
EXPORT int nanosleep(const struct timespec *req, struct timespec *rem)
{
	return SLEEPS(is_zero(req), REAL(nanosleep)(req, rem));
}
ALIAS(__nanosleep, nanosleep);

// With TIMER_ABSTIME a time that has passed costs one useless hand-off; reading the clock on each
// call would cost every caller instead.
REAL_FN(clock_nanosleep);
EXPORT int clock_nanosleep(clockid_t clock, int flags, const struct timespec *req,
			   struct timespec *rem)
{
	return SLEEPS(is_zero(req), REAL(clock_nanosleep)(clock, flags, req, rem));
}
COMPAT_FROM(clock_nanosleep, "GLIBC_2.17", 2_2_5, "GLIBC_2.2.5");

REAL_FN(thrd_sleep);
EXPORT int thrd_sleep(const struct timespec *req, struct timespec *rem)
{
	return SLEEPS(is_zero(req), REAL(thrd_sleep)(req, rem));
}

// The real call when no one here waits, so that other processes still benefit.
REAL_FN(sched_yield);
EXPORT int sched_yield(void)
{
	struct g *gp = getg();

	if (gp && demand()) {
		if (spin_yields(gp, (uintptr_t)__builtin_return_address(0)))
			return 0;
		gosched(gp, G_RUNNABLE);
		gp->spin_back = os_nanotime();
		return 0;
	}
	if (gp)
		preempt_check(gp);
	return REAL(sched_yield)();
}
ALIAS(__sched_yield, sched_yield);

int pthread_yield(void); // <pthread.h> redirects it to sched_yield: not included here
ALIAS(pthread_yield, sched_yield);

EXPORT void thrd_yield(void)
{
	sched_yield();
}
