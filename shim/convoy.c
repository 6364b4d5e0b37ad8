// convoy.c: a lock that is had in turn, with more threads in line than there are Ps.
//
// Problem. Tickets, MCS and CLH locks are had in the order in which threads came. Once somebody has lost its CPU in line, all others get in line behind it;
// from then on each who is given a P has a section, gets in line again behind all others, and waits. That costs a
// switch for each section, and never ends by itself: a lock convoy. Without it as many threads as there are Ps would have the lock
// by turns for all their slices, and the others would be nowhere near.
//
// Approach. The tables know by which instruction threads get in line, and sites.c has it rewritten. Who had to be switched to in its last wait
// there waits outside before it gets in line once more, behind all who are in it: a break. So everybody has one more section, and the
// line is empty. Who is in it then has a P, and waits for microseconds.
//
// The arrival at a barrier looks the same, and there a break only costs another switch. But there the next wait takes as long as the one before,
// so breaks do not become rare. Where they do not, within BAD_MOST windows, they end; they are tried again after AGAIN, later and later if it is in vain.
//
// All figures are hints: several threads add to them at once, and some are lost. Each G adds what it has counted when it is BATCH,
// so that the figures do not go from CPU to CPU at each section.

#include "shim.h"
#include "site.h"

enum {
	BATCH = 16,
	WINDOW = 1000000,    // ns, at least, and until so many times as many have come by
	ROUNDS = 2,	     // as wait for a P, for in a break all do
	COMMON = 4,	     // a convoy: of so many, one has lost its CPU in line
	BAD_MOST = 3,	     // windows
	AGAIN = 100000000,   // ns
	AGAIN_MOST = 32,     // times as long
	TOO_LONG = 20000000, // ns in which nobody came by: what was before tells nothing any more
};

struct convoy {
	int64_t since;	       // when this window began; changed by whoever ends it
	int64_t last;	       // when somebody last added to the figures
	uint32_t passed, lost; // in it
	bool breaks;
	uint32_t bad;	// windows with breaks in a row in which they did not become rare
	uint32_t later; // times AGAIN until the next trial
	int64_t again;	// not before
};

static struct convoy convoys[SITE_STUBS];

// A window is over. One thread at a time.
static void next_window(struct convoy *c, int64_t now)
{
	bool is_convoy = (uint64_t)load_relaxed(&c->lost) * COMMON > load_relaxed(&c->passed);

	if (!c->breaks) {
		store_relaxed(&c->breaks, is_convoy && now >= c->again);
		c->bad = 0;
		return;
	}
	c->bad = is_convoy ? c->bad + 1 : 0;
	if (!is_convoy)
		c->later = 0;
	if (c->bad < BAD_MOST)
		return;
	store_relaxed(&c->breaks, false);
	c->later = c->later == 0 ? 1 : c->later < AGAIN_MOST ? 2 * c->later : AGAIN_MOST;
	c->again = now + (int64_t)c->later * AGAIN;
}

static void add(struct g *gp, struct convoy *c)
{
	int64_t since = load_acquire(&c->since); // pairs with the release below
	int64_t now = os_nanotime(), before = load_relaxed(&c->last);
	uint32_t passed = load_relaxed(&c->passed) + gp->line_passed;

	store_relaxed(&c->passed, passed);
	store_relaxed(&c->lost, load_relaxed(&c->lost) + gp->line_lost_n);
	gp->line_passed = gp->line_lost_n = 0;
	store_relaxed(&c->last, now);
	if (now - before > TOO_LONG) // nobody came by for long
		store_relaxed(&c->lost, 0);
	if (now - since < WINDOW ||
	    (int64_t)passed < ROUNDS * (int64_t)load_relaxed(&sched.demand) ||
	    !cas(&c->since, since, INT64_MAX)) // nobody else ends it meanwhile
		return;
	if (since) // else it is the first one
		next_window(c, now);
	store_relaxed(&c->passed, 0);
	store_relaxed(&c->lost, 0);
	store_release(&c->since, now); // pairs with the acquire above
}

// gp, the caller's, is about to get in this line. Shall it wait outside?
bool convoy_joins(struct g *gp, uint32_t line)
{
	struct convoy *c = &convoys[line];
	bool lost = gp->line_lost == line + 1;

	if (gp->line != line + 1) {
		gp->line = (uint16_t)(line + 1);
		gp->line_passed = gp->line_lost_n = 0;
	}
	gp->line_lost = 0;
	gp->line_lost_n += lost;
	if (++gp->line_passed >= BATCH || lost) {
		critical_enter(); // no handler may leave a window that nobody ends by a jump
		add(gp, c);
		critical_leave();
	}
	return lost && load_relaxed(&c->breaks);
}

// It waits outside, behind all who wait by spinning, in the order of arrival. Stack: as gosched.
void convoy_waits(struct g *gp)
{
	STAT(convoy_yields);
	gp->spin_pc = 0;
	gp->spin_since = os_nanotime();
	gp->spin_yields = 0;
	gp->spin_behind = true;
	gp->spin_first = false;
	gosched_spun(gp, NULL);
}

// gp, the caller's, has waited in the line that it got in last, without a P, for a while.
void convoy_lost(struct g *gp)
{
	gp->line_lost = gp->line;
}

void convoy_reset_in_child(void)
{
	for (uint32_t i = 0; i < SITE_STUBS; i++)
		convoys[i] = (struct convoy){0};
}
