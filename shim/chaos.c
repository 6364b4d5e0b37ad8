// chaos.c: schedules chosen by a number.
//
// Problem. A race in a program (or in this library) shows in few of its many schedules, and plain runs see the same few again
// and again. Approach: with PREEMPT_CHAOS=SEED each decision of the scheduler is drawn from the seed: whether a thread yields
// at a call that is interposed (chaos_yield: before and after locks, signals, posts and the like, with locks held, too), and who runs next
// (policy_chaos: a waiting G has a rank, drawn when it is queued, and the least runs). How often threads yield is drawn from the seed as well, since
// some races need few switches at the right places and others many. A rank is a delay: a woken G may wait while others run on.
//
// The same seed gives the same schedule, on one P and as far as the program itself is deterministic. For that no decision may depend on time:
//  - What a G draws depends on the seed, its number, and how many such calls it has made, and on nothing else. One that is late, as it comes back from
//    a system call, then changes its own place only, not what others draw.
//  - A slice ends at a call. sysmon ends one only after SLICE of CPU time (chaos_judge): a thread that spins until another one has done
//    something must be stopped at last, and sooner each time again. It is CPU time, not time: on a busy machine a thread may not run for long.
//  - The P of a G in a system call is taken only if its thread sleeps, and a woken thread has no credit.
// What remains: when a system call returns, and what is seen where no interposer is.
//
// Rejected: one sequence for all (every late thread changes all that follows); a log of decisions to be replayed (a file, and
// of no use after the program was changed: a seed may still find the race then).

#include "shim.h"

enum {
	SLICE = 50000000,      // ns of CPU time between two interposed calls
	SLICE_AGAIN = 1000000, // when it has been stopped, and made none since
	PASSED = 64,	       // picks
	LOOK = 8,	       // at every so many of them who has been passed over is looked for
	ASLEEP = 1000000,      // ns asleep until a P is taken
};

static struct heap queue; // by rank; under sched.lock
static uint32_t picks;	  // as above

// A bijection of 64-bit numbers that spreads every bit: two rounds of xor-shift and multiplication with odd constants.
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
	x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
	return x ^ x >> 32;
}

static uint64_t drawn(const struct g *gp, uint32_t calls, uint32_t stops)
{
	return mix(mix(mix((uint64_t)config.chaos) ^ gp->goid) ^ ((uint64_t)stops << 32 | calls));
}

// One of 2, 4, 8 or 16.
static uint64_t one_in(void)
{
	return (uint64_t)2 << (mix((uint64_t)config.chaos) >> 62);
}

void chaos_init(void)
{
	if (!config.chaos)
		return;
	config.policy = &policy_chaos;
	config.credit = 0;
	if (config.spin == SPIN_ON)
		config.spin = SPIN_OFF; // when it is found that a thread spins is a matter of time
}

// At an interposed call, in ordinary context.
void chaos_yield(struct g *gp)
{
	if (tls.critical || gp->waiting || load_relaxed(&gp->status) != G_RUNNING || gp->preemptoff)
		return;
	if (drawn(gp, ++gp->chaos_calls, 0) % one_in() != 0)
		return;
	gp->chaos_yields = true;
	gosched(gp, G_RUNNABLE);
	gp->chaos_yields = false;
}

// sysmon, with one P: its holder has spun for too long, *ret_end says since when, sleeps where nobody sees it, or is left alone.
enum chaos_verdict chaos_judge(const struct p *pp, struct g *gp, int64_t now, int64_t *ret_end)
{
	static struct {
		uint64_t word;
		int64_t slice_start, began, cpu,
			since; // the CPU clock at first, now, and for how long it has stood still
		int64_t over;  // too long since then; or 0
	} seen;
	int64_t cpu = os_thread_cputime(gp->tid), start = load_relaxed(&pp->slice_start);
	uint64_t word = load_relaxed(&pp->word);
	uint32_t calls = load_relaxed(&gp->chaos_calls) + 1;

	if (cpu < 0)
		return CHAOS_BLOCKED; // gone
	if (seen.word != word || seen.slice_start != start) {
		seen.word = word;
		seen.slice_start = start;
		seen.began = cpu;
		seen.cpu = -1;
		seen.over = 0;
	}
	if (seen.cpu != cpu) {
		seen.cpu = cpu;
		seen.since = now;
	}
	if (!seen.over &&
	    cpu - seen.began >= (load_relaxed(&gp->chaos_hog) == calls ? SLICE_AGAIN : SLICE)) {
		store_relaxed(&gp->chaos_hog, calls);
		seen.over = now;
	}
	if (seen.over) {
		*ret_end = seen.over; // grace, and force, are counted from there
		return CHAOS_OVER;
	}
	return now - seen.since < ASLEEP ? CHAOS_SPARED : CHAOS_BLOCKED;
}

// sysmon, with one P: gp has been in a system call since then. May its P be taken?
bool chaos_takes(const struct g *gp, int64_t since, int64_t now)
{
	char state;

	if (now < since + ASLEEP)
		return false;
	state = os_thread_state(gp->tid);
	return state == 'S' || state == 'D' || !state;
}

// --- policy chaos -----------------------------------------------------------------------------------

// Who has been passed over for too long: with a bad rank it would wait for ever beside threads that draw new ones all the time. Else
// the first. sched.lock must be held.
static uint32_t passed_over(void)
{
	uint32_t oldest = 0;

	for (uint32_t i = 1; i < queue.n; i++)
		if (queue.at[i].gp->queue_seq < queue.at[oldest].gp->queue_seq)
			oldest = i;
	return picks - queue.at[oldest].gp->chaos_queued > PASSED ? oldest : 0;
}

// Executed with tls.critical > 0; takes sched.lock.
static void chaos_enqueue(struct p *pp, struct g *gp, bool next)
{
	uint64_t rank;

	(void)pp, (void)next;
	// A yield of the program's own, perhaps one of many in a loop, or a stop by sysmon: else it would have the same rank again.
	if (gp->ready_as >= READY_PREEMPTED && !gp->chaos_yields)
		gp->chaos_stops++;
	rank = drawn(gp, gp->chaos_calls, gp->chaos_stops + 1);
	lock_acquire(&sched.lock);
	gp->chaos_queued = picks;
	heap_push(&queue, (int64_t)(rank >> 2), gp); // keys are compared by their difference
	store_relaxed(&sched.runq.size, queue.n);
	CHECKED(invariant_heap(&queue));
	lock_release(&sched.lock);
}

static struct g *chaos_pick(struct p *pp, bool *inherit)
{
	struct g *gp = NULL;

	(void)pp;
	*inherit = false;
	if (load_relaxed(&sched.runq.size) == 0)
		return NULL;
	lock_acquire(&sched.lock);
	if (queue.n) {
		gp = heap_take(&queue, picks++ % LOOK ? 0 : passed_over());
		store_relaxed(&sched.runq.size, queue.n);
		CHECKED(invariant_heap(&queue));
	}
	lock_release(&sched.lock);
	return gp;
}

static bool chaos_take(struct g *gp)
{
	(void)gp;
	return false; // what a waiter gets on with is drawn as well
}

// Room for n Gs in the queue. sched.lock must be held.
static bool chaos_reserve(uint32_t n)
{
	return heap_reserve(&queue, n);
}

static void chaos_reset(void)
{
	queue.n = 0;
}

const struct policy policy_chaos = {
	.name = "chaos",
	.global = true,
	.enqueue = chaos_enqueue,
	.pick = chaos_pick,
	.take = chaos_take,
	.empty = globrunqempty,
	.reserve = chaos_reserve,
	.reset = chaos_reset,
};
