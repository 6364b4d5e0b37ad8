// spin.c: pthread_spin_*.
//
// A spin lock's waiter does not park: sections are short, and the unlock is a plain store, after which
// a look for waiters would need a fence. It spins, for a holder that runs on another P: holders are not
// preempted (gp->locks). After a long wait it looks whether a G that has a P took this lock last (gp->spun). If none, the
// holder waits for a P, and ours goes to somebody else at once. If there is one, it is off its CPU: the kernel may have put both
// Ps' threads on one, and then we must give up the CPU, not the P. Yielding the P for that would be unfair, for who
// yields gives a whole slice away, and useless, for the next thread would spin there, too.
//
// Turns. The holder of before has the lock word in its cache and would win nearly every time, for a whole slice. So a
// thread that took the same lock TURN times running, while somebody was seen spinning, lets go first: it waits
// until the lock was taken, or a moment. Handing over each time would cost two cache misses for each section.

#include <pthread.h>

#include "interpose.h"

REAL_FN(pthread_spin_lock);
REAL_FN(pthread_spin_trylock);
REAL_FN(pthread_spin_unlock);

enum {
	PAUSES = 20, // between looks at the P: about 1 us on current x86
	LOOKS = 20, // at the lock per PAUSE: the holder of before takes a free lock within some 10 ns,
		    // while a PAUSE lasts 50; a waiter that mostly pauses would hardly ever win
	OFF_CPU =
		50, // rounds until the holder is taken to be off its CPU, which may be ours: ask the kernel
	OFF_P = 300,   // rounds until it is taken to have no P either
	TURN = 16,     // times in a row; a hand-over costs about as much as two short sections
	GIVE_WAY = 30, // PAUSEs for a spinner to take the lock
	NOBODY = 300,  // times in a row after it did not: it is not running
	COUNTS = 64,
};

// How many threads spin for a lock, by its address; a hint. A cache line each.
static struct {
	_Alignas(64) uint32_t n;
} spinners[COUNTS];

static uint32_t *spinners_of(const pthread_spinlock_t *l)
{
	return &spinners[((uintptr_t)l >> 2 ^ (uintptr_t)l >> 12) % COUNTS].n;
}

// gp has had the lock TURN times in a row.
__attribute__((noinline)) static void give_way(struct g *gp, pthread_spinlock_t *l)
{
	gp->spin_turns = 0;
	if (load_relaxed(spinners_of(l)) == 0)
		return;
	for (int i = 0; i < GIVE_WAY; i++) {
		if (load_relaxed(l) <= 0)
			return;
		cpu_relax();
	}
	gp->spin_turns = TURN - NOBODY;
}

// Has the thread that holds l a P, as far as can be seen?
static bool holder_runs(const struct g *self, const pthread_spinlock_t *l)
{
	for (uint32_t i = 0; i < load_relaxed(&sched.nprocs); i++) {
		const struct g *gp = load_relaxed(&sched.allp[i].g);

		if (gp && gp != self && load_relaxed(&gp->spun) == l &&
		    load_relaxed(&gp->locks) > 0)
			return true;
	}
	return false;
}

// Let the holder have the CPU. Waking up after a sleep, be it the shortest, the kernel looks for an idle CPU, as it does
// not after sched_yield.
static void yield_cpu(void)
{
	uint32_t never = 0;
	struct deadline soon = os_deadline_in(1000);

	os_futex_wait(&never, 0, &soon);
}

__attribute__((noinline)) static int lock_slow(struct g *gp, pthread_spinlock_t *l)
{
	uint32_t *n = spinners_of(l);

	gp->spun = NULL;
	gp->spin_turns = 0;
	for (int round = 1;; round++) {
		fetch_add(n, 1); // a hint
		for (int i = 0; i < PAUSES; i++) {
			cpu_relax();
			for (int k = 0; k < LOOKS; k++)
				if (load_relaxed(l) > 0 && REAL(pthread_spin_trylock)(l) == 0) {
					fetch_sub(n, 1); // as above
					gp->spun = l;
					return 0;
				}
		}
		fetch_sub(n, 1); // as above
		lock_not_counted(gp);
		preempt_check(gp);
		if (round % OFF_CPU == 0) {
			if (holder_runs(gp, l)) {
				yield_cpu();
			} else if (demand()) {
				STAT(spin_yields);
				TRACE(write, TRACE_SPIN, TRACE_SPIN_LOCK, gp->p, gp->goid, 0,
				      (uintptr_t)l, 0);
				gosched(gp, G_RUNNABLE);
			}
		}
		lock_counted(gp);
	}
}

EXPORT int pthread_spin_lock(pthread_spinlock_t *l)
{
	struct g *gp = getg();

	if (unlikely(!gp))
		return REAL(pthread_spin_lock)(l);
	lock_counted(gp);
	if (gp->spun != l)
		gp->spin_turns = 0;
	else if (unlikely(++gp->spin_turns >= TURN))
		give_way(gp, l);
	if (unlikely(REAL(pthread_spin_trylock)(l) != 0))
		return lock_slow(gp, l);
	gp->spun = l;
	return 0;
}
COMPAT(pthread_spin_lock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_spin_trylock(pthread_spinlock_t *l)
{
	struct g *gp = getg();
	int r;

	if (unlikely(!gp))
		return REAL(pthread_spin_trylock)(l);
	lock_counted(gp);
	r = REAL(pthread_spin_trylock)(l);
	if (r == 0) {
		gp->spun = l;
	} else {
		lock_not_counted(gp);
		preempt_check(gp);
	}
	return r;
}
COMPAT(pthread_spin_trylock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_spin_unlock(pthread_spinlock_t *l)
{
	struct g *gp = getg();
	int r = REAL(pthread_spin_unlock)(l);

	lock_released(gp);
	return r;
}
COMPAT(pthread_spin_unlock, 2_2_5, "GLIBC_2.2.5");
