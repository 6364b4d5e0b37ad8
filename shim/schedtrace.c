// schedtrace.c: lines about the scheduler while the program runs, in Go's format.

#include "shim.h"

// Go's GODEBUG=schedtrace line. Spinning does not exist here: a waker grants a P, nobody looks for
// one. Threads that wait count as idle.
void schedtrace_line(struct text *t, int64_t now)
{
	uint32_t n = load_relaxed(&sched.nprocs), waiting = 0;
	struct g *gp = load_acquire(&sched.allgs); // pairs with the push of a new G

	for (; gp; gp = gp->alllink)
		waiting += load_relaxed(&gp->status) == G_WAITING;
	text_printf(t,
		    "SCHED %ldms: gomaxprocs=%u idleprocs=%u threads=%u spinningthreads=0 "
		    "needspinning=0 idlethreads=%u runqueue=%u [",
		    (sched.start_time ? now - sched.start_time : 0) / 1000000, n,
		    load_relaxed(&sched.npidle), load_relaxed(&sched.ngs), waiting,
		    load_relaxed(&sched.runq.size));
	for (uint32_t i = 0; i < n; i++) {
		const struct p *pp = &sched.allp[i];
		uint32_t h = load_relaxed(&pp->runqhead), size = load_relaxed(&pp->runqtail) - h;

		if ((int32_t)size < 0) // the two were read at different times
			size = 0;
		text_printf(t, " %u", size + (load_relaxed(&pp->runnext) != NULL));
	}
	text_printf(t, " ] schedticks=[");
	for (uint32_t i = 0; i < n; i++)
		text_printf(t, " %u", load_relaxed(&sched.allp[i].schedtick));
	text_printf(t, " ]\n");
}
