// strays.c: sysmon looks after those who run without a P (credit.c): who goes on for longer than its credit has to queue.
//
// Where somebody waits for a P it looks every 100 us or so. Where nobody does, a stray may go on for longer, but not for ever: two threads that share
// one P would both run all the time. So a stray tells (sysmon_stray), sysmon looks a few ms later, and then less and less
// often while none of them gets on.

#include "shim.h"

static const int64_t US = 1000;
enum {
	LOOK = 5000000,	   // ns between looks while nobody waits for a P,
	IDLE = 1000000000, // up to so many if they do nothing: one may wake unseen
	ALONE = 10000000,  // ns of CPU time that they may use then,
	CREDITS = 10,	   // credits that they have where most run on credit, up to
	COMMON = 1000000,  // ns
	YOUNG = 100000,	   // ns for which a stretch is not looked at, or the credit if that is less
	SHARE = 20,	   // the time between two looks by that of one, up to
	MOST = 1500000,	   // ns
};

// 1: there may be strays that sysmon has not seen, though nobody waits for a P. Cleared by sysmon before it looks.
static uint32_t told;

static struct {
	int64_t next, latest;	   // while somebody waits
	int64_t next_alone, alone; // while nobody does; ns from the last look
} strays;

// A G begins to run on credit, and nobody waits for a P. Should it go on for long, it is to queue all the same: those who hold the
// Ps may spin until it has done something, or it until another stray has, and while no queue says that there are too many
// nobody would look (redis with 3 I/O threads: 0.57 of plain). Not as soon as where somebody waits: a queue means that Ps of
// threads in system calls have to be taken, and that wastes part of them (a server of requests of 1 ms at 80 % load: 0.2 of
// plain). Its status says so already. Signal-safe.
void sysmon_stray(void)
{
	// seq_cst, the load too: pairs with watch_strays, which clears it and then looks at statuses.
	if (likely(load_seq_cst(&told)) || xchg(&told, 1))
		return;
	sysmon_kick();
}

static bool is_stray(const struct g *gp)
{
	const struct p *pp = load_relaxed(&gp->p);

	return load_relaxed(&gp->status) == G_RUNNING &&
	       (!pp || P_SEQ(load_relaxed(&pp->word)) != load_relaxed(&gp->pseq));
}

// A stray has run for its credit since it came back, or so it seems: where no interposer sees it, it may have blocked and
// come back many times meanwhile. Then its last burst is what counts, and a request is withdrawn. The kernel takes 3 us for
// the answer, so it is asked for the first time when the credit is used up for the first time, which is then given once more.
static bool has_blocked(struct g *gp, int64_t cpu)
{
	int64_t waits = os_thread_waits(gp->tid);
	bool blocked = waits > gp->stray_waits;

	gp->stray_waits = waits;
	if (!blocked)
		return false;
	gp->cpu_seen = cpu;
	gp->stray_asked = 0;
	store_relaxed(&gp->preempt, false);
	store_relaxed(&gp->force, false);
	store_relaxed(&gp->grace_over, false);
	return true;
}

// Make Gs that run without a P queue for one when they have used up their credit of CPU time. Looks at
// every G, so the interval grows with their number; while all strays sleep in the kernel, or there are none, it is the ordinary
// tick (at 100 us for ever, four of them cost two busy CPUs 6 %), give or take a half: a slice end meanwhile is as good.
int64_t watch_strays(int64_t now, int64_t tick)
{
	int64_t enough = demand() || config.credit > ALONE ? config.credit : ALONE;
	bool active = false, any = false;
	int64_t common = earlier(CREDITS * config.credit, COMMON), took;
	int n = 0;

	if (enough < common && credit_is_common(now))
		enough = common;
	if (now < strays.next)
		return strays.latest;
	if (!demand())
		xchg(&told, 0); // pairs with sysmon_stray
	// acquire: pairs with gfree_refill
	for (struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink, n++) {
		int64_t cpu;
		bool progress;

		if (!is_stray(gp))
			continue;
		any = true;
		// It lost its P before its thread began, and will not tell when it does.
		if (!load_relaxed(&gp->tid)) {
			active = true;
			continue;
		}
		// Most stop again before they can have used it up, and the kernel takes 0.7 us for each answer.
		if (now - load_relaxed(&gp->run_since) < earlier(config.credit, YOUNG)) {
			active = true;
			continue;
		}
		cpu = os_thread_cputime(gp->tid);
		if (gp->stray_seen != gp->run_since) {
			gp->stray_seen = gp->run_since;
			gp->cpu_seen = gp->stray_cpu = cpu;
			gp->stray_asked = 0;
			gp->stray_waits = -1;
			active = true;
			continue;
		}
		progress = cpu != gp->stray_cpu;
		active |= progress;
		gp->stray_cpu = cpu;
		if (cpu - gp->cpu_seen < enough)
			continue;
		if (progress && gives_credit() && has_blocked(gp, cpu))
			continue;
		store_relaxed(&gp->preempt, true);
		if (load_relaxed(&gp->locks) > 0) {
			if (cpu - gp->cpu_seen < enough + config.lock_grace)
				continue;
			store_relaxed(&gp->grace_over, true);
		}
		if (config.asyncpreemptoff)
			continue;
		if (!gp->stray_asked) {
			gp->stray_asked = now;
			gp->asking = (struct asking){0, 0};
		}
		signal_g(gp, NULL, 0, &gp->asking, gp->stray_asked, now, now);
	}
	if (active)
		store_relaxed(&told, 1);
	strays.alone = active || !strays.alone ? LOOK : earlier(2 * strays.alone, IDLE);
	strays.next_alone = any ? now + strays.alone : INT64_MAX;
	took = earlier(os_nanotime() - now, MOST / SHARE);
	strays.next = now + n * US + (active ? 100 * US : tick / 2) + SHARE * took;
	strays.latest = strays.next + (active ? 0 : tick);
	return strays.latest;
}

// The same while nobody waits for a P.
int64_t watch_strays_alone(int64_t now, int64_t tick)
{
	if (load_relaxed(&told) || now >= strays.next_alone)
		watch_strays(now, tick);
	return load_relaxed(&told) ? now + LOOK : strays.next_alone;
}

bool strays_told(void)
{
	return load_relaxed(&told);
}

void strays_left(void)
{
	store_relaxed(&told, 1);
}

void strays_reset_in_child(void)
{
	strays.next = strays.next_alone = 0;
}
