// park.c: the parking lot: where Gs wait for pthread objects.
//
// Problem. A wait for a lock must give up the P, and a release must make one waiter runnable without
// waking its kernel thread before there is a P for it. But the lock word must stay glibc's, so that
// code that was not interposed, or ran before us, can use the same object.
//
// Approach. Waiters queue in hash buckets by the object's address, FIFO. Who has waited takes by the
// real try function; the lot only decides who sleeps and who is made runnable. Nothing in the object
// is ours, so destroying it right after use, or unmapping it, is no concern of the lot's.
//
// The delicate race: a releaser looks at the bucket's count without its lock. A waiter raises the count
// (a locked instruction), then tries the object once more; a releaser releases (a locked instruction
// in glibc, or in mutex.c), then reads the count. One of them must see the other. Where the release is a plain store
// (pthread_spin_unlock) the lot is not used.
//
// A release by code that was not interposed wakes nobody: lot_acquire tries again by itself at an
// interval that grows from 10 ms to 1 s.
//
// A handler of the program may wait for objects itself, and a G is in one queue at most. So a waiter is in a
// critical section from lot_enqueue until it has parked, and handlers run before or after. A waker is in one
// until it has readied whom it took: a handler that leaves by longjmp must not lose them.

#include <errno.h>

#include "lot.h"

struct bucket lot[LOT_BUCKETS];

// The bucket's lock must be held.
static void append(struct bucket *b, struct g *gp, const void *addr)
{
	INVARIANT(!gp->waitaddr, gp, NULL); // in one queue at most
	store_relaxed(&gp->waitaddr, addr);
	gp->waitfor = addr;
	gp->waitnext = NULL;
	gp->waitprev = b->tail;
	if (b->tail)
		b->tail->waitnext = gp;
	else
		b->head = gp;
	b->tail = gp;
	fetch_add(&b->waiters,
		  lot_count(gp)); // before the waiter's second try; pairs with lot_has_waiters
	CHECKED(invariant_in_lot(b, gp));
	CHECKED(invariant_bucket(b));
}

void lot_remove(struct bucket *b, struct g *gp)
{
	CHECKED(invariant_in_lot(b, gp));
	if (gp->waitprev)
		gp->waitprev->waitnext = gp->waitnext;
	else
		b->head = gp->waitnext;
	if (gp->waitnext)
		gp->waitnext->waitprev = gp->waitprev;
	else
		b->tail = gp->waitprev;
	store_relaxed(&gp->waitaddr, NULL);
	store_relaxed(&b->waiters, b->waiters - lot_count(gp));
	CHECKED(invariant_bucket(b));
}

void lot_enqueue(struct g *gp, const void *addr, int kind)
{
	struct bucket *b = bucket_of(addr);

	bucket_lock(b);
	gp->waitkind = (uint8_t)kind;
	gp->waitmoved = false;
	append(b, gp, addr);
	bucket_unlock(b);
}

bool lot_leave(struct g *gp)
{
	for (;;) {
		const void *addr = load_relaxed(&gp->waitaddr);
		struct bucket *b;
		bool here;

		if (!addr)
			return false;
		b = bucket_of(addr);
		bucket_lock(b);
		here = gp->waitaddr == addr; // else it was taken or moved meanwhile
		if (here)
			lot_remove(b, gp);
		bucket_unlock(b);
		if (here)
			return true;
	}
}

bool lot_has_waiters(const void *addr)
{
	return load_relaxed(&bucket_of(addr)->waiters) !=
	       0; // after the caller's release; see above
}

// In one step for handlers: one that leaves by longjmp (settle) must see which of the two it was.
bool lot_leave_parked(struct g *gp)
{
	bool left;

	critical_enter();
	left = lot_leave(gp);
	if (left)
		store_relaxed(&gp->park, PARK_NONE);
	critical_leave();
	return left;
}

// Wait for the token of a waker that has already dequeued us. Still in the critical section: a handler that
// waits would take the token for its own.
void lot_absorb(struct g *gp)
{
	if (gopark_begin(gp, (enum wait_reason)gp->waitreason))
		park_wait(gp, NULL, 0);
}

int lot_wait(struct g *gp, enum wait_reason why, const struct deadline *until, unsigned flags)
{
	bool parked;
	int r;

	gp->waits_forever = !until;
	parked = gopark_begin(gp, why);
	critical_leave();
	if (!parked)
		return 0;
	r = park_wait(gp, until, flags);
	if (r == 0)
		return 0;
	if (!lot_leave_parked(gp)) { // a waker has us: it will goready us in a moment
		park_wait(gp, NULL, 0);
		return 0;
	}
	gounpark(gp);
	if (gp->waitmoved) // was signalled in time, waited only for its mutex
		return 0;
	return -r;
}

// A failed try may be worth repeating while the holder runs on another P: its section is mostly
// shorter than a switch, and holders are not preempted.
static int try_spinning(lot_try_fn *try, void *obj)
{
	int r = EBUSY;

	if (load_relaxed(&sched.nprocs) < 2)
		return r;
	for (int i = 0; i < 4 && r == EBUSY; i++) {
		for (int k = 0; k < 30; k++)
			cpu_relax();
		r = try(obj);
	}
	return r;
}

// Who holds obj, if that is known and it waits for a P: whoever waits for obj does best to give it its own.
static struct g *preempted_owner(const void *obj, enum wait_reason why)
{
	if (!demand())
		return NULL;
	if (why == WAIT_MUTEX)
		return g_queued(load_relaxed(&((const pthread_mutex_t *)obj)->__data.__owner));
	if (why == WAIT_RWLOCK_R || why == WAIT_RWLOCK_W)
		return g_queued(
			load_relaxed(&((const pthread_rwlock_t *)obj)->__data.__cur_writer));
	return NULL;
}

// Park; the P goes to the owner if that waits for one.
static bool wait_for_owner(struct g *gp, const void *obj, enum wait_reason why)
{
	struct g *owner = preempted_owner(obj, why);

	if (why == WAIT_MUTEX || why == WAIT_RWLOCK_R || why == WAIT_RWLOCK_W)
		lock_count(obj, LOCK_WAIT);
	if (owner)
		lock_count(obj, LOCK_OWNER_WAIT);
	return gopark_begin_for(gp, why, owner);
}

// A waiter that needs no wake-up any more leaves. If a waker had it already, that wake-up was meant for
// whoever comes next.
static void leave_and_pass_on(struct g *gp, const void *obj, int kind, bool parked)
{
	if (parked ? lot_leave_parked(gp) : lot_leave(gp)) {
		if (parked)
			gounpark(gp);
		return;
	}
	if (parked)
		park_wait(gp, NULL, 0);
	else
		lot_absorb(gp);
	if (kind == LOT_TRIER)
		return; // nobody else was passed over for it
	if (kind == LOT_ANY)
		lot_wake(obj, 1);
	else
		lot_wake_rwlock(obj);
}

// gp tries to take obj again and again. Until somebody lets go of it, or for so many ns, it need not. word: 0 when obj is free.
void lot_pause(struct g *gp, const void *obj, const int *word, int64_t ns)
{
	struct deadline until = os_deadline_in(ns);
	bool parked;

	critical_enter();
	lot_enqueue(gp, obj, LOT_TRIER);
	if (load_relaxed(word) == 0) { // after the count was raised; see the head of this file
		leave_and_pass_on(gp, obj, LOT_TRIER, false);
		critical_leave();
		return;
	}
	gp->waits_forever = false;
	parked = wait_for_owner(gp, obj, WAIT_MUTEX);
	critical_leave();
	if (parked && park_wait(gp, &until, 0) != 0)
		leave_and_pass_on(gp, obj, LOT_TRIER, true);
}

int lot_acquire(struct g *gp, void *obj, lot_try_fn *try, int kind, enum wait_reason why,
		const struct deadline *until, unsigned flags)
{
	struct handled since = handled_so_far(gp);
	int64_t interval = config.chaos ? 500 * 1000000 : 10 * 1000000; // chaos.c: no looks by time
	int r = preempted_owner(obj, why) ? EBUSY : try_spinning(try, obj);

	if (r != EBUSY)
		return r;
	for (;;) {
		bool parked;

		critical_enter();
		lot_enqueue(gp, obj, kind);
		r = try(obj); // after the count was raised; see the head of this file
		if (r != EBUSY || (until && os_deadline_passed(until))) {
			leave_and_pass_on(gp, obj, kind, false);
			critical_leave();
			return r == EBUSY ? ETIMEDOUT : r;
		}
		gp->waits_forever = !until;
		parked = wait_for_owner(gp, obj, why);
		critical_leave();
		if (parked) {
			for (;;) {
				struct deadline look = os_deadline_in(interval);
				bool last = false;

				if (until) {
					int64_t sec = until->at.tv_sec -
						      os_clock(until->clock) / 1000000000;

					last = sec <= interval / 1000000000 + 1;
				}
				int ended =
					-park_wait_since(gp, last ? until : &look, flags, since);

				if (ended == 0)
					break;
				// Without a P: was the object released behind our back?
				r = try(obj);
				if (r == EBUSY && ended == ETIMEDOUT &&
				    !(until && os_deadline_passed(until))) {
					if (interval < 1000000000) {
						interval *= 2;
						if (interval >= 1000000000 && !until)
							deadlock_suspect();
					}
					continue;
				}
				leave_and_pass_on(gp, obj, kind, true);
				return r == EBUSY ? ended : r;
			}
		}
		r = try(obj);
		if (r != EBUSY)
			return r;
	}
}

// The bucket's lock must be held.
static bool claimed_locked(const struct bucket *b, const void *addr)
{
	for (const struct g *gp = b->claims; gp; gp = gp->claimnext)
		if (gp->claim == addr)
			return true;
	return false;
}

bool lot_claimed(const void *addr)
{
	struct bucket *b = bucket_of(addr);
	bool claimed;

	// Without the lock: a reader that just misses a claim came before it.
	if (likely(!load_relaxed(&b->claims)))
		return false;
	bucket_lock(b);
	claimed = claimed_locked(b, addr);
	bucket_unlock(b);
	return claimed;
}

bool lot_claim(struct g *gp, const void *addr)
{
	struct bucket *b = bucket_of(addr);

	if (gp->claim) // in a handler on top of such a wait: no preference for this one
		return false;
	bucket_lock(b);
	gp->claim = addr;
	gp->claimnext = b->claims;
	store_relaxed(&b->claims, gp);
	bucket_unlock(b);
	return true;
}

void lot_unclaim(struct g *gp, bool wake)
{
	const void *addr = gp->claim;
	struct bucket *b = bucket_of(addr);
	struct g **link;

	if (!addr)
		return;
	bucket_lock(b);
	for (link = &b->claims; *link != gp; link = &(*link)->claimnext)
		;
	store_relaxed(link, gp->claimnext);
	gp->claim = NULL;
	bucket_unlock(b);
	if (wake && lot_has_waiters(addr))
		lot_wake_rwlock(addr);
}

// Unlink up to n waiters of addr, in order, chained by waitnext. writers_end: stop as rwlocks need it.
// The bucket's lock must be held.
static struct g *take_locked(struct bucket *b, const void *addr, int n, bool rwlock)
{
	struct g *list = NULL, **end = &list, *next, *trier = NULL;
	bool claimed = rwlock && claimed_locked(b, addr);

	for (struct g *gp = b->head; gp && n > 0; gp = next) {
		next = gp->waitnext;
		if (gp->waitaddr != addr || gp->waitkind == LOT_BARRED)
			continue;
		if (gp->waitkind == LOT_TRIER) {
			trier = trier ? trier : gp;
			continue; // it may never try again
		}
		if (rwlock && gp->waitkind != LOT_WRITER && claimed)
			continue; // who claims it but is not queued is awake, and tries
		if (rwlock && list && gp->waitkind == LOT_WRITER)
			break;
		lot_remove(b, gp);
		gp->waitnext = NULL;
		*end = gp;
		end = &gp->waitnext;
		n--;
		if (rwlock && gp->waitkind == LOT_WRITER)
			break;
	}
	if (!list && trier) {
		lot_remove(b, trier);
		trier->waitnext = NULL;
		list = trier;
	}
	return list;
}

// The caller is in a critical section until all of them are readied or queued elsewhere.
static struct g *take(const void *addr, int n, bool rwlock)
{
	struct bucket *b = bucket_of(addr);
	struct g *list;

	bucket_lock(b);
	list = take_locked(b, addr, n, rwlock);
	bucket_unlock(b);
	return list;
}

int lot_ready_all(struct g *list)
{
	int n = 0;

	for (struct g *next; list; list = next, n++) {
		next = list->waitnext; // once readied, it may queue somewhere else
		if (unlikely(list->apart))
			apart_ready(list);
		else
			goready(list);
	}
	return n;
}

int lot_wake(const void *addr, int n)
{
	critical_enter();
	n = lot_ready_all(take(addr, n, false));
	critical_leave();
	return n;
}

int lot_wake_rwlock(const void *addr)
{
	int n;

	critical_enter();
	n = lot_ready_all(take(addr, INT32_MAX, true));
	critical_leave();
	return n;
}

// Move a waiter that take() returned to the queue of its mutex, as one that was signalled.
static void move_to_mutex(struct g *gp)
{
	struct bucket *b = bucket_of(gp->waitmutex);

	bucket_lock(b);
	share_moves(b, gp->waitmutex);
	gp->waitkind = LOT_ANY;
	gp->waitmoved = true;
	append(b, gp, gp->waitmutex);
	bucket_unlock(b);
}

bool lot_signal(const void *cond, const void *held)
{
	struct g *gp;

	critical_enter();
	gp = take(cond, 1, false);
	if (gp && held && gp->waitmutex == held)
		move_to_mutex(gp);
	else if (gp)
		goready(gp);
	critical_leave();
	return gp;
}

bool lot_broadcast(const void *cond, const void *held)
{
	struct g *list, *gp, *next;

	critical_enter();
	list = take(cond, INT32_MAX, false);
	if (!list) {
		critical_leave();
		return false;
	}
	for (gp = list->waitnext; gp; gp = next) {
		next = gp->waitnext;
		if (gp->waitmutex)
			move_to_mutex(gp);
		else
			goready(gp);
	}
	// Last: if it is readied, its unlock of the mutex must find the others queued.
	if (held && list->waitmutex == held)
		move_to_mutex(list);
	else
		goready(list);
	critical_leave();
	return true;
}

void lot_wake_moved(const void *mutex)
{
	struct bucket *b = bucket_of(mutex);
	struct g *list = NULL, *next;

	critical_enter();
	bucket_lock(b);
	for (struct g *gp = b->head; gp; gp = next) {
		next = gp->waitnext;
		if (gp->waitaddr != mutex || !gp->waitmoved)
			continue;
		lot_remove(b, gp);
		gp->waitnext = list; // all of them, so their order does not matter
		list = gp;
	}
	bucket_unlock(b);
	lot_ready_all(list);
	critical_leave();
}

bool lot_arrive(struct g *gp, const void *addr, unsigned count)
{
	struct bucket *b = bucket_of(addr);
	struct g *list = NULL;
	unsigned here = 0;
	bool last;

	bucket_lock(b);
	for (struct g *w = b->head; w; w = w->waitnext)
		here += w->waitaddr == addr;
	last = here + 1 >= count;
	if (last) {
		// In the same section: a thread of the next round must not count this one's waiters.
		list = take_locked(b, addr, (int)here, false);
	} else {
		gp->waitkind = LOT_ANY;
		gp->waitmoved = false;
		append(b, gp, addr);
	}
	bucket_unlock(b);
	lot_ready_all(list);
	return last;
}

bool lot_barrier(struct g *gp, const void *addr, unsigned count)
{
	critical_enter();
	if (lot_arrive(gp, addr, count)) {
		critical_leave();
		return true;
	}
	lot_wait(gp, WAIT_BARRIER, NULL, 0);
	return false;
}

void lot_reset_in_child(void)
{
	for (int i = 0; i < LOT_BUCKETS; i++)
		lot[i] = (struct bucket){0};
	apart_reset_in_child();
}
