// invariants.h: what must always hold of the scheduler's data, checked at run time in a build of its own.
//
// With -DPREEMPT_INVARIANTS (libpreempt_invariants.so, which the tests make) each check that fails says which it was, with the state,
// on stderr, and aborts. Without, all of this is nothing, arguments included. invariants.c has what is checked beyond single conditions.

#pragma once

#include "types.h"

#ifdef PREEMPT_INVARIANTS
// gp, pp: whose state is of interest, or NULL.
#define INVARIANT(cond, gp, pp)                                                                    \
	do {                                                                                       \
		if (unlikely(!(cond)))                                                             \
			invariant_broken(#cond, __FILE__, __LINE__, (gp), (pp));                   \
	} while (0)
#define CHECKED(call) (call)
#else
#define INVARIANT(cond, gp, pp) ((void)0)
#define CHECKED(call) ((void)0)
#endif

struct bucket;

void invariant_broken(const char *what, const char *file, int line, const struct g *gp,
		      const struct p *pp) __attribute__((noreturn));

// About to become to: is there such an edge (HACKING.md, section 3)?
void invariant_status(const struct g *gp, enum g_status to);

// Around each move into or out of the run queues, up to the change of sched.demand.
void invariant_enqueues(struct g *gp);
void invariant_dequeues(void);
void invariant_dequeued(struct g *gp); // NULL: there was none
void invariant_moved(void);

void invariant_granted(const struct g *gp, const struct p *pp); // pp is about to become gp's
void invariant_free(const struct g *gp);			// gp leaves the scheduler
bool invariant_holds(const struct lock *l);			// the calling thread does
void invariant_acquires(const struct lock *l);
void invariant_acquired(const struct lock *l);
void invariant_releases(const struct lock *l);
void invariant_alone(void); // the caller may wait now: it holds no lock

// The caller holds the lock of what is looked at.
void invariant_idle(void); // the list of idle Ps
void invariant_gqueue(const struct gqueue *q);
void invariant_heap(const struct heap *h);
void invariant_bucket(const struct bucket *b);
void invariant_in_lot(const struct bucket *b, const struct g *gp); // gp is queued there

// sysmon.
void invariants_look(int64_t now); // at all Ps, some Gs, and the counts if they stand still
void invariants_stopped(void);	   // the world has stopped

void invariants_reset_in_child(void);
