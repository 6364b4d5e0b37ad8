// idle.c: the Ps: how many there are, and which are idle.
//
// An idle P is in sched.pidle, under sched.lock; one above the number of Ps is dead and in no list. What races with what:
// the head of proc.c.

#include "shim.h"

static void pinit(uint32_t id)
{
	struct p *pp = &sched.allp[id];

	pp->id = id;
	pp->rand = id * 2654435761u + 1;
	pp->word = P_SEQ_ONE | P_DEAD;
}

// Put a pinned P into the idle list. sched.lock must be held.
void pidleput(struct p *pp)
{
	INVARIANT(P_STATE(pp->word) == P_SCHED || P_STATE(pp->word) == P_DEAD, NULL, pp);
	store_relaxed(&pp->g, NULL);
	pp->freed_by = NULL; // nobody has used what was given up
	pp->link = sched.pidle;
	sched.pidle = pp;
	store_release(&pp->word,
		      P_SEQ(pp->word) | P_IDLE); // for readers of the state; list is locked
	fetch_add(&sched.npidle, 1); // before the caller looks at the queues; pairs with ready()
	CHECKED(invariant_idle());
}

// Take an idle P, pinned, or NULL.
struct p *pidleget(void)
{
	struct p *pp;

	if (load_relaxed(&sched.npidle) == 0)
		return NULL;
	lock_acquire(&sched.lock);
	pp = unlikely(sched.stopping) ? NULL : sched.pidle;
	if (pp) {
		sched.pidle = pp->link;
		fetch_sub(&sched.npidle, 1);			     // under the lock
		store_release(&pp->word, P_SEQ(pp->word) | P_SCHED); // as in pidleput
	}
	CHECKED(invariant_idle());
	lock_release(&sched.lock);
	if (pp)
		TRACE(write, TRACE_PROC_START, 0, pp, 0, 0, 0, 0);
	return pp;
}

// Change the number of Ps. Growing: new Ps become idle and take waiting work. Shrinking: idle Ps die
// now, the others when they are next let go of; their holders are asked to yield.
void procresize(int nprocs)
{
	uint32_t n = (uint32_t)nprocs, old;
	struct p **link;

	if (nprocs < 1 || nprocs > MAX_PROCS)
		return;
	critical_enter();
	lock_acquire(&sched.lock);
	old = sched.nprocs;
	for (; sched.nprocs_made < n; sched.nprocs_made++)
		pinit(sched.nprocs_made);
	store_relaxed(&sched.nprocs, n);
	for (uint32_t i = old; i < n; i++)
		if (P_STATE(sched.allp[i].word) == P_DEAD)
			pidleput(&sched.allp[i]);
	for (link = &sched.pidle; *link;) {
		struct p *pp = *link;

		if (pp->id < n) {
			link = &pp->link;
			continue;
		}
		*link = pp->link;
		fetch_sub(&sched.npidle, 1);			    // under the lock
		store_release(&pp->word, P_SEQ(pp->word) | P_DEAD); // as in schedule
	}
	CHECKED(invariant_idle());
	lock_release(&sched.lock);
	for (uint32_t i = n; i < old; i++) {
		struct g *gp = load_relaxed(&sched.allp[i].g); // type-stable, may be out of date

		if (gp)
			store_relaxed(&gp->preempt, true);
	}
	wakep(os_nanotime());
	critical_leave();
}

// There is no sysmon (any more): nobody waits for a P from here on. Those who do, get new ones.
void sched_open(void)
{
	store_relaxed(&sched.open, true);
	procresize(MAX_PROCS);
}
