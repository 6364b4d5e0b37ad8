// spin.c: pthread_spin_*.
//
// A spin lock's waiter does not park: sections are short, and the unlock is a plain store, after which
// a look for waiters would need a fence. It spins, for a holder that runs on another P: holders are not
// preempted (gp->locks). After a long wait it looks which G holds this lock (gp->spun). If that one waits for a P, it gets ours
// at once. If it runs, it is off its CPU: the kernel may have put both
// Ps' threads on one, and then we must give up the CPU, not the P. Yielding the P for that would be unfair, for who
// yields gives a whole slice away, and useless, for the next thread would spin there, too.
//
// Turns. The holder of before has the lock word in its cache and would win nearly every time, for a whole slice. So a
// thread that took the same lock TURN times running, while somebody was seen spinning, lets go first: it waits
// until the lock was taken, or a moment. Handing over each time would cost two cache misses for each section.

#include <pthread.h>

#include "interpose.h"
#include "../probes.h"

REAL_FN(pthread_spin_lock);
REAL_FN(pthread_spin_trylock);
REAL_FN(pthread_spin_unlock);

enum {
	PAUSES = 20, // between looks at the P: about 1 us on current x86
	LOOKS = 20, // at the lock per PAUSE: the holder of before takes a free lock within some 10 ns,
		    // while a PAUSE lasts 50; a waiter that mostly pauses would hardly ever win
	OFF_CPU =
		50, // rounds until the holder is taken to be off its CPU, which may be ours: ask the kernel
	OFF_P = 300,   // rounds until it is taken to have no P, if it is not known
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

// In gp->spun: l is not held any more.
static const volatile void *let_go(const pthread_spinlock_t *l)
{
	return (const volatile char *)l + 1;
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

// The G that holds l, as far as can be seen, or NULL: nobody, or not known.
static struct g *holder_of(const struct g *self, const pthread_spinlock_t *l)
{
	// acquire: pairs with gfree_refill
	for (struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) {
		uint32_t status = load_relaxed(&gp->status);

		if (gp != self && status != G_IDLE && status != G_DEAD &&
		    load_relaxed(&gp->spun) == l)
			return gp;
	}
	return NULL;
}

// Let the holder have the CPU. Waking up after a sleep, be it the shortest, the kernel looks for an idle CPU, as it does
// not after sched_yield.
static void yield_cpu(struct g *gp)
{
	uint32_t never = 0;
	struct deadline soon = os_deadline_in(1000);

	critical_enter(); // no handler may leave dozes behind by a jump
	gp->dozes = true;
	os_futex_wait(&never, 0, &soon);
	gp->dozes = false;
	critical_leave();
}

// The holder of l, if it wants a P and has none, else NULL. ret_runs: it has one.
static struct g *waiting_holder(const struct g *gp, const pthread_spinlock_t *l, bool *ret_runs)
{
	struct g *holder = holder_of(gp, l);
	uint32_t status = holder ? load_relaxed(&holder->status) : G_IDLE;

	lock_count((const void *)l, LOCK_WAIT);
	*ret_runs = status == G_RUNNING;
	if (status != G_RUNNABLE && status != G_PREEMPTED)
		return NULL; // asleep, or it has come back meanwhile
	lock_count((const void *)l, LOCK_OWNER_WAIT);
	return holder;
}

// gp has waited for l for long. That it does not get the lock need not be for want of a CPU: another thread may win it again
// and again. So a slice is not given away but to a holder that is known to want a P.
static void somebody_else(struct g *gp, const pthread_spinlock_t *l, int round)
{
	bool runs;
	struct g *holder = waiting_holder(gp, l, &runs);

	if (runs)
		yield_cpu(gp);
	else if (demand() && (holder || round % OFF_P == 0))
		spin_yield_lock(gp, l, (uintptr_t)__builtin_return_address(0), gp->run_since,
				holder);
}

// A try has failed, as have many before it.
__attribute__((noinline)) static void tried(struct g *gp, const pthread_spinlock_t *l, void *from)
{
	bool runs;
	struct g *holder = waiting_holder(gp, l, &runs);

	if (demand())
		spin_yield_lock(gp, l, (uintptr_t)from, os_nanotime(), holder);
	else if (runs)
		yield_cpu(gp);
}

__attribute__((noinline)) static int lock_slow(struct g *gp, pthread_spinlock_t *l)
{
	uint32_t *n = spinners_of(l);

	gp->spin_turns = 0;
	for (int round = 1;; round++) {
		fetch_add(n, 1); // a hint
		for (int i = 0; i < PAUSES; i++) {
			cpu_relax();
			for (int k = 0; k < LOOKS; k++)
				if (load_relaxed(l) > 0 && REAL(pthread_spin_trylock)(l) == 0) {
					fetch_sub(n, 1); // as above
					store_relaxed(&gp->spun, l);
					return 0;
				}
		}
		fetch_sub(n, 1); // as above
		lock_not_counted(gp);
		preempt_check(gp);
		if (round % OFF_CPU == 0 && load_relaxed(l) <= 0)
			somebody_else(gp, l, round);
		lock_counted(gp);
	}
}

EXPORT int pthread_spin_lock(pthread_spinlock_t *l)
{
	struct g *gp = getg();

	if (unlikely(!gp))
		return REAL(pthread_spin_lock)(l);
	lock_counted(gp);
	if (gp->spun != let_go(l))
		gp->spin_turns = 0;
	else if (unlikely(++gp->spin_turns >= TURN))
		give_way(gp, l);
	if (unlikely(REAL(pthread_spin_trylock)(l) != 0))
		return lock_slow(gp, l);
	store_relaxed(&gp->spun, l);
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
		store_relaxed(&gp->spun, l);
		gp->tries = 0;
	} else {
		lock_not_counted(gp);
		preempt_check(gp);
		if (spin_tried(gp, (const void *)l) && gp->locks <= 0)
			tried(gp, l, __builtin_return_address(0));
	}
	return r;
}
COMPAT(pthread_spin_trylock, 2_2_5, "GLIBC_2.2.5");

EXPORT int pthread_spin_unlock(pthread_spinlock_t *l)
{
	struct g *gp = getg();
	int r;

	if (likely(gp && gp->spun == l))
		store_relaxed(&gp->spun, let_go(l));
	r = REAL(pthread_spin_unlock)(l);
	lock_released(gp);
	return r;
}
COMPAT(pthread_spin_unlock, 2_2_5, "GLIBC_2.2.5");
