// barrier.c: pthread_barrier_wait.
//
// The real one has no try form, so the lot itself is the barrier: it counts the waiters queued at the
// address. From the object only its count and its shared flag are read, whose places are checked once
// against what pthread_barrier_init writes; where they differ, and for shared ones, glibc's own is used. Threads
// that are no Gs wait there as well (apart.c).

#include <pthread.h>

#include "objects.h"

REAL_FN(pthread_barrier_wait);

struct layout {
	unsigned in, round, count;
	int shared;
};

static bool layout_known(void)
{
	static int known; // 0: not asked yet, 1: yes, -1: no
	pthread_barrier_t b;

	if (!known && pthread_barrier_init(&b, NULL, 4711) == 0) {
		const struct layout *l = (const void *)&b;

		store_relaxed(&known, l->count == 4711 && l->in == 0 && l->shared == 0 ? 1 : -1);
		pthread_barrier_destroy(&b);
	}
	return load_relaxed(&known) > 0;
}

static void jumps(void *unused)
{
	(void)unused;
	apart_leaves();
}

// Not inlined: a struct g is large.
__attribute__((noinline)) static bool wait_apart(const pthread_barrier_t *b, unsigned count)
{
	struct g standin = {0};
	volatile bool last;

	pthread_cleanup_push(jumps, NULL);
	last = apart_barrier(&standin, b, count);
	pthread_cleanup_pop(0);
	return last;
}

EXPORT int pthread_barrier_wait(pthread_barrier_t *b)
{
	struct g *gp = getg_adopt();
	const struct layout *l = (const void *)b;
	bool last;

	if (!layout_known() || l->shared || (!gp && load_relaxed(&sched.active) != PHASE_ACTIVE))
		return WILL_BLOCK(REAL(pthread_barrier_wait)(b));
	last = gp ? lot_barrier(gp, b, l->count) : wait_apart(b, l->count);
	return last ? PTHREAD_BARRIER_SERIAL_THREAD : 0;
}
COMPAT(pthread_barrier_wait, 2_2_5, "GLIBC_2.2.5");
