// credit.c: strays: Gs in G_RUNNING that hold no P.
//
// Problem. Who comes back from a blocking call finds the Ps held, mostly, and what it does until it blocks again is mostly shorter than a switch. So it
// runs on without a P, for a bounded time: on credit. sysmon sees to the bound (watch_strays): who goes on for longer has to queue. The same holds for
// a G whose P sysmon took while its thread slept where nobody saw it.
//
// Where most run on credit (a server with a thread for each connection), the holders of Ps are few among many, and the kernel gives them no more
// of a CPU than the others: who has to queue behind them waits for the CPU twice, for milliseconds, with the locks it holds. Those who wait for these
// queue in their turn: MariaDB with 32 connections got stuck in that at 0.74 of plain. So, where somebody comes back on credit every COMMON, who
// is woken by another thread does too. These do not count: the state must not keep itself up.
//
// Nobody gets more than its share by that: a policy that keeps no account of what Gs have had (go, chaos) gives nobody credit who did not wait by
// itself, and with fair, who has had its share gets none. For that all CPU time without a P must be in the account. Of a stretch that nobody watched, no more is
// known than how long it took; it may have been spent waiting. So it is charged as one credit, and once the rest comes to RECKON, the CPU clock
// tells what of it was missing. (To read it each time costs half a microsecond.)

#include "shim.h"

enum {
	COMMON = 100000,  // ns
	RECKON = 5000000, // ns; a fraction of what fair lets a G be ahead
	LONG = 3,	  // bursts of more than
	BURST = 5,	  // credits
};

// --- what it is charged for ---------------------------------------------------------------------------

// CPU time since the last reckoning that is in no account: run_ns and accounted. Of gp, the caller's; at most what has not been watched.
static int64_t missing(struct g *gp, int64_t accounted)
{
	int64_t cpu, ns;

	if (gp->unwatched < RECKON)
		return 0;
	accounted += (int64_t)gp->run_ns;
	cpu = os_thread_cputime(gp->tid);
	ns = cpu - gp->reckoned_cpu - (accounted - gp->reckoned_run);
	if (ns > gp->unwatched)
		ns = gp->unwatched;
	if (ns < 0 || !gp->reckoned_cpu) // the first time: part of it is from before it was a G
		ns = 0;
	gp->unwatched = 0;
	gp->reckoned_cpu = cpu;
	gp->reckoned_run = accounted + ns;
	return ns;
}

// End a stretch without a P. lost: the one that sysmon took from it in that time, or NULL: it was on credit.
//
// A stray computes for less than its credit, or waits where nobody sees it. So the time that passed is charged, but no
// more than the credit; only of one that sysmon has had to watch for longer the CPU time is known.
void stray_ends(struct g *gp, const struct p *lost, int64_t now)
{
	int64_t since = gp->run_since, held = 0, alone, charged;

	if (!since)
		return;
	if (lost) {
		held = gp->retaken_at - since;
		since = gp->retaken_at;
	}
	charged = alone = now - since;
	if (alone > config.credit) {
		int64_t cpu = 0;

		if (load_relaxed(&gp->stray_seen) == gp->run_since)
			cpu = os_thread_cputime(gp->tid) - load_relaxed(&gp->cpu_seen);
		charged = cpu > config.credit && cpu < alone ? cpu : config.credit;
	}
	gp->burst +=
		held +
		(lost ? charged : alone); // who lost its P was asleep, mostly, where nobody saw it
	charged += held;
	if (sched.policy->charge) {
		gp->unwatched += alone - (charged - held);
		charged += missing(gp, charged);
		sched.policy->charge(gp, charged, now);
	}
	gp->run_ns += (uint64_t)charged; // no less than snapshot.c has said so far
}

// --- who may --------------------------------------------------------------------------------------------

// gp stops, to wait for something other than a lock.
void burst_ends(struct g *gp)
{
	if (gp->burst <= BURST * config.credit)
		gp->long_bursts = 0;
	else if (gp->long_bursts < LONG)
		gp->long_bursts++;
	gp->burst = 0;
}

// In a world that is to stop there is no credit.
static bool may(const struct g *gp)
{
	return gives_credit() && !load_relaxed(&sched.stopping) &&
	       (!sched.policy->credit || sched.policy->credit(gp));
}

// Hints, written by whoever comes back.
static int64_t credit_at, credit_apart = 10 * COMMON; // the last one; mean time between two

static void count(int64_t now)
{
	int64_t apart = now - load_relaxed(&credit_at), mean = load_relaxed(&credit_apart);

	if (apart > 10 * COMMON)
		apart = 10 * COMMON;
	store_relaxed(&credit_apart, mean + (apart - mean) / 8);
	store_relaxed(&credit_at, now);
}

bool credit_is_common(int64_t now)
{
	return gives_credit() && sched.policy->credit && load_relaxed(&credit_apart) < COMMON &&
	       now - load_relaxed(&credit_at) < 10 * COMMON;
}

// Who mostly computes for long between its waits has no use for credit: it has to queue all the same, maybe with a lock that it has taken
// meanwhile (threads that try a mutex in a loop: p99 19 ms instead of 10). And while nobody waits for a P nobody watches those on credit: would all of
// them compute for long, nobody ever did wait, and the library scheduled nothing at all. Not where credit is common: bursts are short there on the whole, and
// one that queues for its own makes demand, for which Ps are taken from calls (MariaDB with 32 connections: 0.82 of plain).
static bool is_long(const struct g *gp, int64_t now)
{
	return gp->long_bursts >= LONG && !credit_is_common(now);
}

// gp comes back from a wait of its own, and found no P.
bool credit_back(const struct g *gp, int64_t now)
{
	if (is_long(gp, now) || !may(gp))
		return false;
	STAT(credit_runs);
	count(now);
	return true;
}

// gp was woken by another thread. A new one has to queue: its thread may not have started.
bool credit_woken(const struct g *gp, int64_t now)
{
	if (!credit_is_common(now) || load_relaxed(&sched.npidle) || !gp->switches ||
	    gp->ready_as != READY_WOKEN || !may(gp))
		return false;
	STAT(credit_runs);
	return true;
}

// gp, the caller's or one that stands still, goes on without a P.
void runs_without(struct g *gp, int64_t now)
{
	TRACE(write, TRACE_GO_CREDIT, 0, NULL, gp->goid, 0, 0, now);
	gp->p = NULL;
	gp->run_since = now;
	gp->grace_over = false;
	store_relaxed(&gp->force, false);
	store_relaxed(&gp->preempt,
		      false); // before the status: what stw.c asks for from then on, stays
	CHECKED(invariant_status(gp, G_RUNNING));
	xchg(&gp->status, G_RUNNING); // then sysmon_stray's load; pairs with watch_strays
}
