// invariants.c: what must always hold of the scheduler's data; only in the build that checks it (invariants.h).
//
// Problem. A broken queue or a P that two threads hold shows much later, as a hang or not at all. Approach: the conditions are looked at where the data
// change, by who has the right to change them, so that each is exact: lists and heaps under their locks, the state of a G at each step, a grant
// by the granter. What has no such place sysmon looks at: that each P's word and its holder's memory of it agree, that the counts agree with
// the queues at a moment at which nobody moves anything, and that nothing that should pass at once lasts (a pinned P, a G that is
// in no queue, an idle P beside work). Time alone proves nothing on a machine that may stand still: so that must have been seen again and again, too.
//
// Rejected: stopping the world to look. It would see only what is right in a stopped world, and make another schedule of each.
//
// The checks write nothing but their own fields, and add no ordering to those of the scheduler that are under test but in the counts around
// queues, which have locked instructions anyway.

#include "lot.h"

enum {
	WHOLE = 64, // entries up to which a list is walked at each change; longer ones at each WHOLEth
	GS = 64,    // Gs that sysmon looks at, at a time
	LOOKS = 50,   // and
	LONG = 60000, // ms: this often and for so long, what is odd is wrong
};
static const int64_t MS = 1000000;

// Moves in and out of the run queues. Nobody moves anything if both numbers are the same, begun being read first and once more.
static struct {
	uint32_t begun, done;
	int32_t queued; // Gs
} moves;

static struct odd idle_work;

// --- reports ----------------------------------------------------------------------------------------------

// LOG_OFF: whatever PREEMPT_LOG says.
#define say(...) log_line(LOG_OFF, __VA_ARGS__)

static void say_g(const char *what, const struct g *gp)
{
	if (!gp)
		return;
	say("%s: goid %u tid %d status %u park %u note %u queued %u locks %d preempt %d waiting %d",
	    what, gp->goid, gp->tid, gp->status, gp->park, gp->note, gp->checks.queued, gp->locks,
	    gp->preempt, gp->waiting);
	say("%s: p %lx pseq %lx p's word %lx waitaddr %lx kind %d moved %d waits for %d ready as "
	    "%d handlers %u",
	    what, (long)gp->p, (long)gp->pseq, gp->p ? (long)gp->p->word : 0L, (long)gp->waitaddr,
	    gp->waitkind, gp->waitmoved, gp->waitreason, gp->ready_as, gp->handlers);
}

static void say_p(const char *what, const struct p *pp)
{
	if (!pp)
		return;
	say("%s: id %u word %lx g %lx (goid %u) schedtick %u ring %u to %u next %lx", what, pp->id,
	    (long)pp->word, (long)pp->g, pp->g ? pp->g->goid : 0, pp->schedtick, pp->runqhead,
	    pp->runqtail, (long)pp->runnext);
}

void invariant_broken(const char *what, const char *file, int line, const struct g *gp,
		      const struct p *pp)
{
	char buf[256];
	struct text t = {buf, 0, sizeof buf - 1};

	say("invariant broken at %s:%d by tid %d, critical %u, %u locks held: %s", file, line,
	    os_gettid(), tls.critical, tls.checks.nheld, what);
	say_g("G", gp);
	say_p("P", pp);
	if (tls.self != gp)
		say_g("self", tls.self);
	say("sched: Ps %u made %u idle %u demand %d queued %u counted %d threads %u stopping %d "
	    "policy %s",
	    sched.nprocs, sched.nprocs_made, sched.npidle, sched.demand, sched.runq.size,
	    moves.queued, sched.ngs, sched.stopping, sched.policy ? sched.policy->name : "none");
	for (uint32_t i = 0; sched.allp && i < sched.nprocs_made && i < 8; i++)
		say_p("all Ps", &sched.allp[i]);
	text_printf(&t, "invariant broken: %s", what);
	buf[t.len] = 0;
	throw(buf);
}

// --- Gs -----------------------------------------------------------------------------------------------------

#define TO(status) (1u << (status))

static uint32_t edges(uint32_t from)
{
	switch ((enum g_status)from) {
	case G_IDLE: // RUNNING, SYSCALL: also in the child of a fork, where all are made idle, back from the handler that forked
		return TO(G_IDLE) | TO(G_RUNNABLE) | TO(G_RUNNING) | TO(G_WAITING) | TO(G_SYSCALL);
	case G_RUNNABLE:
	case G_PREEMPTED:
		return TO(G_RUNNING);
	case G_RUNNING:
		return TO(G_RUNNING) | TO(G_RUNNABLE) | TO(G_PREEMPTED) | TO(G_WAITING) |
		       TO(G_SYSCALL);
	case G_WAITING: // IDLE: its thread could not be made
		return TO(G_RUNNING) | TO(G_RUNNABLE) | TO(G_IDLE);
	case G_SYSCALL: // RUNNABLE, WAITING: it was cancelled there, and what unwinds it yields or waits
		return TO(G_RUNNING) | TO(G_SYSCALL) | TO(G_DEAD) | TO(G_RUNNABLE) | TO(G_WAITING);
	case G_DEAD:
		return TO(G_IDLE);
	}
	return 0;
}

void invariant_status(const struct g *gp, enum g_status to)
{
	uint32_t from = load_relaxed(&gp->status);

	if (unlikely(!(edges(from) & TO(to))))
		say("from status %u to %u", from, to);
	INVARIANT(edges(from) & TO(to), gp, NULL);
	INVARIANT(to == G_RUNNING || !gp->checks.queued, gp, NULL);
}

static bool is_held(const struct g *gp)
{
	return gp->p && load_relaxed(&gp->p->word) == (gp->pseq | P_RUNNING);
}

void invariant_granted(const struct g *gp, const struct p *pp)
{
	INVARIANT(P_STATE(pp->word) == P_SCHED, gp, pp);
	INVARIANT(pp->id < load_relaxed(&sched.nprocs_made) && pp == &sched.allp[pp->id], gp, pp);
	INVARIANT(!is_held(gp), gp, pp);
	INVARIANT(!gp->checks.queued, gp, pp);
	INVARIANT(!load_relaxed(&gp->waitaddr), gp, pp);
	INVARIANT(load_relaxed(&gp->park) == PARK_NONE, gp, pp);
}

void invariant_free(const struct g *gp)
{
	invariant_status(gp, G_IDLE);
	INVARIANT(!is_held(gp) && !gp->waitaddr && !gp->claim, gp, NULL);
}

// --- run queues -----------------------------------------------------------------------------------------------

void invariant_enqueues(struct g *gp)
{
	uint32_t status = load_relaxed(&gp->status);

	fetch_add(&moves.begun, 1); // before anything moves; pairs with the looks in look_at_counts
	INVARIANT(status == G_RUNNABLE || status == G_PREEMPTED, gp, NULL);
	INVARIANT(!gp->waitaddr && !is_held(gp), gp, NULL);
	INVARIANT(xchg(&gp->checks.queued, 1) == 0, gp, NULL); // against another who queues it
	fetch_add(&moves.queued, 1);			       // as begun
}

void invariant_dequeues(void)
{
	fetch_add(&moves.begun, 1); // as in invariant_enqueues
}

void invariant_dequeued(struct g *gp)
{
	uint32_t status;

	if (!gp)
		return;
	status = load_relaxed(&gp->status);
	INVARIANT(status == G_RUNNABLE || status == G_PREEMPTED, gp, NULL);
	INVARIANT(xchg(&gp->checks.queued, 0) == 1, gp, NULL); // against another who takes it
	fetch_sub(&moves.queued, 1);			       // as begun
}

void invariant_moved(void)
{
	fetch_add(&moves.done, 1); // after all has moved; pairs with the looks in look_at_counts
}

// Is a list of n to be walked now?
static bool whole(uint32_t n)
{
	static uint32_t turn; // a hint

	return n <= WHOLE ||
	       (store_relaxed(&turn, load_relaxed(&turn) + 1), load_relaxed(&turn) % WHOLE == 0);
}

void invariant_gqueue(const struct gqueue *q)
{
	const struct g *gp = q->head, *last = NULL;
	uint32_t n = 0;

	INVARIANT(invariant_holds(&sched.lock), NULL, NULL);
	INVARIANT(!q->head == !q->size, q->head, NULL);
	if (!whole(q->size))
		return;
	for (; gp && n <= q->size; gp = gp->schedlink, n++) {
		INVARIANT(gp->checks.queued, gp, NULL);
		last = gp;
	}
	INVARIANT(n == q->size, q->head, NULL);
	INVARIANT(!n || q->tail == last, q->tail, NULL); // of an empty one nobody reads it
}

void invariant_heap(const struct heap *h)
{
	INVARIANT(invariant_holds(&sched.lock), NULL, NULL);
	INVARIANT(h->n <= h->cap, NULL, NULL);
	if (!whole(h->n))
		return;
	for (uint32_t i = 0; i < h->n; i++) {
		const struct queued *q = &h->at[i], *parent = &h->at[i ? (i - 1) / 4 : 0];

		INVARIANT((int64_t)((uint64_t)q->key - (uint64_t)parent->key) >= 0, q->gp, NULL);
		INVARIANT(q->gp->checks.queued, q->gp, NULL);
	}
}

// --- Ps -----------------------------------------------------------------------------------------------------------

void invariant_idle(void)
{
	uint32_t n = 0, count = load_relaxed(&sched.npidle);

	INVARIANT(invariant_holds(&sched.lock), NULL, NULL);
	INVARIANT(count <= sched.nprocs, NULL, NULL);
	for (const struct p *pp = sched.pidle; pp && n <= count; pp = pp->link, n++)
		INVARIANT(P_STATE(pp->word) == P_IDLE && pp->id < sched.nprocs && !pp->g, NULL, pp);
	INVARIANT(n == count, NULL, sched.pidle);
}

// --- locks ----------------------------------------------------------------------------------------------------------

static bool is_bucket(const struct lock *l)
{
	return (uintptr_t)l - (uintptr_t)lot < sizeof lot;
}

bool invariant_holds(const struct lock *l)
{
	for (uint32_t i = 0; i < tls.checks.nheld; i++)
		if (tls.checks.held[i] == l)
			return load_relaxed(&l->word) != 0;
	return false;
}

// HACKING.md, section 8.
void invariant_acquires(const struct lock *l)
{
	INVARIANT(tls.critical > 0, tls.self, NULL);
	INVARIANT(tls.checks.nheld < 3, tls.self, NULL);
	for (uint32_t i = 0; i < tls.checks.nheld; i++) {
		const struct lock *held = tls.checks.held[i];

		INVARIANT(held != l && held != &sched.lock, tls.self, NULL);
		INVARIANT(!is_bucket(l), tls.self, NULL); // the first of all
	}
}

void invariant_acquired(const struct lock *l)
{
	tls.checks.held[tls.checks.nheld++] = l;
}

void invariant_releases(const struct lock *l)
{
	INVARIANT(invariant_holds(l) && tls.critical > 0, tls.self, NULL);
	INVARIANT(tls.checks.nheld > 0 && tls.checks.held[tls.checks.nheld - 1] == l, tls.self,
		  NULL);
	tls.checks.nheld--;
}

void invariant_alone(void)
{
	INVARIANT(!tls.checks.nheld, tls.self, NULL);
}

// --- the parking lot ----------------------------------------------------------------------------------------------------

void invariant_in_lot(const struct bucket *b, const struct g *gp)
{
	INVARIANT(invariant_holds(&b->lock), gp, NULL);
	INVARIANT(gp->waitaddr && bucket_of(gp->waitaddr) == b, gp, NULL);
	INVARIANT((gp->waitprev ? gp->waitprev->waitnext : b->head) == gp, gp, NULL);
	INVARIANT((gp->waitnext ? gp->waitnext->waitprev : b->tail) == gp, gp, NULL);
}

void invariant_bucket(const struct bucket *b)
{
	uint64_t count = load_relaxed(&b->waiters), n = 0;

	INVARIANT(!b->head == !count && !b->tail == !count, b->head, NULL);
	INVARIANT(count >> 32 <= (uint32_t)count, b->head, NULL);
	if (!whole((uint32_t)count))
		return;
	for (const struct g *gp = b->head; gp && (uint32_t)n <= (uint32_t)count;
	     gp = gp->waitnext) {
		invariant_in_lot(b, gp);
		n += lot_count(gp);
	}
	INVARIANT(n == count, b->head, NULL);
}

// --- sysmon ---------------------------------------------------------------------------------------------------------------

// what, or NULL: nothing is odd. True: it has been for long, and the same all the time.
static bool lasts(struct odd *odd, const char *what, uint64_t same, int64_t now)
{
	if (!what || odd->what != what || odd->same != same) {
		*odd = (struct odd){what, same, now, 0};
		return false;
	}
	return ++odd->looks > LOOKS && now - odd->since > LONG * MS;
}

// Who holds pp knows it, and is nobody else. Between pin and unpin a G may have forgotten its P, and the word be the same
// afterwards: so it must be wrong several times.
static bool disowned(const struct p *pp, uint64_t word, const struct g *gp)
{
	if (!gp)
		return load_acquire(&pp->word) == word; // as above
	for (int i = 0; i < 4; i++) {
		const struct p *held = load_acquire(&gp->p); // pairs with wirep
		uint64_t seq = load_acquire(&gp->pseq);	     // as above
		uint64_t again = load_acquire(&pp->word);    // as above

		if (again != word || load_acquire(&pp->g) != gp) // as above
			return false;
		if (held == pp && seq == P_SEQ(word))
			return false;
	}
	return true;
}

static void look_at_p(struct p *pp, int64_t now)
{
	uint64_t word = load_acquire(&pp->word);   // pairs with wirep: pp->g is its holder
	const struct g *gp = load_acquire(&pp->g); // as above
	enum p_state state = P_STATE(word);

	INVARIANT(state == P_IDLE || state == P_RUNNING || state == P_SCHED || state == P_DEAD, gp,
		  pp);
	if (state == P_RUNNING)
		INVARIANT(!disowned(pp, word, gp), gp, pp);
	INVARIANT(!lasts(&pp->checks.odd, state == P_SCHED ? "pinned" : NULL, word, now), gp, pp);
}

static void look_at_g(struct g *gp, int64_t now)
{
	struct p *pp = load_acquire(&gp->p);	      // pairs with wirep
	uint64_t seq = load_acquire(&gp->pseq), word; // as above
	uint32_t status = load_relaxed(&gp->status);
	const char *odd = NULL;

	if (pp) {
		const struct g *holder;

		word = load_acquire(&pp->word); // as above
		holder = load_acquire(&pp->g);	// as above
		if (word == (seq | P_RUNNING) && holder != gp &&
		    load_acquire(&pp->word) == word &&				  // as above
		    load_acquire(&gp->p) == pp && load_acquire(&gp->pseq) == seq) // as above
			INVARIANT(holder == gp, gp, pp);
	}
	if ((status == G_RUNNABLE || status == G_PREEMPTED) && !load_relaxed(&gp->checks.queued))
		odd = "in no run queue";
	// A new thread waits for its creator, which may wait for a P.
	if (status == G_WAITING && load_relaxed(&gp->park) == PARK_PARKED &&
	    !load_relaxed(&gp->waitaddr) && load_relaxed(&gp->switches))
		odd = "nobody will ready it";
	INVARIANT(!lasts(&gp->checks.odd, odd,
			 load_relaxed(&gp->switches) << 32 ^ (uint64_t)gp->goid, now),
		  gp, pp);
}

static uint32_t ring_length(const struct p *pp)
{
	return load_relaxed(&pp->runqtail) - load_relaxed(&pp->runqhead) +
	       (load_relaxed(&pp->runnext) != NULL);
}

static void look_at_counts(void)
{
	uint32_t begun = load_seq_cst(&moves.begun),
		 queues; // pairs with invariant_enqueues and _dequeues
	int32_t queued, demand;

	if (load_seq_cst(&moves.done) != begun) // pairs with invariant_moved
		return;
	queued = load_relaxed(&moves.queued);
	demand = load_relaxed(&sched.demand);
	queues = load_relaxed(&sched.runq.size);
	for (uint32_t i = 0; i < load_relaxed(&sched.nprocs_made); i++)
		queues += ring_length(&sched.allp[i]);
	if (load_seq_cst(&moves.begun) != begun) // after these looks; pairs as above
		return;
	INVARIANT(demand == queued, NULL, NULL);
	INVARIANT(queues == (uint32_t)queued, NULL, NULL);
}

void invariants_look(int64_t now)
{
	static struct g *at;
	uint32_t made = load_relaxed(&sched.nprocs_made);
	bool waits;

	if (load_relaxed(&sched.active) != PHASE_ACTIVE)
		return;
	for (uint32_t i = 0; i < made; i++)
		look_at_p(&sched.allp[i], now);
	if (!at)
		at = load_acquire(&sched.allgs); // pairs with gfree_refill
	for (int i = 0; at && i < GS; at = at->alllink, i++)
		look_at_g(at, now);
	look_at_counts();
	INVARIANT(load_relaxed(&sched.ngs) <= load_relaxed(&sched.ngs_made), NULL, NULL);
	waits = !load_relaxed(&sched.stopping) && load_relaxed(&sched.npidle) &&
		!sched.policy->empty();
	INVARIANT(!lasts(&idle_work, waits ? "an idle P beside work" : NULL, 0, now), NULL, NULL);
}

void invariants_stopped(void)
{
	critical_enter();
	lock_acquire(&sched.lock);
	// Else its owner has just let it go on.
	if (load_relaxed(&sched.stopping)) {
		INVARIANT(load_relaxed(&sched.npidle) == sched.nprocs, NULL, NULL);
		for (uint32_t i = 0; i < sched.nprocs_made; i++)
			INVARIANT(P_STATE(sched.allp[i].word) ==
					  (i < sched.nprocs ? P_IDLE : P_DEAD),
				  NULL, &sched.allp[i]);
	}
	lock_release(&sched.lock);
	critical_leave();
}

void invariants_reset_in_child(void)
{
	for (struct g *gp = sched.allgs; gp; gp = gp->alllink)
		gp->checks.queued = 0;
	moves.begun = moves.done = 0;
	moves.queued = 0;
	tls.checks.nheld = 0;
}
