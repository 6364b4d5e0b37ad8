// spin.c: pthread_spin_*.
//
// A spin lock's waiter does not park: sections are short, and the unlock is a plain store, after which
// a look for waiters would need a fence. It spins, for a holder that runs on another P: holders are not
// preempted (gp->locks). Only a long wait says that the holder does not run, and then the P is
// better given to somebody else. Yielding sooner would be unfair: between two Ps the lock is won by chance,
// and who yields on losing gives a whole slice away for it.

#include <pthread.h>

#include "interpose.h"

REAL_FN(pthread_spin_lock);
REAL_FN(pthread_spin_trylock);
REAL_FN(pthread_spin_unlock);

enum {
	PAUSES = 20, // between looks at the P: about 1 us on current x86
	LOOKS = 20, // at the lock per PAUSE: the holder of before takes a free lock within some 10 ns,
		    // while a PAUSE lasts 50; a waiter that mostly pauses would hardly ever win
	ROUNDS = 50, // until the holder is taken to be off its CPU
};

__attribute__((noinline)) static int lock_slow(struct g *gp, pthread_spinlock_t *l)
{
	for (int round = 1;; round++) {
		for (int i = 0; i < PAUSES; i++) {
			cpu_relax();
			for (int k = 0; k < LOOKS; k++)
				if (load_relaxed(l) > 0 && REAL(pthread_spin_trylock)(l) == 0)
					return 0;
		}
		gp->locks--;
		if (round % ROUNDS == 0 && demand()) {
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
