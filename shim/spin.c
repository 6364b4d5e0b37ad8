// spin.c: a thread was found to wait by spinning: others run instead.
//
// Found by whom: a rewritten PAUSE (sitecalls.c), a sample (preempt.c), a try that fails again and again (interpose/).
// All come here, so that there is one place for what follows from it:
//  - The P goes to the thread that is waited for, if that is known and itself waits for a P; else to whoever is next. The
//    spinner comes behind those who wait now, so somebody else runs before it does, unless it is alone.
//  - The time it has spun is not charged, if it has just begun to: it was no use to it. When it gets a P again, and still waits,
//    that costs it as anything does, or threads that poll would keep out who computes.
//  - Slices are shorter for a while (spin_seen_lately): who waited a microsecond for a lock should not get on after ten
//    milliseconds because it made way for a thread that computes. And who holds a lock of its own making, and takes it again
//    as soon as it has let go, has it for the rest of its slice: then others have their turn sooner.
//  - Figures for the report: what was gained, and by which loop.

#include "probes.h"
#include "shim.h"

static const int64_t MS = 1000000;
enum {
	CONTINUES = 500, // ns from getting a P to spinning: it is the same wait
	LATELY = 20000000,
	PATIENCE = 24, // PAUSEs of 40 to 140 cycles: a hand-over of a P costs several times that
	HURRY = 6,     // of who has mostly waited in vain for so many,
	FUTILE = 8,    // that is that often more than not, lately;
	PROBE = 16,    // but for every 16th wait: would it be worth it again?
	AGAIN = 72,    // in the same wait, when it has a P again
	FIRST = 256, // the same where it is its turn, and who comes in turn mostly gets on: some 20 us, a wake-up across CPUs and a short section
	SURE = 16,   // that often more than not
	SURE_MOST = 64,
	APART = 2000,	// ns between two PAUSEs of a wait, at most
	TRIES = 16,	// of one object, in vain: a loop, if they came within
	TRIED = 20000,	// ns
	ALONE = 100000, // ns
	SITES = 256,	// a power of two
	PROBES = 8,
};

static struct spin_site sites[SITES];
static int64_t seen;		      // when somebody last yielded
static struct spin_site spin_nowhere; // there was no room

// The entry for pc, or NULL: there is no room.
static struct spin_site *site_at(uintptr_t pc)
{
	uint32_t h = (uint32_t)(pc * 0x9e3779b97f4a7c15u >> 32);

	for (uint32_t i = 0; i < PROBES; i++) {
		struct spin_site *s = &sites[(h + i) % SITES];
		uintptr_t was = load_relaxed(&s->pc);

		if (was == pc || (!was && cas(&s->pc, 0, pc))) // once; nothing else is published
			return s;
		if (load_relaxed(&s->pc) == pc)
			return s;
	}
	return NULL;
}

// gp begins to wait.
static uint32_t arrives(struct g *gp)
{
	if (gp->spin_arrived) // the wait before was over without a yield
		gp->spin_futile -= gp->spin_futile < 2 ? gp->spin_futile : 2;
	gp->spin_arrived = true;
	return gp->spin_futile >= FUTILE && ++gp->spin_probes % PROBE ? HURRY : PATIENCE;
}

// gp yields: how did it go when it looked last, if that was in its turn? A long look in vain costs as much as several others.
static void learn(const struct g *gp, bool in_vain)
{
	struct spin_site *site = gp->spin_at;
	int32_t v;

	if (!site || gp->spin_behind || !gp->spin_first)
		return;
	v = load_relaxed(&site->order) + (!in_vain ? 1 : gp->spin_patience == FIRST ? -4 : -1);
	store_relaxed(&site->order, v < 0 ? 0 : v > SURE_MOST ? SURE_MOST : v); // a hint
}

// gp has made a PAUSE, or the like, at pc while somebody waits for a P. Has it waited for long enough? For somewhat longer than a
// hand-over of a cache line or a short section takes, unless that was mostly in vain lately; when it was given a P in the same wait, for it seemed to be its turn, for about as long as one
// more switch takes, or longer if it is first in line and that has mostly been of use at pc. The count starts anew with each yield, and when there was no PAUSE for a while: the wait is over then, and
// the next one has its own place in the order.
bool spin_paused(struct g *gp, uintptr_t pc)
{
	int64_t now = os_nanotime();

	if (now - tls.paused_at > APART)
		tls.pauses = 0;
	tls.paused_at = now;
	if (tls.pauses++ == 0) {
		tls.paused_since = now;
		tls.patience = spin_goes_on(gp, pc, now) ? gp->spin_patience : arrives(gp);
	}
	return tls.pauses >= tls.patience;
}

bool spin_goes_on(const struct g *gp, uintptr_t pc, int64_t since)
{
	return gp->spin_pc == pc && since - gp->spin_back < CONTINUES;
}

// how, at: for the trace.
static void give_way(struct g *gp, uintptr_t pc, int64_t since, struct g *owner,
		     enum trace_spin how, uintptr_t at)
{
	struct spin_site *site = site_at(pc);
	int64_t now = os_nanotime();
	bool sampled = how == TRACE_SPIN_SAMPLED;

	if (spin_goes_on(gp, pc, since)) {
		gp->spin_yields++;
		learn(gp, true);
	} else {
		learn(gp, false);
		gp->spin_arrived = false;
		gp->spin_futile += gp->spin_futile < 2 * FUTILE;
		gp->spin_pc = pc;
		gp->spin_since = since;
		gp->spin_yields = 0;
		gp->spun_ns = now - since;
	}
	gp->idle_ns = now - since;
	gp->spin_behind = sampled;
	if (sampled)
		gp->spin_yields = SPIN_LAST;
	STAT(spin_yields);
	PROBE3(spin_yield, gp->goid, gp->tid, sampled ? SPIN_SAMPLED : SPIN_SITE);
	TRACE(write, TRACE_SPIN, how, gp->p, gp->goid, 0, at, now);
	if (site)
		count_relaxed(&site->yields, 1);
	if (!sampled && now - load_relaxed(&seen) > MS) { // samples are too far apart for that
		bool first = now - load_relaxed(&seen) > LATELY;

		store_relaxed(&seen, now);
		if (first)
			sysmon_spins(now);
	}
	tls.pauses = 0;
	tls.spin_site = site ? site : &spin_nowhere;
	gp->spin_at = site;
	gp->spin_first = false;
	gosched_spun(gp, owner);
	convoy_lost(gp);
	tls.spin_site = NULL;
	gp->spin_patience =
		gp->spin_first && site && load_relaxed(&site->order) >= SURE ? FIRST : AGAIN;
	gp->spin_back = os_nanotime();
}

void spin_yield(struct g *gp, uintptr_t pc, int64_t since, struct g *owner)
{
	give_way(gp, pc, since, owner, TRACE_SPIN_SITE, pc);
}

void spin_yield_lock(struct g *gp, const volatile void *lock, uintptr_t pc, int64_t since,
		     struct g *owner)
{
	give_way(gp, pc, since, owner, TRACE_SPIN_LOCK, (uintptr_t)lock);
}

void spin_sampled(struct g *gp, uintptr_t pc, int64_t since)
{
	give_way(gp, pc, since, NULL, TRACE_SPIN_SAMPLED, pc);
}

// A try to take obj has failed. Is it one of many, in a loop without anything else, and does it make sense that gp lets go of
// its CPU? At once if somebody waits for a P. Else only after a while: the holder may be off its CPU, if ours is that.
bool spin_tried(struct g *gp, const void *obj)
{
	int64_t now, before;

	if (gp->tried != obj) {
		gp->tried = obj;
		gp->tries = 0;
	}
	if (++gp->tries % TRIES)
		return false;
	now = os_nanotime();
	before = gp->tried_at;
	gp->tried_at = now;
	if (gp->tries == TRIES || now - before > TRIED) {
		gp->tried_since = now;
		return false;
	}
	return demand() || now - gp->tried_since > ALONE;
}

// A call by which others may run, in a loop. False: it is the first one.
bool spin_yields(struct g *gp, uintptr_t from)
{
	int64_t now = os_nanotime();

	if (spin_goes_on(gp, from, now)) {
		give_way(gp, from, now, NULL, TRACE_SPIN_OTHER, from);
		return true;
	}
	gp->spin_pc = from;
	gp->spin_since = now;
	gp->spin_yields = 0;
	return false;
}

bool spin_seen_lately(int64_t now)
{
	return now - load_relaxed(&seen) < LATELY;
}

void spin_used(struct p *pp, int64_t ns)
{
	struct spin_site *site = pp->freed_by;

	pp->freed_by = NULL;
	if (ns <= 0)
		return;
	if (ns > config.quantum)
		ns = config.quantum; // more is its own
	count_relaxed(&stats.spin_saved_ns, (uint64_t)ns);
	if (site != &spin_nowhere)
		count_relaxed(&site->saved_ns, (uint64_t)ns);
}

// The n sites with the most yields, in order.
uint32_t spin_top(struct spin_site *ret, uint32_t n)
{
	uint32_t have = 0;

	for (uint32_t i = 0; i < SITES; i++) {
		struct spin_site s = {.pc = load_relaxed(&sites[i].pc),
				      .yields = load_relaxed(&sites[i].yields),
				      .saved_ns = load_relaxed(&sites[i].saved_ns)};
		uint32_t at;

		if (!s.yields)
			continue;
		if (have < n)
			have++;
		else if (ret[n - 1].yields >= s.yields)
			continue;
		for (at = have - 1; at > 0 && ret[at - 1].yields < s.yields; at--)
			ret[at] = ret[at - 1];
		ret[at] = s;
	}
	return have;
}

void spin_reset_in_child(void)
{
	for (uint32_t i = 0; i < SITES; i++)
		sites[i] = (struct spin_site){0};
	seen = 0;
	convoy_reset_in_child();
}
