// fair.h: policy fair on a simulated clock, for the tests of it.
//
// The policy is the real one. What proc.c and sysmon.c do around it is simulated here, in the same order: who holds a P
// runs until its burst ends, or until its slice ends or it is asked to make room, some time late as signals are. The
// clock and the number of the CPU come from here, by way of the vDSO's functions.

#pragma once

#include "clock.h"

enum { MAXG = 64, MAXP = 8 };
enum { NOT_YET, RUNS, QUEUED, SLEEPS };

static unsigned cpu;
static uint32_t random_state;

static inline long fake_cpu(unsigned *ret_cpu, unsigned *node, void *unused)
{
	(void)node, (void)unused;
	*ret_cpu = cpu;
	return 0;
}

static inline uint32_t rnd(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state % below;
}

static struct thread {
	struct g g;
	int state;
	uint32_t weight;
	int64_t burst, sleep; // burst 0: always busy; both are the largest of a random choice
	bool exact;	      // they are what they say
	bool mortal;	      // each burst is a new thread's
	int64_t left;	      // of the burst
	int64_t wakes_at;
	int64_t service;
	int64_t latest; // longest time in the queue
	int64_t woken,
		latest_woken; // how often it was queued after a wait, and the longest time of these
} threads[MAXG];
static int nthreads;

static struct cpu {
	int64_t ends, asked; // when the slice is seen to end, and when the request arrives; NEVER
} cpus[MAXP];
#define NEVER INT64_MAX
static int64_t late; // how late a signal is at most
static int64_t longest_hold;
static uint64_t wake_preemptions;

static inline struct p *P(int i)
{
	return &sched.allp[i];
}

static inline int np(void)
{
	return (int)sched.nprocs;
}

static inline struct thread *thread_of(struct g *gp)
{
	return (struct thread *)gp;
}

static inline void setup(void)
{
	unit_config();
	os_vdso_clock_gettime = fake_clock;
	os_vdso_getcpu = fake_cpu;
	sched.policy = config.policy = &policy_fair;
	sched.allp = os_mmap(sizeof(struct p) * MAX_PROCS);
	ck_assert_ptr_nonnull(sched.allp);
	ck_assert(policy_fair.reserve(MAXG));
	tls.critical = 1; // the policy takes sched.lock
	tls.g = NULL;
}

static inline int64_t choose(const struct thread *t, int64_t most)
{
	return t->exact ? most : 1 + rnd((uint32_t)most);
}

// --- as in proc.c -----------------------------------------------------------------------------------

static inline void grant(int i, struct g *gp, bool inherit)
{
	struct p *pp = P(i);
	struct thread *t = thread_of(gp);
	int64_t waited = now - gp->runnable_since;

	if (t->state == QUEUED) {
		if (waited > t->latest)
			t->latest = waited;
		if (gp->ready_as == READY_WOKEN) {
			t->woken++;
			if (waited > t->latest_woken)
				t->latest_woken = waited;
		}
	}
	pp->g = gp;
	gp->p = pp;
	gp->run_since = now;
	if (!inherit)
		pp->slice_start = now;
	gp->status = G_RUNNING;
	gp->preempt = false;
	gp->switches++;
	pp->resched = 0;
	pp->word = (P_SEQ(pp->word) + P_SEQ_ONE) | P_RUNNING;
	t->state = RUNS;
	cpus[i] = (struct cpu){pp->slice_start + config.quantum + rnd((uint32_t)late + 1), NEVER};
}

static inline void dispatch(int i)
{
	bool inherit;
	struct g *gp;

	P(i)->word = P_SEQ(P(i)->word) | P_SCHED;
	gp = policy_fair.pick(P(i), &inherit);
	if (gp) {
		grant(i, gp, inherit);
		return;
	}
	P(i)->g = NULL;
	P(i)->word = P_SEQ(P(i)->word) | P_IDLE;
}

// Charged for what it ran since the last time.
static inline struct g *stop(int i)
{
	struct g *gp = P(i)->g;

	if (now - gp->run_since > longest_hold)
		longest_hold = now - gp->run_since;
	thread_of(gp)->service += now - gp->run_since;
	if (thread_of(gp)->burst)
		thread_of(gp)->left -= now - gp->run_since;
	gp->weight = thread_of(gp)->weight;
	gp->charged = -NEVER / 2; // it had the CPU all the time
	policy_fair.charge(gp, now - gp->run_since, now);
	gp->cpu = (unsigned)i;
	return gp;
}

static inline void wake(struct thread *t)
{
	struct g *gp = &t->g, creator = {0};
	uint64_t word;
	int64_t at;
	struct p *pp;
	bool woken;

	if (t->mortal || t->state == NOT_YET) {
		struct g fresh = {.weigh_at = NEVER, .cpu = gp->cpu};

		*gp = fresh;
	}
	t->left = t->burst ? choose(t, t->burst) : 0;
	gp->runnable_since = now;
	gp->status = G_RUNNABLE;
	gp->ready_as = READY_WOKEN;
	creator.weight = t->weight; // inherited
	tls.g = &creator;
	policy_fair.wakes(gp, now);
	tls.g = NULL;
	for (int i = 0; i < np(); i++) {
		if (P_STATE(P(i)->word) == P_IDLE) {
			grant(i, gp, false);
			return;
		}
	}
	woken = gp->ready_as == READY_WOKEN;
	t->state = QUEUED;
	policy_fair.enqueue(NULL, gp, false);
	pp = woken ? policy_fair.victim(gp, NULL, now, &word, &at) : NULL;
	if (pp) {
		if (pp->word != word || P_STATE(word) != P_RUNNING)
			ck_abort_msg("a P was asked for that nobody holds");
		pp->resched = word;
		pp->resched_at = at;
		pp->resched_for = gp;
		cpus[pp->id].asked = (at > now ? at : now) + rnd((uint32_t)late + 1);
	}
}

static inline void preempted(int i)
{
	struct g *gp = stop(i);

	gp->runnable_since = now;
	gp->status = G_RUNNABLE;
	gp->ready_as = READY_PREEMPTED;
	thread_of(gp)->state = QUEUED;
	policy_fair.enqueue(NULL, gp, false);
	dispatch(i);
}

static inline void blocks(int i)
{
	struct thread *t = thread_of(stop(i));

	t->state = SLEEPS;
	t->wakes_at = now + choose(t, t->sleep);
	dispatch(i);
}

// --- what holds at every moment -----------------------------------------------------------------------

static inline double rel(uint32_t weight)
{
	return (double)weight / WEIGHT_ORDINARY;
}

enum { CARRY = 4 };
static inline int64_t S(void) // of the head of policy_fair.c
{
	return config.quantum + late;
}
static inline int64_t T(void)
{
	return config.quantum / 2;
}

static inline void check_state(void)
{
	int waiting = 0, idle = 0;

	for (int k = 0; k < nthreads; k++) {
		struct thread *t = &threads[k];
		int64_t ahead = t->g.vtime - fair_clock();

		if (t->state != QUEUED)
			continue;
		waiting++;
		if (ahead < -CARRY * config.quantum)
			ck_abort_msg("thread %d is %ld ns behind the clock", k, -ahead);
		if ((double)ahead > (double)(config.quantum + S() + T()) / rel(t->g.weight))
			ck_abort_msg("thread %d is %ld ns ahead of the clock", k, ahead);
	}
	for (int i = 0; i < np(); i++)
		idle += P_STATE(P(i)->word) == P_IDLE;
	if (waiting && idle)
		ck_abort_msg("%d threads wait and %d Ps are idle", waiting, idle);
	if ((uint32_t)waiting != sched.runq.size)
		ck_abort_msg("%d threads wait, %u are queued", waiting, sched.runq.size);
}

// --- the clock goes ------------------------------------------------------------------------------------

static inline void begin(int procs, int64_t quantum, uint32_t seed)
{
	policy_fair.reset();
	sched.runq.size = 0;
	sched.nprocs = (uint32_t)procs;
	config.quantum = quantum;
	random_state = seed * 2654435761u + 1;
	now = 1000000000;
	late = quantum / 8;
	longest_hold = 0;
	wake_preemptions = 0;
	for (int i = 0; i < procs; i++) {
		memset(P(i), 0, sizeof(struct p));
		P(i)->id = (uint32_t)i;
		P(i)->word = P_SEQ_ONE | P_IDLE;
	}
	memset(threads, 0, sizeof(threads));
	nthreads = 0;
}

static inline struct thread *thread(uint32_t weight, int64_t burst, int64_t sleep, int64_t starts)
{
	struct thread *t = &threads[nthreads++];

	t->weight = weight * 1024;
	t->burst = burst;
	t->sleep = sleep;
	t->wakes_at = now + starts;
	t->state = NOT_YET;
	return t;
}

static inline void run_until(int64_t end)
{
	while (now < end) {
		int64_t next = end;

		for (int k = 0; k < nthreads; k++) {
			struct thread *t = &threads[k];

			if ((t->state == SLEEPS || t->state == NOT_YET) && t->wakes_at < next)
				next = t->wakes_at;
		}
		for (int i = 0; i < np(); i++) {
			struct g *gp = P(i)->g;
			int64_t at;

			if (P_STATE(P(i)->word) != P_RUNNING)
				continue;
			// Without demand sysmon sleeps.
			at = sched.runq.size == 0				   ? NEVER
			     : cpus[i].asked < cpus[i].ends && resched_waits(P(i)) ? cpus[i].asked
										   : cpus[i].ends;
			if (at < next)
				next = at;
			if (thread_of(gp)->burst && gp->run_since + thread_of(gp)->left < next)
				next = gp->run_since + thread_of(gp)->left;
		}
		if (next > now)
			now = next;
		for (int i = 0; i < np(); i++) {
			struct g *gp = P(i)->g;

			if (P_STATE(P(i)->word) != P_RUNNING)
				continue;
			if (thread_of(gp)->burst && gp->run_since + thread_of(gp)->left <= now) {
				blocks(i);
			} else if (cpus[i].asked <= now && resched_waits(P(i))) {
				wake_preemptions++;
				preempted(i);
			} else if (sched.runq.size && cpus[i].ends <= now) {
				preempted(i);
			}
		}
		for (int k = 0; k < nthreads; k++) {
			struct thread *t = &threads[k];

			if ((t->state == SLEEPS || t->state == NOT_YET) && t->wakes_at <= now)
				wake(t);
		}
		check_state();
	}
}

// What t has had so far, with what it holds.
static inline double service(const struct thread *t)
{
	return (double)(t->service + (t->state == RUNS ? now - t->g.run_since : 0));
}
