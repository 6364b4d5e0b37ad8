// spinq.c: in which order those who wait by spinning run again, under policy fair.
//
// Problem. Most of them look in vain: a look costs two switches and some microseconds, so who is run matters more than anything else. Many
// locks are had in the order in which threads began to wait for them, and teams make their rounds together: then the one
// that has waited for longest is to look first. But what it waits for may be done by any of the others.
//
// Approach. A look in vain need not be repeated before something has happened: progress, that is a G that came to wait anew, or
// one that did not spin and ran. So the one goes first that has waited for longest among those who have not looked since; if all have,
// who looked longest ago. That one has each AGEth turn in any case, so everybody looks again whatever happens.
// Who was found by a sample has only those: a look of it costs 0.15 ms. So has who waits outside a line (convoy.c), or the line would not end.
//
// A lock of their own making may favour one of them: whose counters share the cache set of the lock word, say, wins it back from all
// others (one of 64 threads had ten times the sections of each of the others). So who has had LEAD more of a P than those that wait, on average, comes behind
// these until they have had as much. Were it the one that all wait for, their looks in vain are charged, and so end that; and
// each AGE * FARth turn is that of the first in the list, whoever it is.
//
// A wake-up across CPUs takes the kernel some 10 us, as long as several looks: so one that ran on a CPU where no other P's holder
// runs is preferred, but the first is passed over PASSED times for each P in a row at most.
//
// Who is among the first FIRSTS in line is told so (gp->spin_first): it may well be its turn as soon as those have run that run now, and
// then it is better to go on looking than to yield (spin.c).
//
// Rejected: only the first few in line where nobody else ever gets on, as with ticket locks. They were had by both CPUs in turn, and the
// wake-ups across cost more than all looks in vain (16 threads: 0.8 of the sections). Places in one list, behind 1, 2, 4, ... others after each look in vain. The one whose turn had come was behind all
// then, and a lock of 16 threads went through 8 looks for each section.

#include "shim.h"

enum {
	AGE = 16,
	FAR = 64, // Gs looked at
	PASSED = 4,
	LEAD = 2000000, // ns
	FIRSTS = 4,	// so near to the first in line it may be its turn soon
};

void spinq_progress(struct spinq *q)
{
	q->progress++;
}

void spinq_put(struct spinq *q, struct g *gp)
{
	if (gp->spin_yields == 0)
		spinq_progress(q);
	gp->spin_looked = q->progress;
	gqueue_put(&q->all, gp);
}

static bool may_gain(const struct spinq *q, const struct g *gp)
{
	return gp->spin_looked != q->progress && !gp->spin_behind;
}

// The most virtual time that one may have to come in its turn: that of the others, on average, and LEAD.
static int64_t bound(const struct spinq *q)
{
	int64_t base = q->all.head->vtime, sum = 0;
	uint32_t n = 0;

	for (const struct g *gp = q->all.head; gp && n < FAR; gp = gp->schedlink, n++)
		sum += gp->vtime - base;
	return base + sum / n + LEAD;
}

// Who looked longest ago, or looks for the first time.
static struct g *oldest(const struct spinq *q, int64_t most, uint64_t taken)
{
	uint32_t n = 0;

	for (struct g *gp = q->all.head; gp && n < FAR; gp = gp->schedlink, n++)
		if (gp->vtime <= most && !(taken & cpu_bit(gp->cpu)))
			return gp;
	return taken ? oldest(q, most, 0) : q->all.head;
}

// How many wait for longer than gp?
static uint32_t ahead(const struct spinq *q, const struct g *gp)
{
	uint32_t n = 0, k = 0;

	for (const struct g *at = q->all.head; at && n < FAR; at = at->schedlink, n++)
		k += at != gp && !at->spin_behind && at->spin_since < gp->spin_since;
	return k;
}

static struct g *in_order(const struct spinq *q, struct g *gp)
{
	gp->spin_first = ahead(q, gp) < FIRSTS;
	return gp;
}

// taken: the CPUs on which holders of other Ps run (cpu_bit). It stays in the queue.
struct g *spinq_choose(struct spinq *q, uint64_t taken)
{
	struct g *first = NULL, *here = NULL;
	uint32_t n = 0;
	int64_t most;

	if (!q->all.head || q->turns++ % (AGE * FAR) == 0)
		return q->all.head;
	most = bound(q);
	if (q->turns % AGE == 0)
		return oldest(q, most, 0);
	for (struct g *gp = q->all.head; gp && n < FAR; gp = gp->schedlink, n++) {
		if (!may_gain(q, gp) || gp->vtime > most)
			continue;
		if (!first || gp->spin_since < first->spin_since)
			first = gp;
		if (!(taken & cpu_bit(gp->cpu)) && (!here || gp->spin_since < here->spin_since))
			here = gp;
	}
	if (!first)
		return oldest(q, most, taken);
	if (!here || here == first || q->passed >= PASSED * load_relaxed(&sched.nprocs)) {
		q->passed = 0;
		return in_order(q, first);
	}
	q->passed++;
	return in_order(q, here);
}
