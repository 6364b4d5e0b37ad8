// lockshare.c: shares of a contended mutex.
//
// Problem. Who lets go of a mutex and takes it again at once, gets it: the thread that was woken meanwhile comes some microseconds too
// late, again and again. So of two threads that want a mutex all the time, on a CPU each, the one that holds it for longer has it nearly
// always, whatever share of the CPUs each has.
//
// Approach. The time for which a mutex is held while others wait is shared like the CPUs. Each unlock that finds waiters charges its G
// for the time since the last such unlock (gp->used). A G that has had SLICE more than the least of the waiters is barred: it wakes
// that one, and at its next lock it waits although the mutex may be free. It is let in when one of the others has as much as it has. So the
// mutex changes hands about once per SLICE, not at each unlock, and within a slice it is locked and unlocked at full speed: handing
// it over each time costs two switches for each section, however short.
//
// Who waits is so passed over for SLICE by each of the others at most; without this, as in Go before starvation mode, for ever.
//
// A free mutex must not stay unused because the others do something else. So a barred G looks every LOOK whether anybody took the mutex
// since; if not, the others had their opportunity, and the debt is forgiven. At worst it loses LOOK for each SLICE.
//
// Nobody is charged for a time in which nobody waited: from when one comes, after a while without, or is moved there by a signal of a condition. (A main
// thread that gave work to others was charged for all of its time, as it found those waiting whom its own signals had moved. nginx ran at 0.36 of plain.)
//
// Nothing is accounted for before a thread has waited: an uncontended mutex costs a load and a compare.
//
// Rejected: charging from lock to unlock (two clocks for each pair, contended or not); a queue that hands the mutex over at each unlock once a
// waiter has starved, as Go does (equal numbers of turns, not equal times: the ratio stays that of the sections).
//
// There is one account for each bucket of the lot; a second mutex there at the same time goes without. All of this is policy fair's.

#include <errno.h>

#include "lot.h"

enum {
	SLICE = 1000000, // ns that a G may have more than one that waits
	DEBT = 20,	 // slices counted at most
	LOOK = 100000,	 // ns
	WOKEN = 100000,	 // ns that one who was woken for the mutex may take to find it locked again
	STALE = 5000000, // ns without an unlock that found waiters: the account is free for another mutex
	FEW = 8,	 // waiters that are looked at
	SELDOM = 16, // of so many unlocks one is looked at while all waiters are barred
};

// Is the account of b that of m? If it is free, it is now. The bucket's lock must be held.
static bool account(struct bucket *b, const void *m, int64_t now)
{
	if (b->shared != m) {
		if (now - b->last < STALE)
			return false;
		b->shared = m;
		b->begins = false;
	}
	if (now - b->last > SLICE)
		b->last = now; // nobody waited
	return true;
}

// What gp has had. Who was away neither has saved up anything nor owes it for ever. The bucket's lock must be held.
static int64_t used(struct bucket *b, struct g *gp)
{
	if (gp->shared != b->shared || gp->used < b->clock - SLICE) {
		gp->used = gp->shared == b->shared ? b->clock - SLICE : b->clock;
		gp->shared = b->shared;
	}
	if (gp->used > b->clock + DEBT * SLICE)
		gp->used = b->clock + DEBT * SLICE;
	return gp->used;
}

// Does somebody wait for m who is not barred? The bucket's lock must be held.
static bool is_wanted(const struct bucket *b, const void *m)
{
	for (const struct g *w = b->head; w; w = w->waitnext)
		if (w->waitaddr == m && w->waitkind != LOT_BARRED)
			return true;
	return false;
}

void share_waits(struct g *gp, const void *m)
{
	struct bucket *b = bucket_of(m);
	int64_t now;

	if (!sched.policy->shares_locks)
		return;
	bucket_lock(b);
	now = os_nanotime();
	if (account(b, m, now)) {
		(void)used(b, gp);
		if (now - b->last > WOKEN && !is_wanted(b, m))
			b->last = now - WOKEN;
	}
	bucket_unlock(b);
}

void share_moves(struct bucket *b, const void *m)
{
	if (b->shared == m && !is_wanted(b, m))
		b->begins = true;
}

// Takes out the first waiter for m, and who was barred and has no more than the least now. The least is looked for among gp's and
// those of the first few. The bucket's lock must be held.
static struct g *let_in(struct bucket *b, struct g *gp, const void *m)
{
	struct g *list = NULL, **end = &list, *next, *trier = NULL;
	int64_t least = gp->used, waits = INT64_MAX;
	int n = 0;

	for (struct g *w = b->head; w && n < FEW; w = w->waitnext) {
		if (w->waitaddr != m || w->waitkind == LOT_BARRED || w->waitkind == LOT_TRIER)
			continue;
		if (used(b, w) < waits)
			waits = w->used;
		n++;
	}
	if (waits < least)
		least = waits;
	if (least > b->clock)
		b->clock = least;
	if (n && gp->used - waits > SLICE)
		gp->barred = m;
	n = 0;
	for (struct g *w = b->head; w; w = next) {
		next = w->waitnext;
		if (w->waitaddr == m && w->waitkind == LOT_TRIER) {
			trier = trier ? trier : w;
			continue; // it may never try again
		}
		if (w->waitaddr != m || (w->waitkind == LOT_BARRED ? used(b, w) > least : n++ > 0))
			continue;
		lot_remove(b, w);
		w->waitnext = NULL;
		*end = w;
		end = &w->waitnext;
	}
	if (!list && trier) {
		lot_remove(b, trier);
		trier->waitnext = NULL;
		list = trier;
	}
	return list;
}

void share_released(struct g *gp, const void *m)
{
	struct bucket *b = bucket_of(m);
	struct g *list = NULL;
	int64_t now;
	bool shares;

	if (!gp || !sched.policy->shares_locks) {
		lot_wake(m, 1);
		return;
	}
	if (lot_all_barred(b) && ++gp->unlooked % SELDOM)
		return;
	critical_enter();
	now = os_nanotime();
	bucket_lock(b);
	shares = account(b, m, now);
	if (shares) {
		(void)used(b, gp);
		if (b->begins)
			b->last = now;
		b->begins = false;
		gp->used += now - b->last;
		b->last = now;
		list = let_in(b, gp, m);
	}
	bucket_unlock(b);
	if (shares)
		lot_ready_all(list);
	else
		lot_wake(m, 1);
	critical_leave();
}

// Has nobody used m for a while, or is it accounted for no longer? Then gp's debt is forgiven.
static bool forgiven(struct g *gp, const void *m)
{
	struct bucket *b = bucket_of(m);
	bool unused;

	bucket_lock(b);
	unused = b->shared != m || os_nanotime() - b->last > LOOK;
	if (unused)
		gp->shared = NULL;
	bucket_unlock(b);
	return unused;
}

// In lock, before anything is tried.
void share_barred(struct g *gp, void *m)
{
	gp->barred = NULL; // also for handlers on top of the wait
	for (int i = 0; i < DEBT * SLICE / LOOK; i++) {
		struct deadline until = os_deadline_in(LOOK);

		critical_enter();
		lot_enqueue(gp, m, LOT_BARRED);
		if (lot_wait(gp, WAIT_MUTEX, &until, 0) != ETIMEDOUT || forgiven(gp, m))
			return;
	}
}
