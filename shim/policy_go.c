// policy_go.c: who runs next, in Go's order.
//
// Every 61st schedtick the global queue first, so that two Gs that ready each other for ever cannot
// starve it; else runnext, the local ring, a batch of the global queue, half of another P's ring.
// Victims are visited in random order, four passes, and only the last one takes a runnext, which
// its P is about to run anyway.
//
// Go's batch spares the global lock. Here a G has its own kernel thread, and the kernel wakes that where it ran
// last. So up to BATCH_PROCS Ps the G that fits the CPU best is taken at the moment it is needed, one at a time: batches in
// rings had both of two Ps' threads on one CPU for 10 to 20 % of the time (64 threads; 1 to 4 % without), and who
// then ran alone got several times its share of a contended lock.

#include "shim.h"

enum { BATCH_PROCS = 16 };

static void go_enqueue(struct p *pp, struct g *gp, bool next)
{
	if (pp)
		runqput(pp, gp, next);
	else
		globrunqput(gp);
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
	while (b) {
		uint32_t r = a % b;

		a = b;
		b = r;
	}
	return a;
}

static struct g *steal(struct p *pp)
{
	uint32_t n = load_relaxed(&sched.nprocs), at, step;

	if (n < 2)
		return NULL;
	for (int pass = 0; pass < 4; pass++) {
		// xorshift; a start and a step coprime to n visit every P once.
		pp->rand ^= pp->rand << 13;
		pp->rand ^= pp->rand >> 17;
		pp->rand ^= pp->rand << 5;
		at = pp->rand % n;
		step = (pp->rand / n) % n + 1;
		while (gcd(step, n) != 1)
			step = step % n + 1;
		for (uint32_t i = 0; i < n; i++, at = (at + step) % n) {
			struct g *gp;

			if (&sched.allp[at] == pp)
				continue;
			gp = runqsteal(pp, &sched.allp[at], pass == 3);
			if (gp)
				return gp;
		}
	}
	return NULL;
}

static struct g *go_pick(struct p *pp, bool *inherit)
{
	struct g *gp;

	*inherit = false;
	if (pp->schedtick % 61 == 0 && (gp = globrunqget(NULL, 1)))
		return gp;
	if ((gp = runqget(pp, inherit)))
		return gp;
	if ((gp = globrunqget(load_relaxed(&sched.nprocs) > BATCH_PROCS ? pp : NULL, 0)))
		return gp;
	return steal(pp);
}

static bool go_empty(void)
{
	uint32_t n = load_relaxed(&sched.nprocs);

	if (!globrunqempty())
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (!runqempty(&sched.allp[i]))
			return false;
	return true;
}

static void go_drain(struct p *pp)
{
	struct g *gp;
	bool inherit;

	while ((gp = runqget(pp, &inherit)))
		globrunqput(gp);
}

const struct policy policy_go = {
	.name = "go",
	.enqueue = go_enqueue,
	.pick = go_pick,
	.take = globrunqtake, // who was preempted is there
	.empty = go_empty,
	.drain = go_drain,
};
