// apart.c: threads without the scheduler, at the barriers of those who have it.
//
// Problem. A barrier of Gs is the parking lot itself (interpose/barrier.c); in glibc's object nobody is counted. Some
// threads are no Gs: there was no memory for one, they end, or they are in a handler on top of a wait. Such a thread in
// glibc's barrier would wait for those in the lot, and they for it. Locks, semaphores and condition variables
// need nothing of the kind: their state is glibc's, and a release wakes who waits in either place.
//
// Approach. It queues in the lot as a struct g on its stack. Nobody but the lot ever sees that one: who takes it out of
// the queue does not ready it, but sets gp->note, on which the thread sleeps in the kernel, and reads nothing of it
// any more.
//
// The delicate race: a handler on top of the wait may leave by longjmp, and another frame will be where the struct was. So every
// jump takes all of the thread's out of their queues (apart_leaves). If it was one from place to place in the handler, the thread comes
// back to its wait, and arrives anew: at a barrier, that is as if it had come later. A cancellation or
// pthread_exit takes them out by a cleanup handler.
//
// Rejected: a reserve of Gs, which has an end.

#include "lot.h"

enum { APART_WAITS, APART_READY, APART_OUT }; // gp->note

bool apart_barrier(struct g *gp, const void *addr, unsigned count)
{
	struct g *below = tls.apart; // a handler on top of a wait may wait, too

	gp->apart = true;
	do {
		bool last;

		critical_enter();
		gp->note = APART_WAITS;
		gp->schedlink = below;
		last = lot_arrive(gp, addr, count);
		if (!last)
			tls.apart = gp;
		critical_leave();
		if (last)
			return true;
		while (load_acquire(&gp->note) == APART_WAITS) // pairs with apart_ready
			os_futex_wait(&gp->note, APART_WAITS, NULL);
		tls.apart = below;
	} while (gp->note == APART_OUT);
	return false;
}

void apart_ready(struct g *gp)
{
	uint32_t *word = &gp->note;

	store_release(word, APART_READY); // pairs with apart_barrier: its frame may be gone now
	os_futex_wake(word, 1);
}

void apart_leaves(void)
{
	critical_enter();
	for (struct g *gp = tls.apart; gp; gp = gp->schedlink) {
		if (lot_leave(gp))
			gp->note = APART_OUT;
		// Else somebody has it, and writes to it in a moment.
		while (load_acquire(&gp->note) == APART_WAITS) // pairs with apart_ready
			os_futex_wait(&gp->note, APART_WAITS, NULL);
	}
	tls.apart = NULL; // what the jump leaves is no more; who comes back puts itself there again
	critical_leave();
}

void apart_reset_in_child(void)
{
	for (struct g *gp = tls.apart; gp; gp = gp->schedlink) {
		gp->waitaddr = NULL;
		gp->note = APART_OUT;
	}
	tls.apart = NULL;
}
