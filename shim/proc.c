// proc.c: Ps and Gs: who holds what, and every way of stopping and starting.
//
// Problem. More threads are runnable than CPUs. A thread here (a G) runs only while it holds one of
// a few virtual processors (Ps). Three parties may want one P at the same moment: its holder, sysmon,
// which takes it back from a holder that blocks, and a thread that wakes a G and looks for a P.
//
// Approach. All of a P's state is one word, {generation, state}. A G remembers the generation under
// which it was granted its P; every step is one CAS on the exact word. So a G that wakes up late from a
// system call cannot mistake the P, meanwhile retaken and given to another G, for its own: the
// generation moved on. Whoever moved the word to P_SCHED has "pinned" the P and owns its queue until
// it grants the P to a G (wirep), puts it into the idle list, or unpins it.
//
// A grant is direct: the releaser picks the next G, writes its fields and wakes exactly that thread.
// Nobody is ever woken in order to look for a P.
//
// Rejected: P_SYSCALL as a state of the P, entered and left by the G, as Go's C-era scheduler has. sysmon
// must be able to take a P in P_RUNNING too (holder blocked in a call that no interposer saw), so entering
// and leaving would each need a CAS: 25 ns for a read and a write of 360. Newer Go moved it to the G, too.
//
// The delicate races:
//  - idle P against new work: pidleput raises npidle, then looks at the queues; goready queues, then
//    looks at npidle. Both pairs are separated by a locked instruction, so at least one sees the other.
//  - parking against readying: gp->park. A goready that comes before gopark_begin's CAS leaves a token.
//  - parking against signals: between giving the P up and the wait, a handler must not find a thread that
//    seems to run. gp->waiting is set in the same critical section. (Once it was not, and a preemption signal
//    in the gap merged two grants into one: a G that slept with a P.)
//  - a timed-out waiter against its waker: decided by who removes it from the parking lot.
//  - a woken G that is to run without a P (credit.c) against stw.c: it is in G_WAITING without PARK_PARKED until it is seen to run.
//
// A G in G_RUNNING that holds no P is a stray: credit.c.

#include <errno.h>

#include "shim.h"
#include "probes.h"

// --- Ps -------------------------------------------------------------------------------------------

// Pin the P of the calling G. NULL: it has none (any more).
struct p *pin(struct g *gp)
{
	struct p *pp = gp->p;

	if (!pp)
		return NULL;
	if (likely(cas(&pp->word, gp->pseq | P_RUNNING,
		       gp->pseq | P_SCHED))) // against sysmon's retakep
		return pp;
	gp->p = NULL;
	return NULL;
}

static void unpin(struct g *gp, struct p *pp)
{
	INVARIANT(gp->p == pp && pp->word == (gp->pseq | P_SCHED), gp, pp);
	store_release(&pp->word,
		      gp->pseq | P_RUNNING); // publishes the queue to the next pin or retakep
}

// sysmon: take a P away from its holder. True: the caller has it pinned.
bool retakep(struct p *pp, uint64_t word)
{
	if (!cas(&pp->word, word, P_SEQ(word) | P_SCHED)) // against pin
		return false;
	TRACE(retake, pp);
	return true;
}

// Give a pinned P to gp, whose thread is the caller or asleep. A new generation begins: every
// earlier holder's CAS fails from here on.
static void wirep(struct p *pp, struct g *gp, int64_t now, bool inherit)
{
	uint64_t seq = P_SEQ(pp->word) + P_SEQ_ONE;

	CHECKED(invariant_granted(gp, pp));
	TRACE(start, pp, gp, inherit, now);
	if (!inherit) {
		store_relaxed(&pp->schedtick, pp->schedtick + 1);
		store_relaxed(&pp->slice_start, now);
	}
	store_relaxed(&pp->g, gp);
	gp->p = pp;
	gp->pseq = seq;
	gp->spun_ns = gp->idle_ns = 0;
	gp->run_since = now;
	gp->grace_over = false;
	// Who goes on with a slice goes on with what was asked of it.
	store_relaxed(&pp->resched, inherit && pp->resched ? seq | P_RUNNING : 0);
	store_relaxed(&gp->force, false);
	store_relaxed(&gp->preempt, false);
	set_status(gp, G_RUNNING);
	PROBE3(go_start, gp->goid, gp->tid, pp->id);
	store_release(&pp->word, seq | P_RUNNING); // publishes the above to sysmon
}

// gp may go on: wake its thread.
static void wake(struct g *gp)
{
	if (fetch_or(&gp->note, NOTE_GRANTED) &
	    NOTE_SLEEPING) // pairs with load_acquire in park_wait
		os_futex_wake(&gp->note, 1);
}

// Give a pinned P to a G that was dequeued, and wake its thread.
static void grant(struct p *pp, struct g *gp, bool inherit)
{
	int64_t now = os_nanotime(), waited = now - gp->runnable_since;

	gp->wait_ns += (uint64_t)waited;
	gp->switches++;
	STAT(switches);
	stats_run_delay(waited);
	gp->suspect = pp->freed_by && gp->ready_as == READY_PREEMPTED;
	wirep(pp, gp, now, inherit);
	if (gp->suspect)
		sysmon_spins(now);
	INVARIANT(!(load_relaxed(&gp->note) & NOTE_GRANTED), gp, pp); // two grants would become one
	wake(gp);
}

static void schedule(struct p *pp);

// The same, but to is to be the next, if it still waits for a P, with what is left of the slice.
static void schedule_to(struct p *pp, struct g *to)
{
	CHECKED(invariant_dequeues());
	if (to && likely(!load_relaxed(&sched.stopping)) && pp->id < load_relaxed(&sched.nprocs) &&
	    sched.policy->take(to)) {
		CHECKED(invariant_dequeued(to));
		fetch_sub(&sched.demand, 1); // a count only
		CHECKED(invariant_moved());
		STAT(lock_handed);
		grant(pp, to, true);
		return;
	}
	CHECKED(invariant_moved());
	schedule(pp);
}

// The caller has pp pinned and lets go of it: to the next G, else to the idle list. May pick the
// caller's own G, which then finds itself granted.
static void schedule(struct p *pp)
{
	for (;;) {
		struct g *gp = NULL;
		bool inherit = false, idle;

		CHECKED(invariant_dequeues());
		if (unlikely(load_relaxed(&sched.stopping)))
			; // it idles; sched_restart looks at the queues
		else if (likely(pp->id < load_relaxed(&sched.nprocs)))
			gp = sched.policy->pick(pp, &inherit);
		else if (sched.policy->drain)
			sched.policy->drain(pp);
		CHECKED(invariant_dequeued(gp));
		if (gp) {
			fetch_sub(&sched.demand, 1); // a count only
			CHECKED(invariant_moved());
			grant(pp, gp, inherit);
			return;
		}
		CHECKED(invariant_moved());
		TRACE(write, TRACE_PROC_STOP, 0, pp, 0, 0, 0, 0);
		lock_acquire(&sched.lock);
		idle = pp->id < sched.nprocs;
		if (idle) {
			pidleput(pp);
		} else {
			pp->g = NULL;
			store_release(&pp->word, P_SEQ(pp->word) | P_DEAD); // procresize revives it
		}
		lock_release(&sched.lock);
		// Work that was queued before npidle rose was queued by someone who saw no idle P.
		if (sched.policy->empty())
			return;
		pp = pidleget();
		if (!pp)
			return;
	}
}

void handoffp(struct p *pp)
{
	STAT(handoffs);
	PROBE1(handoff, pp->id);
	TRACE(write, TRACE_HANDOFF, 0, pp, pp->g ? pp->g->goid : 0, 0, 0, 0);
	schedule(pp);
}

// Work was queued without a P at hand: let an idle P, if there is one, take it. Else one whose holder sleeps.
void wakep(int64_t now)
{
	struct p *pp;

	while (load_seq_cst(&sched.npidle) &&
	       !sched.policy->empty()) { // after the put; pairs with pidleput
		pp = pidleget();
		if (!pp)
			break;
		schedule(pp);
	}
	if (!sched.policy->empty() && (pp = p_of_sleeper(now)))
		handoffp(pp);
}

void sched_restart(void)
{
	critical_enter();
	wakep(os_nanotime());
	critical_leave();
	if (demand())
		sysmon_kick();
}

// Queue a G in G_RUNNABLE. pp: pinned by the caller, or NULL. Executed with critical > 0.
static void ready(struct p *pp, struct g *gp, bool next)
{
	CHECKED(invariant_enqueues(gp));
	sched.policy->enqueue(pp, gp, next);
	fetch_add(&sched.demand, 1); // also orders the put before wakep's look at npidle
	CHECKED(invariant_moved());
}

// --- parking --------------------------------------------------------------------------------------

// End the accounting of a stretch of holding a P.
static void run_ends(struct g *gp, int64_t now)
{
	if (unlikely(gp->p && gp->p->freed_by)) // gp has it pinned, or did until now
		spin_used(gp->p, now - gp->run_since - gp->idle_ns);
	if (sched.policy->charge)
		sched.policy->charge(gp, now - gp->run_since - gp->spun_ns, now);
	gp->spun_ns = gp->idle_ns = 0;
	gp->run_ns += (uint64_t)(now - gp->run_since);
	gp->burst += now - gp->run_since;
	gp->run_since = now;
	gp->cpu = os_getcpu();
}

// Give the P up and become G_WAITING. False: a goready came first; nothing was given up.
// Afterwards the caller waits with park_wait until it is granted a P; to end the wait itself it must
// first make sure that no goready can come (lot_leave), and then call gounpark.
bool gopark_begin(struct g *gp, enum wait_reason why)
{
	return gopark_begin_for(gp, why, NULL);
}

// The same; owner, or NULL: whom it waits for.
bool gopark_begin_for(struct g *gp, enum wait_reason why, struct g *owner)
{
	struct p *had, *pp;
	int64_t now;

	critical_enter();
	had = gp->p;
	pp = pin(gp);
	now = os_nanotime();
	if (pp)
		run_ends(gp, now);
	else
		stray_ends(gp, had, now);
	if (why != WAIT_MUTEX && why != WAIT_RWLOCK_R && why != WAIT_RWLOCK_W)
		burst_ends(gp);
	gp->run_since = now;
	gp->p = NULL;
	gp->waitreason = (uint8_t)why;
	set_status(gp, G_WAITING);
	if (!cas(&gp->park, PARK_NONE, PARK_PARKED)) { // pairs with xchg in goready
		store_relaxed(&gp->park, PARK_NONE);
		set_status(gp, G_RUNNING);
		gp->p = pp;
		if (pp)
			unpin(gp, pp);
		critical_leave();
		return false;
	}
	PROBE3(go_block, gp->goid, gp->tid, (int)why);
	// From here on a granter may write gp's scheduling fields.
	TRACE(block, pp, gp, now);
	if (pp)
		schedule_to(pp, owner);
	if (unlikely(load_relaxed(&sched.watch_idle)))
		sysmon_idles();
	gp->waiting = true;
	critical_leave();
	return true;
}

// Sleep until granted a P: 0. Or, without one, until the deadline (-ETIMEDOUT), until pthread_cancel
// asks (-ECANCELED), or until a handler of the program ran that ends such a wait (-EINTR). The program's signal handlers may run meanwhile, without a P; one of them may
// longjmp away (park_abandon), or seem to: then waiting is false and the P already ours.
// Stack: shallow; executed in the preemption handler too.
int park_wait_since(struct g *gp, const struct deadline *until, unsigned flags,
		    struct handled since)
{
	uint32_t n;
	int r = 0;

	frame_here(&gp->at);
	CHECKED(invariant_alone());
	for (;;) {
		n = load_acquire(&gp->note); // pairs with fetch_or in grant: gp->p and pseq are set
		if (n & NOTE_GRANTED || !*(volatile bool *)&gp->waiting) {
			r = 0;
			break;
		}
		if (flags & PARK_CANCEL && n & NOTE_CANCEL) {
			r = -ECANCELED;
			break;
		}
		if ((flags & PARK_EINTR && load_relaxed(&gp->signorestart) != since.norestart) ||
		    (flags & PARK_EINTR_ANY && load_relaxed(&gp->sigcount) != since.any)) {
			r = -EINTR;
			break;
		}
		if (r == -ETIMEDOUT)
			break;
		if (!(n & NOTE_SLEEPING) && !cas(&gp->note, n, n | NOTE_SLEEPING)) // against grant
			continue;
		r = os_futex_wait(&gp->note, n | NOTE_SLEEPING, until);
	}
	if (r == 0)
		fetch_and(&gp->note,
			  ~(uint32_t)(NOTE_GRANTED | NOTE_SLEEPING)); // ours alone by now
	else
		fetch_and(&gp->note, // against grant
			  ~(uint32_t)(NOTE_SLEEPING | (r == -ECANCELED ? NOTE_CANCEL : 0)));
	if (r == 0 && gp->p)
		store_relaxed(&gp->p->cpu, os_getcpu()); // a hint: the P may have been retaken
	compiler_barrier();
	if (r == 0)
		gp->waiting = false; // else the caller still has to settle who ends the wait
	return r;
}

// gp was woken and queued: ask who runs with less right to a P for it, unless gp has been granted one meanwhile (wakep). Executed with
// critical > 0.
static void make_room(const struct g *gp, const struct g *self, int64_t now)
{
	uint64_t word;
	int64_t at;
	struct p *pp;

	if (!sched.policy->victim || load_relaxed(&gp->status) != G_RUNNABLE)
		return;
	pp = sched.policy->victim(gp, self, now, &word, &at);
	if (pp)
		sysmon_ask(pp, word, at, gp, self);
}

// The calling thread holds no P and is in no run queue: take an idle P, or run on without, or queue for one.
//
// Who comes back from a wait of its own may run on credit: most bursts between two blocking calls are shorter than a
// switch. sysmon ends it when it lasts too long and someone waits.
void run_again(struct g *gp, bool on_credit, enum ready_as as)
{
	struct p *pp;
	int64_t now;

	if (unlikely(load_relaxed(&sched.active) !=
		     PHASE_ACTIVE)) { // in a forked child, back from a handler
		gp->p = NULL;
		set_status(gp, G_RUNNING);
		gp->waiting = false;
		return;
	}
	critical_enter();
	// It has one after all: on the way here it was stopped by force, or a handler of the program ran that waited for something,
	// and it was granted one. Taken for lost, that P would be nobody's.
	if (unlikely(gp->p) && load_relaxed(&gp->p->word) == (gp->pseq | P_RUNNING)) {
		gp->waiting = false;
		critical_leave();
		return;
	}
	now = os_nanotime();
	gp->ready_as = (uint8_t)as;
	if (sched.policy->wakes)
		sched.policy->wakes(gp, now);
	pp = pidleget();
	if (pp) {
		wirep(pp, gp, now, false);
		gp->waiting = false;
		critical_leave();
		return;
	}
	gp->p = NULL;
	if (on_credit && !demand() && (pp = p_of_sleeper(now))) {
		wirep(pp, gp, now, false);
		gp->waiting = false;
		critical_leave();
		return;
	}
	if ((on_credit && credit_back(gp, now)) || unlikely(load_relaxed(&sched.open))) {
		runs_without(gp, now);
		gp->waiting = false;
		sysmon_stray();
		if (demand()) {
			wakep(now);
			sysmon_kick();
		}
		critical_leave();
		return;
	}
	gp->runnable_since = now;
	set_status(gp, G_RUNNABLE);
	ready(NULL, gp, false);
	wakep(now);
	sysmon_kick();
	if (as == READY_WOKEN)
		make_room(gp, NULL, now);
	gp->waiting = true;
	critical_leave();
	park_wait(gp, NULL, 0);
}

// Parked, and sure that no goready can come: end the wait. It was one of its own, until a deadline, a handler, a
// cancellation, so it comes back as from a system call; but not from one that was hardly a wait, as who polls with
// deadlines that have passed would then never need a P.
void gounpark(struct g *gp)
{
	store_relaxed(&gp->park, PARK_NONE);
	TRACE(unblock, gp, true, 0);
	run_again(gp, os_nanotime() - gp->run_since >= config.credit, READY_WOKEN);
}

// Make a parked G runnable: on an idle P if there is one, or without one, else as runnext of the caller's P. The one
// that removed gp from whatever it waited in calls this, exactly once. Signal-safe; any thread.
void goready(struct g *gp)
{
	struct g *self = getg();
	struct p *pp;
	int64_t now;
	bool woken;

	critical_enter();
	if (xchg(&gp->park, PARK_TOKEN) != PARK_PARKED) { // pairs with the CAS in gopark_begin
		critical_leave();
		return;
	}
	PROBE2(go_unblock, gp->goid, gp->tid);
	now = os_nanotime();
	TRACE(unblock, gp, false, now);
	gp->runnable_since = now;
	gp->ready_as = READY_WOKEN;
	if (sched.policy->wakes)
		sched.policy->wakes(gp, now);
	if (credit_woken(gp, now)) {
		now = os_nanotime(); // after its unblocking, as in grant: for the trace
		runs_without(gp, now);
		store_relaxed(&gp->park, PARK_NONE); // not before its status: settle
		wake(gp);
		sysmon_stray();
		critical_leave();
		return;
	}
	set_status(gp, G_RUNNABLE);
	store_relaxed(&gp->park, PARK_NONE);
	pp = pidleget();
	if (pp) {
		grant(pp, gp, false);
		critical_leave();
		return;
	}
	// A new thread goes to the global queue, with all that ran and were preempted: in the creator's ring it would
	// come before those, and another P's share of them would be smaller or larger for as long as the ring lasts.
	pp = self && gp->switches && !sched.policy->global ? pin(self) : NULL;
	woken = gp->ready_as == READY_WOKEN; // not new
	ready(pp, gp, true);
	if (pp)
		unpin(self, pp);
	wakep(now);
	sysmon_kick();
	if (woken)
		make_room(gp, self, now);
	critical_leave();
}

// --- yielding -------------------------------------------------------------------------------------

enum {
	PULL_AFTER = 550000,	// ns; the timer's slack comes on top
	PULL_QUANTUM = 5000000, // ns; with shorter ones the next slice's end comes soon
	PULLS = 3,
};

static void yield(struct g *gp, enum g_status as, enum ready_as why, struct g *to);

// Go to the tail of the global queue and let the next one run. as: G_RUNNABLE, or G_PREEMPTED from
// inside the signal handler. Without competition it returns at once. Signal-safe under the conditions
// of preempt_handler.
void gosched(struct g *gp, enum g_status as)
{
	yield(gp, as, load_relaxed(&gp->preempt) ? READY_PREEMPTED : READY_YIELDED, NULL);
}

// The same for who waits by spinning; owner, or NULL: for whom.
void gosched_spun(struct g *gp, struct g *owner)
{
	yield(gp, G_RUNNABLE, READY_SPUN, owner);
}

// Sleep until granted a P. gp, which was preempted, has handed pp to a G that ran last on another CPU. The kernel may have woken that one there,
// behind the holder of another P, and sees only some milliseconds later that this CPU is idle: with three busy threads on two CPUs, 8 % of
// them were lost. It looks for work when a CPU gets idle, but not always, and it leaves threads alone that ran less than half
// a millisecond ago (sysctl kernel.sched_migration_cost_ns). So gp wakes up for an instant when that is over, some times, unless the other came here.
// Signal-safe. Stack: as park_wait_since.
static void wait_and_pull(struct g *gp, const struct p *pp)
{
	int pulls = 0;

	for (;;) {
		struct deadline soon = os_deadline_in(PULL_AFTER);
		bool pull = pulls++ < PULLS && load_relaxed(&pp->cpu) != gp->cpu; // a hint

		if (park_wait(gp, pull ? &soon : NULL, 0) == 0)
			return;
	}
}

static void yield(struct g *gp, enum g_status as, enum ready_as why, struct g *to)
{
	struct p *had, *pp;
	int64_t now;
	bool asked, pull;

	critical_enter();
	had = gp->p;
	pp = pin(gp);
	asked = load_relaxed(&gp->preempt);
	store_relaxed(&gp->preempt, false);
	store_relaxed(&gp->force, false);
	if (!pp) {
		stray_ends(gp, had, os_nanotime());
		TRACE(yield, NULL, gp, as == G_PREEMPTED, asked, 0);
		critical_leave();
		run_again(gp, false, why);
		return;
	}
	if (sched.policy->empty() && pp->id < load_relaxed(&sched.nprocs) &&
	    likely(!load_relaxed(&sched.stopping))) {
		store_relaxed(&pp->slice_start, os_nanotime());
		store_relaxed(&pp->resched, 0);
		gp->grace_over = false; // a new slice
		unpin(gp, pp);
		critical_leave();
		return;
	}
	now = os_nanotime();
	run_ends(gp, now);
	if (now > pp->slice_start + config.quantum)
		stats_overshoot(now - pp->slice_start - config.quantum);
	TRACE(yield, pp, gp, as == G_PREEMPTED, asked, now);
	gp->p = NULL;
	gp->runnable_since = now;
	gp->ready_as = (uint8_t)why;
	set_status(gp, as);
	if (why == READY_SPUN) {
		pp->freed_by = tls.spin_site;
		pp->in_vain = gp->spin_yields > 0;
	}
	ready(NULL, gp, false);
	schedule_to(pp, to);
	pull = why == READY_PREEMPTED && config.quantum >= PULL_QUANTUM &&
	       !load_relaxed(&sched.stopping);
	sysmon_kick();
	gp->waiting = true;
	critical_leave();
	if (pull)
		wait_and_pull(gp, pp);
	else
		park_wait(gp, NULL, 0);
}

// A holder of locks is spared until it lets go of the last one, or until sysmon says that it had its grace. Not one that
// comes back from a call in a stopping world (stw.c): it would queue also if it had found its P gone.
static bool spared(struct g *gp)
{
	const struct p *pp = gp->p;

	if (gp->preemptoff && !load_relaxed(&gp->force))
		return true;
	if (gp->locks <= 0 || gp->grace_over)
		return false;
	return !load_relaxed(&sched.stopping) ||
	       (pp && load_relaxed(&pp->word) == (gp->pseq | P_RUNNING));
}

// The cooperative safe point, when gp->preempt is set.
void preempt_check_slow(struct g *gp)
{
	if (preempt_due(gp))
		gosched(gp, G_RUNNABLE);
}

// gp, the caller's, has been asked. Must it yield now?
bool preempt_due(struct g *gp)
{
	if (tls.critical || gp->waiting || spared(gp))
		return false;
	if (gp->grace_over)
		gp->locks = 0; // a second grace for the same hold would be one too many
	STAT(preempt_cooperative);
	PROBE3(go_preempt, gp->goid, gp->tid, PREEMPT_IN_CALL);
	return true;
}

// --- system calls -----------------------------------------------------------------------------------

// entersyscall and exitsyscall are in scheduler.h: each a store and a load. A call that may block keeps its P,
// and only gp->status says that it is in one; sysmon may retake the P then. A G that comes back at that
// very moment may miss it and run on: it is a stray, and sysmon has set gp->preempt, so its next interposed
// call queues. Nobody else notices: every real step with a P is a CAS on its word.

// A preemption signal may be on its way: wait for it here, where it does no harm.
void entersyscall_slow(struct g *gp)
{
	preempt_drain(gp);
}

// About to make a call that will block: hand the P on at once.
void entersyscallblock_slow(struct g *gp)
{
	struct frame at = gp->at;
	int64_t now = os_nanotime();
	struct p *had, *pp;

	critical_enter();
	had = gp->p;
	pp = pin(gp);
	if (pp)
		run_ends(gp, now);
	else
		stray_ends(gp, had, now);
	burst_ends(gp);
	gp->call_since = now;
	TRACE(write, TRACE_SYSCALL_BLOCK, 0, pp, gp->goid, 0, at.pc, now);
	gp->run_since = 0; // accounted for
	gp->p = NULL;
	set_status(gp, G_SYSCALL);
	if (pp)
		handoffp(pp); // no P from here on; nobody but this thread changes that
	if (unlikely(load_relaxed(&sched.watch_idle)))
		sysmon_idles();
	critical_leave();
	entersyscall_untraced(gp);
	gp->at = at; // the frame of this function is gone then
}

// gp was on credit before the call, which was a short one: it still is. Else each call of a thread on credit costs an account, a look at all
// that could give it a P, and a new credit: 20 us for a transaction of MariaDB's, which makes some forty. It comes to no more
// than a credit: the stretch is the same, and sysmon's notes about it are as good as before.
//
// The status comes first: sysmon takes who is in G_SYSCALL without a P for one that stands still (stw.c), and for no stray (watch_strays).
static bool goes_on(struct g *gp)
{
	if (gp->p || !gp->run_since || !gives_credit() ||
	    os_nanotime() - gp->run_since >= config.credit ||
	    unlikely(load_relaxed(&sched.active) != PHASE_ACTIVE))
		return false;
	critical_enter();
	CHECKED(invariant_status(gp, G_RUNNING));
	xchg(&gp->status,
	     G_RUNNING); // then the loads; pairs with the membarrier of stw_poll, and with watch_strays
	if (likely(!load_relaxed(&sched.stopping))) {
		sysmon_stray();
		TRACE(write, TRACE_SYSCALL_END, 0, NULL, gp->goid, 0, 0, 0);
		critical_leave();
		return true;
	}
	critical_leave();
	return false;
}

// The P is gone, or there was none.
void exitsyscall_slow(struct g *gp)
{
	struct p *had = gp->p;

	if (goes_on(gp))
		return;
	// A call that began with a P: it was computing until then.
	if (had)
		(void)load_acquire(&had->word); // pairs with retakep: retaken_at is set
	critical_enter();
	if (load_relaxed(&sched.active) == PHASE_ACTIVE)
		stray_ends(gp, had, had ? gp->retaken_at : os_nanotime());
	gp->burst = 0; // not known: the time without a P was mostly the wait
	critical_leave();
	TRACE(write, TRACE_SYSCALL_BLOCKED, 0, NULL, gp->goid, 0, 0, 0);
	set_status(gp, G_RUNNING);
	run_again(gp, true, READY_WOKEN);
}
