// spin.c: pthread_spin_*.
//
// A spin lock's waiter does not park: sections are short, and the unlock is a plain store, after which
// a look for waiters would need a fence. It spins a little, for a holder on another P, and then yields its
// P when somebody else could use it. Holders are not preempted (gp->locks), so yielding is rare.

#include <pthread.h>

#include "interpose.h"

REAL_FN(pthread_spin_lock);
REAL_FN(pthread_spin_trylock);
REAL_FN(pthread_spin_unlock);

enum { SPINS = 20 }; // PAUSEs between looks at demand: about 1 us on current x86

__attribute__((noinline)) static int lock_slow(struct g *gp, pthread_spinlock_t *l)
{
	for (;;) {
		for (int i = 0; i < SPINS; i++) {
			cpu_relax();
			if (load_relaxed(l) > 0 && REAL(pthread_spin_trylock)(l) == 0)
				return 0;
		}
		gp->locks--;
		if (demand()) {
			STAT(spin_yields);
			gosched(gp, G_RUNNABLE);
		} else {
			preempt_check(gp);
		}
		gp->locks++;
		compiler_barrier();
	}
}

EXPORT int pthread_spin_lock(pthread_spinlock_t *l)
{
	struct g *gp = getg();

	if (unlikely(!gp))
		return REAL(pthread_spin_lock)(l);
	gp->locks++;
	compiler_barrier();
	if (likely(REAL(pthread_spin_trylock)(l) == 0))
		return 0;
	return lock_slow(gp, l);
}
COMPAT(pthread_spin_lock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_spin_trylock(pthread_spinlock_t *l)
{
	struct g *gp = getg();
	int r;

	if (unlikely(!gp))
		return REAL(pthread_spin_trylock)(l);
	gp->locks++;
	compiler_barrier();
	r = REAL(pthread_spin_trylock)(l);
	if (r != 0) {
		gp->locks--;
		preempt_check(gp);
	}
	return r;
}
COMPAT(pthread_spin_trylock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_spin_unlock(pthread_spinlock_t *l)
{
	struct g *gp = getg();
	int r = REAL(pthread_spin_unlock)(l);

	if (likely(gp && gp->locks) && --gp->locks == 0)
		preempt_check(gp);
	return r;
}
COMPAT(pthread_spin_unlock, 2_2_5, "GLIBC_2.2.5");
