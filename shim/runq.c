// runq.c: the queues of policy go.
//
// Each P has a ring of 256 Gs and one slot runnext; besides there is one global list. The ring is
// Go's: the P's owner alone moves runqtail, anyone may take from runqhead by CAS, so an owner and
// its thieves never lock. A full ring sheds half of itself to the global list.
//
// The delicate race: a thief copies pointers before its CAS on runqhead. Until the CAS succeeds they
// may be stale (the owner took them, even reused the slots); a failed CAS throws them away.

#include "shim.h"

// Append to the global list. sched.lock must be held.
static void globrunqput_list(struct g *head, struct g *tail, uint32_t n)
{
	tail->schedlink = NULL;
	if (sched.runq.tail)
		sched.runq.tail->schedlink = head;
	else
		sched.runq.head = head;
	sched.runq.tail = tail;
	store_relaxed(&sched.runq.size, sched.runq.size + n);
}

enum {
	FAR = 64,	   // Gs passed, at most; who would come behind those comes last
	PATIENT = 2000000, // ns for which who computes makes way for those who wait by spinning
};

// before NULL: first.
static void put_after(struct gqueue *q, struct g *before, struct g *gp)
{
	gp->schedlink = before ? before->schedlink : q->head;
	if (before)
		before->schedlink = gp;
	else
		q->head = gp;
	if (q->tail == before)
		q->tail = gp;
	store_relaxed(&q->size, q->size + 1);
}

void gqueue_put(struct gqueue *q, struct g *gp)
{
	put_after(q, q->tail, gp);
}

// Where who waits by spinning belongs. Many locks are had in the order in which threads began to wait for them, and teams
// make their rounds together: so spinners come in that order, and before those that compute, unless one of these has waited for
// PATIENT already. Who looked in vain comes behind one other G the first time, two the second, four, ..., all, and then so again:
// whatever it waits for, everybody has a turn.
void gqueue_put_spun(struct gqueue *q, struct g *gp)
{
	uint32_t turn = gp->spin_yields % SPIN_TURNS, passes = turn ? 1u << (turn - 1) : 1;
	struct g *at = q->head, *before = NULL;

	for (uint32_t i = 0; at && i < FAR; i++, before = at, at = at->schedlink) {
		if (i < passes)
			continue;
		if (at->ready_as == READY_SPUN ? at->spin_since <= gp->spin_since
					       : gp->runnable_since - at->runnable_since > PATIENT)
			continue;
		put_after(q, before, gp);
		return;
	}
	put_after(q, q->tail, gp);
}

bool gqueue_take(struct gqueue *q, const struct g *gp)
{
	struct g *at, *before = NULL;

	for (at = q->head; at && at != gp; at = at->schedlink)
		before = at;
	if (!at)
		return false;
	if (before)
		before->schedlink = gp->schedlink;
	else
		q->head = gp->schedlink;
	if (q->tail == gp)
		q->tail = before;
	store_relaxed(&q->size, q->size - 1);
	return true;
}

// Gs that wait by spinning may all wait for the one that has just been preempted. So that one comes after the next AHEAD of them
// already, not after all. sched.lock must be held.
static void put_preempted(struct g *gp)
{
	enum { AHEAD = 2 };
	struct g *at = sched.runq.head, *before = NULL;
	int spun = 0;

	for (int i = 0; at && i < FAR; i++, before = at, at = at->schedlink) {
		if (at->ready_as == READY_SPUN && ++spun > AHEAD) {
			put_after(&sched.runq, before, gp);
			return;
		}
	}
	put_after(&sched.runq, sched.runq.tail, gp);
}

// Executed with tls.critical > 0; takes sched.lock.
void globrunqput(struct g *gp)
{
	lock_acquire(&sched.lock);
	if (gp->ready_as == READY_PREEMPTED)
		put_preempted(gp);
	else if (gp->ready_as == READY_SPUN)
		gqueue_put_spun(&sched.runq, gp);
	else
		globrunqput_list(gp, gp, 1);
	CHECKED(invariant_gqueue(&sched.runq));
	lock_release(&sched.lock);
}

// Executed with tls.critical > 0; takes sched.lock.
bool globrunqtake(struct g *gp)
{
	bool took;

	lock_acquire(&sched.lock);
	took = gqueue_take(&sched.runq, gp);
	CHECKED(invariant_gqueue(&sched.runq));
	lock_release(&sched.lock);
	return took;
}

// Does it matter who comes first? Of those who spin, not among those who come behind all.
static bool in_order(const struct g *gp)
{
	return gp->ready_as == READY_SPUN && gp->spin_yields % SPIN_TURNS != SPIN_LAST;
}

// Take the next G off the global list: the first that ran on this CPU last among those that came with the head, else
// the head.
//
// The kernel puts a thread that is woken on the CPU it ran on before, also when a thread runs there and
// the waker's CPU is about to become free; with HZ=250 it may take 4 ms until it notices (measured: 9 % of two
// CPUs idle with 16 busy threads). Slices end together on all Ps (sysmon.c), so to choose among the Gs of one such moment
// is enough for most, and nobody is passed over by who came TOGETHER later. (Chosen among the first eight, a G
// could be the only one of its CPU: it followed itself for ever, while seven others shared the other CPU.)
// sched.lock must be held.
static struct g *globrunq_next(uint32_t cpu)
{
	enum { LOOK = 8, TOGETHER = 200000 /* ns */ };
	int64_t together = config.quantum / 2 < TOGETHER ? config.quantum / 2 : TOGETHER;
	struct g *gp = sched.runq.head;

	if (!gp)
		return NULL;
	if (gp->cpu != cpu && !in_order(gp)) {
		struct g *next = gp->schedlink;

		for (int i = 1; i < LOOK && next; i++, next = next->schedlink) {
			if (next->cpu == cpu && !in_order(next) &&
			    next->runnable_since - gp->runnable_since < together) {
				gp = next;
				break;
			}
		}
	}
	gqueue_take(&sched.runq, gp);
	return gp;
}

// Take one G to run; with pp, move a fair share of the rest to its ring (Go: size/nprocs + 1, at
// most half a ring). Takes sched.lock.
struct g *globrunqget(struct p *pp, uint32_t max)
{
	uint32_t n, cpu;
	struct g *gp;

	if (load_relaxed(&sched.runq.size) == 0)
		return NULL;
	cpu = os_getcpu();
	lock_acquire(&sched.lock);
	n = sched.runq.size / load_relaxed(&sched.nprocs) + 1;
	if (n > sched.runq.size)
		n = sched.runq.size;
	if (max && n > max)
		n = max;
	if (n > RUNQ_SIZE / 2)
		n = RUNQ_SIZE / 2;
	gp = globrunq_next(cpu);
	for (; pp && n > 1; n--) {
		// Room is sure: callers come with an empty ring or max 1.
		uint32_t t = pp->runqtail;

		store_relaxed(&pp->runq[t % RUNQ_SIZE], globrunq_next(cpu));
		store_release(&pp->runqtail, t + 1); // pairs with load_acquire in runqsteal
	}
	CHECKED(invariant_gqueue(&sched.runq));
	lock_release(&sched.lock);
	return gp;
}

// Ring full: half of it and gp go to the global list. False: a thief made room meanwhile.
static bool runqputslow(struct p *pp, struct g *gp, uint32_t h, uint32_t t)
{
	struct g *batch[RUNQ_SIZE / 2 + 1];
	uint32_t n = (t - h) / 2;

	for (uint32_t i = 0; i < n; i++)
		batch[i] = load_relaxed(&pp->runq[(h + i) % RUNQ_SIZE]);
	if (!cas(&pp->runqhead, h, h + n)) // commits the take; competes with runqsteal
		return false;
	batch[n] = gp;
	for (uint32_t i = 0; i < n; i++)
		batch[i]->schedlink = batch[i + 1];
	lock_acquire(&sched.lock);
	globrunqput_list(batch[0], batch[n], n + 1);
	CHECKED(invariant_gqueue(&sched.runq));
	lock_release(&sched.lock);
	return true;
}

// Executed by the owner of pp. next: take the runnext slot and kick its old occupant to the ring.
void runqput(struct p *pp, struct g *gp, bool next)
{
	if (next) {
		gp = xchg(&pp->runnext, gp); // competes with a thief's CAS in runqsteal
		if (!gp)
			return;
	}
	for (;;) {
		uint32_t h =
			load_acquire(&pp->runqhead); // pairs with the thief's CAS: slots are free
		uint32_t t = pp->runqtail;

		INVARIANT(t - h <= RUNQ_SIZE, gp, pp);
		if (t - h < RUNQ_SIZE) {
			store_relaxed(&pp->runq[t % RUNQ_SIZE], gp);
			store_release(&pp->runqtail, t + 1); // pairs with load_acquire in runqsteal
			return;
		}
		if (runqputslow(pp, gp, h, t))
			return;
	}
}

// Executed by the owner of pp. ret_inherit: the G came from runnext and continues the slice.
struct g *runqget(struct p *pp, bool *ret_inherit)
{
	struct g *gp = load_relaxed(&pp->runnext);

	if (gp && cas(&pp->runnext, gp, NULL)) { // only a thief can compete
		*ret_inherit = true;
		return gp;
	}
	*ret_inherit = false;
	for (;;) {
		uint32_t h = load_acquire(&pp->runqhead); // pairs with thieves' CAS

		if (pp->runqtail == h)
			return NULL;
		gp = load_relaxed(&pp->runq[h % RUNQ_SIZE]);
		if (cas(&pp->runqhead, h, h + 1)) // commits the take; competes with runqsteal
			return gp;
	}
}

// Executed by the owner of pp: take half of victim's ring; return one, keep the rest in pp's ring,
// which must be empty.
struct g *runqsteal(struct p *pp, struct p *victim, bool steal_runnext)
{
	for (;;) {
		uint32_t h = load_acquire(&victim->runqhead); // pairs with other consumers' CAS
		uint32_t t = load_acquire(&victim->runqtail); // pairs with the store in runqput
		uint32_t n = t - h, pt = pp->runqtail;

		n -= n / 2;
		if (n == 0) {
			struct g *gp = steal_runnext ? load_relaxed(&victim->runnext) : NULL;

			if (gp &&
			    cas(&victim->runnext, gp, NULL)) // competes with the owner's runqget
				return gp;
			return NULL;
		}
		if (n > RUNQ_SIZE / 2) // h and t were read at different times
			continue;
		for (uint32_t i = 0; i < n; i++)
			store_relaxed(&pp->runq[(pt + i) % RUNQ_SIZE],
				      load_relaxed(&victim->runq[(h + i) % RUNQ_SIZE]));
		if (!cas(&victim->runqhead, h, h + n)) // commits the take
			continue;
		n--;
		{
			struct g *gp = load_relaxed(&pp->runq[(pt + n) % RUNQ_SIZE]);

			if (n)
				store_release(&pp->runqtail,
					      pt + n); // pairs with load_acquire above
			return gp;
		}
	}
}

bool globrunqempty(void)
{
	return load_seq_cst(&sched.runq.size) ==
	       0; // after pidleput's RMW; pairs with goready's put
}

bool runqempty(const struct p *pp)
{
	// acquire x3: Go's runqempty. runnext is looked at last, because runqput kicks an old runnext
	// to the ring before anybody could see both empty.
	for (;;) {
		uint32_t h = load_acquire(&pp->runqhead); // pairs with consumers' CAS
		uint32_t t = load_acquire(&pp->runqtail); // pairs with runqput
		struct g *next = load_relaxed(&pp->runnext);

		if (t == load_acquire(&pp->runqtail)) // pairs with runqput: nothing moved meanwhile
			return h == t && !next;
	}
}
