// policy_fair.c: who runs next: least virtual time first, over all Ps.
//
// A G's virtual time (gp->vtime) is the time it has held a P, or run on credit, divided by its weight: ns of a G of the ordinary
// weight. All waiting Gs are in one queue, ordered by it (heap.c), under sched.lock. The clock is the virtual time of the
// process: what a G that always wanted to run would have now. It never goes back; it is raised to the least virtual time
// whenever that is known: of the queue at each pick, of the queue and the running ones when a G wakes.
//
// Rejected: a queue for each P with a balancer (unfair between balancings, and a wake-up has to find the right one);
// deadlines besides virtual times, as EEVDF has (all slices here are alike); virtual time that stands still while nobody waits
// (who shares a P seldom would pay for all its time, and who never sleeps for next to none).
//
// Where a G's virtual time is put. Q is the quantum, w a weight divided by the ordinary one.
//  - It comes back from a wait: not more than Q behind the clock. So sleep cannot be saved up for longer than that.
//  - It was preempted: not more than CARRY quanta behind. A weight may promise more than the one P that a G can use; what it could
//    not use is lost, or it would once crowd out all others for as long as it had lagged.
//  - It is charged: for the time for which somebody waited meanwhile; for the rest not more than to Q/w ahead. Who ran while nobody wanted its P
//    owes nobody anything, but would be made to wait for whoever comes until that has run for as long.
//  - It is new: Q/w ahead, as if it had just run. Else those who start thread after thread came before all others for ever.
//  - It yields: behind the first in the queue. A yield is a real hand-off.
//
// The bounds. S: the longest a G holds a P while others wait, that is Q, PREEMPT_LOCK_GRACE and PREEMPT_FORCE_AFTER. T:
// the tolerance below. K = CARRY * Q.
//  1. No G in the queue is behind the clock by more than K. It was not when it came (above); and the clock is only ever
//     raised to what is at most the least of the queue, so at that moment nobody is behind it at all.
//  2. No G is ahead of the clock by more than (Q + S + T)/w. It is picked at no more than T/w ahead, for the clock is raised to the first
//     of the queue then, and charged at most S/w for what it holds; what it ran before anybody waited counts for Q/w at most.
//  3. So of two Gs that wanted to run all the time, and whose weights promise no more than a P, neither gets ahead of
//     the other by more virtual time than 2 K + (Q + S + T) (1/w1 + 1/w2), however long that time is. In practice by
//     a slice: tests/unit/test_fair.c has the figures.
//  4. No starvation. A G of weight w that waits has at most (Q + S + T)/w more than the clock when it comes. It is passed only by Gs
//     that have less than T/u more than it has, where u is their weight. Whoever that is has no more than K less than the clock, gets
//     further with each run, and so runs for ((Q + S + T)/w + K) u + T + S at most, then its turn is later. New Gs start ahead of the
//     clock, and raise it when they are picked. So with n Gs of weight 1 on P Ps, the wait is below n (Q + 2 S + 2 T + K) / P.
//  5. A G that wakes up with a lag above the granularity, and about the first of the queue, has a P asked for at once, if that was held
//     for the granularity, else then.
//
// Which thread on which CPU: the kernel likes to wake a thread where it ran last, busy or not, and may take milliseconds to see that another
// CPU is idle. So among the first of the queue one is preferred that ran last on a CPU where no other P's holder runs, if it has
// at most T/w more virtual time than the first; if a woken G has asked for this P, at most the granularity. Two holders that
// came to be on one CPU part at the next pick of either. (Without, 16 pairs of threads used 1.3 of two CPUs.)
//
// Who wakes another and then stops, hands its P on to that one together with the rest of its slice, if that one has at most T/w more
// than the first: their data are in this CPU's cache, and a wake-up across CPUs takes the kernel some 10 us. So a chain of Gs that
// wake each other has the P for a slice, like a single G, and each is charged for its part. (Without, 16 pairs that pass a token to
// and fro by condition variables got through a fifth of what they do under policy go. When they went on only until
// the first had waited for the granularity, through half: with more than a few pairs, the first has always.)
//
// Preemption on wake-up. A waking G for which there is no idle P is compared with the running G that has the most virtual time,
// also with the waker, which is preferred if it is close to that: it needs no signal. The granularity keeps Gs from taking a P from
// each other all the time: a P is taken for a woken G once per granularity at most, and never for a lag below it.

#include "shim.h"

enum {
	CARRY = 4, // quanta
	MANY = 64, // Ps looked at for the running Gs, at most
	FEW = 16,  // and at each pick or wake-up
	NEAR = 64, // entries among which the G that was woken last is looked for: a kilobyte
	CHOICE =
		21, // entries among which one of the right CPU is looked for: three levels of the heap
	GRANULARITY = 1000000,	// ns, for quanta of 8 ms and more
	WEIGH_NEW = 1000000,	// ns for which a new thread has the weight of who made it
	WEIGH_FIRST = 10000000, // ns until a G reads its weight for the second time
	WEIGH_MOST = 1000000000,
};

#define ORDINARY ((int64_t)WEIGHT_ORDINARY)

static struct {
	struct heap queue;    // by vtime; under sched.lock
	int64_t clock;	      // written under sched.lock
	int64_t waited_since; // when the queue last became non-empty; NOBODY while it is empty
	int64_t looked;	      // when the running Gs were last looked at for the clock
	struct spinq spun;    // who waits by spinning; under sched.lock
	uint32_t turn;	      // where to begin to look with more than FEW Ps
} fair = {.waited_since = INT64_MAX};
#define NOBODY INT64_MAX

// Virtual times wrap; those that are compared are close to each other.
static int64_t minus(int64_t a, int64_t b)
{
	return (int64_t)((uint64_t)a - (uint64_t)b);
}
static int64_t plus(int64_t a, int64_t b)
{
	return (int64_t)((uint64_t)a + (uint64_t)b);
}
static int64_t later(int64_t a, int64_t b)
{
	return minus(a, b) > 0 ? a : b;
}

// ns of a G of this weight, as virtual time. Exact enough, and does not overflow before 2^46 ns of a G of the least weight.
static int64_t virtual(int64_t ns, uint32_t weight)
{
	if (likely(weight == WEIGHT_ORDINARY))
		return ns;
	return ns / weight * ORDINARY + ns % weight * ORDINARY / weight;
}

static int64_t granularity(void)
{
	return config.quantum / 8 < GRANULARITY ? config.quantum / 8 : GRANULARITY;
}

static int64_t tolerance(void)
{
	return config.quantum / 2;
}

static uint32_t queued(void)
{
	return load_relaxed(&sched.runq.size);
}

int64_t fair_clock(void)
{
	return load_relaxed(&fair.clock);
}

// To what is no more than the least in the queue. sched.lock must be held.
static void raise_clock(int64_t to)
{
	store_relaxed(&fair.clock, later(fair.clock, to));
}

// --- the running Gs -----------------------------------------------------------------------------------

struct running {
	struct p *pp;
	struct g *gp;
	uint64_t word;
	int64_t vtime; // as if it were charged now
};

// Who holds pp, if somebody does. Without a lock: its fields count if the P's word is the same afterwards.
static bool look(struct p *pp, int64_t now, struct running *ret)
{
	uint64_t word = load_acquire(&pp->word); // pairs with wirep: pp->g is its holder
	struct g *gp = load_relaxed(&pp->g);
	uint32_t weight;
	int64_t ran;

	if (P_STATE(word) != P_RUNNING || !gp)
		return false;
	weight = load_relaxed(&gp->weight);
	if (unlikely(!weight)) // it has ended, and is being made another thread's
		return false;
	ran = now - load_relaxed(&gp->run_since);
	*ret = (struct running){pp, gp, word, load_relaxed(&gp->vtime)};
	ret->vtime = plus(ret->vtime, virtual(ran < 0 ? 0 : ran, weight));
	return load_acquire(&pp->word) == word; // pairs with pin and wirep: it held pp all the time
}

// The i-th of the Ps to look at. NULL: that were all.
static struct p *to_look_at(uint32_t i, uint32_t from)
{
	uint32_t n = load_relaxed(&sched.nprocs);

	return i < n && i < MANY ? &sched.allp[n > FEW ? (from + i) % n : i] : NULL;
}

// Raise the clock to the least virtual time there is. No more often than changes anything: it is a look at every P.
// Executed with tls.critical > 0; takes sched.lock.
static void look_for_least(int64_t now)
{
	struct running r;
	struct p *pp;
	int64_t least = 0;
	bool any = false;

	if (now - load_relaxed(&fair.looked) < config.quantum / 8)
		return;
	store_relaxed(&fair.looked, now);
	for (uint32_t i = 0; (pp = to_look_at(i, load_relaxed(&fair.turn))); i++) {
		if (!look(pp, now, &r))
			continue;
		if (!any || minus(r.vtime, least) < 0)
			least = r.vtime;
		any = true;
	}
	if (!any)
		return;
	lock_acquire(&sched.lock);
	if (fair.queue.n && minus(fair.queue.at[0].key, least) < 0)
		least = fair.queue.at[0].key;
	raise_clock(least);
	lock_release(&sched.lock);
}

// The P to be preempted: that of the running G with the most virtual time, of FEW that are looked at in turn, if it has more than
// woken by the granularity.
// self: the waker, if it is a G. ret_at: not before then.
static struct p *fair_victim(const struct g *woken, const struct g *self, int64_t now,
			     uint64_t *ret_word, int64_t *ret_at)
{
	int64_t grain = granularity(), ran;
	struct running most = {0}, mine = {0}, r;
	uint32_t from = load_relaxed(&fair.turn);
	struct p *pp;

	// Others of the queue come before it.
	if (minus(load_relaxed(&woken->vtime), fair_clock()) > grain)
		return NULL;
	store_relaxed(&fair.turn, from + FEW);
	for (uint32_t i = 0; i < FEW && (pp = to_look_at(i, from)); i++) {
		// Who was asked already gives its P to another; from a call the P is retaken (sysmon).
		if (!look(pp, now, &r) || load_relaxed(&pp->resched) == r.word ||
		    load_relaxed(&r.gp->preempt) || load_relaxed(&r.gp->status) != G_RUNNING)
			continue;
		if (r.gp == self)
			mine = r;
		if (!most.pp || minus(r.vtime, most.vtime) > 0)
			most = r;
	}
	if (mine.pp && minus(most.vtime, mine.vtime) < grain)
		most = mine;
	if (!most.pp || minus(most.vtime, load_relaxed(&woken->vtime)) <= grain)
		return NULL;
	ran = now - load_relaxed(&most.pp->slice_start); // or of those who handed it on
	*ret_word = most.word;
	*ret_at = ran < grain ? now + grain - ran : now;
	return most.pp;
}

// --- virtual time ---------------------------------------------------------------------------------------

// What a hold of ns is charged for. Where other processes want the CPUs as well, a G may hold its P for long and hardly
// run. So when it was much longer than its slice, the CPU clock counts (which takes the kernel half a microsecond): all that it was ever charged
// for is not to be more than all that it used, but a hold like this is not to be less than a slice.
static int64_t used(struct g *gp, int64_t ns)
{
	if (unlikely(!gp->charged)) { // it was a thread before it was a G
		int64_t cpu = os_thread_cputime(gp->tid);

		// A thread that has not run for so long in all its life waited for a CPU, perhaps to start.
		gp->charged = cpu > ns ? cpu - ns : 1;
	}
	if (unlikely(ns > 2 * config.quantum)) {
		int64_t owed = os_thread_cputime(gp->tid) - gp->charged;

		if (owed < ns)
			ns = owed > config.quantum ? owed : config.quantum;
	}
	gp->charged += ns;
	return ns;
}

// Executed by gp's thread: it has held a P for ns, or run without, until now.
static void fair_charge(struct g *gp, int64_t ns, int64_t now)
{
	int64_t since = load_relaxed(&fair.waited_since), waited = 0, had = gp->vtime, v, owed,
		most;
	uint32_t weight = gp->weight;

	if (unlikely(!weight))
		return; // never placed: it was made before the scheduler began
	if (ns < 0)
		ns = 0;
	if (since != NOBODY)
		waited = now - since < ns ? now - since : ns;
	if (waited < 0)
		waited = 0;
	ns = used(gp, ns);
	if (waited > ns)
		waited = ns;
	owed = plus(had, virtual(waited, weight));
	v = plus(had, virtual(ns, weight));
	most = plus(fair_clock(), virtual(config.quantum, weight));
	if (minus(v, most) > 0)
		v = later(owed, most);
	store_relaxed(&gp->vtime, v);
	if (now >= gp->weigh_at) {
		weigh(gp);
		gp->weigh_every = gp->weigh_every ? gp->weigh_every * 2 : WEIGH_FIRST;
		if (gp->weigh_every > WEIGH_MOST)
			gp->weigh_every = WEIGH_MOST;
		gp->weigh_at = now + gp->weigh_every;
	}
}

// gp comes back from a wait, or is new. It is in no queue and does not run.
static void fair_wakes(struct g *gp, int64_t now)
{
	const struct g *self = getg();

	look_for_least(now);
	if (unlikely(!gp->weight)) {
		// It reads its own when it first stops, if it has lived for a moment: many do not. Until then its creator's,
		// whose nice value it has inherited.
		store_relaxed(&gp->weight, self && self->weight ? self->weight : WEIGHT_ORDINARY);
		store_relaxed(&gp->vtime, plus(fair_clock(), virtual(config.quantum, gp->weight)));
		if (gp->start) { // its thread is as new, and so is its CPU clock
			gp->weigh_at = now + WEIGH_NEW;
			gp->charged = 1;
		}
		gp->ready_as = READY_NEW;
		return;
	}
	store_relaxed(&gp->vtime, later(gp->vtime, minus(fair_clock(), config.quantum)));
}

// On credit, if it has not had more than its share lately. It is charged for that time, so who computes loses it.
static bool fair_credit(const struct g *gp)
{
	return minus(gp->vtime, fair_clock()) <= virtual(config.quantum, gp->weight);
}

// --- the queue --------------------------------------------------------------------------------------------

// sched.lock must be held.
static void changed(void)
{
	uint32_t n = fair.queue.n + fair.spun.all.size;

	if (!n)
		store_relaxed(&fair.waited_since, NOBODY);
	store_relaxed(&sched.runq.size, n);
	CHECKED(invariant_heap(&fair.queue));
	CHECKED(invariant_gqueue(&fair.spun.all));
}

// Executed with tls.critical > 0; takes sched.lock.
static void fair_enqueue(struct p *pp, struct g *gp, bool next)
{
	const struct g *self = getg();
	int64_t v = gp->vtime;
	uint32_t i;

	(void)pp, (void)next;
	lock_acquire(&sched.lock);
	if (gp->ready_as == READY_YIELDED && fair.queue.n)
		v = later(v, fair.queue.at[0].key);
	v = later(v, minus(fair_clock(), CARRY * config.quantum));
	store_relaxed(&gp->vtime, v);
	if (queued() == 0)
		store_relaxed(&fair.waited_since, gp->runnable_since);
	if (gp->ready_as == READY_SPUN) {
		spinq_put(&fair.spun, gp);
	} else {
		i = heap_push(&fair.queue, v, gp);
		// Hints: it may be somebody else's P by now.
		if (self && self != gp && (pp = self->p) && gp->ready_as == READY_WOKEN) {
			store_relaxed(&pp->woke, gp);
			store_relaxed(&pp->woke_at, i);
		}
	}
	changed();
	lock_release(&sched.lock);
}

// Has a G that was woken with a lag asked for pp, and has whoever holds it had the granularity?
static bool asked_for(const struct p *pp, int64_t now)
{
	return load_relaxed(&pp->resched) && load_relaxed(&pp->resched_at) <= now &&
	       resched_waits(pp);
}

// May pp go on with woke instead of the first? The slice that woke would go on with began when the first of those who handed it on was
// picked. sched.lock must be held.
static bool hands_on(const struct p *pp, const struct g *woke, const struct queued *first,
		     int64_t now)
{
	return woke->ready_as == READY_WOKEN && now - pp->slice_start < config.quantum &&
	       minus(woke->vtime, first->key) <= virtual(tolerance(), woke->weight) &&
	       !asked_for(pp, now);
}

// Where in the queue the G is that the holder of pp woke last; 0: nowhere near. The first look mostly finds it.
static uint32_t find_woke(const struct p *pp, const struct g *woke)
{
	const struct queued *at = fair.queue.at;
	uint32_t n = fair.queue.n < NEAR ? fair.queue.n : NEAR;

	if (pp->woke_at < fair.queue.n && at[pp->woke_at].gp == woke)
		return pp->woke_at;
	for (uint32_t i = 1; i < n; i++)
		if (at[i].gp == woke)
			return i;
	return 0;
}

// The CPUs on which the holders of other Ps run, or are about to; bit 63: from 63 on. With more than FEW Ps to look at, all but
// this one: sched.lock is held.
static uint64_t taken_cpus(const struct p *mine)
{
	uint32_t n = load_relaxed(&sched.nprocs);
	uint64_t taken = 0;

	if (n > FEW)
		return ~cpu_bit(os_getcpu());
	for (uint32_t i = 0; i < n; i++) {
		const struct p *pp = &sched.allp[i];

		if (pp != mine && P_STATE(load_relaxed(&pp->word)) == P_RUNNING)
			taken |= cpu_bit(load_relaxed(&pp->cpu));
	}
	return taken;
}

// Which of the queue: the first, or one that suits this P and the CPUs better. ret_inherit: it goes on with the slice.
// sched.lock must be held.
static uint32_t which(struct p *pp, int64_t now, bool *ret_inherit)
{
	const struct queued *at = fair.queue.at;
	const struct g *first = at[0].gp, *woke = load_relaxed(&pp->woke);
	int64_t most = asked_for(pp, now) ? granularity() : tolerance();
	uint64_t taken = taken_cpus(pp);
	uint32_t i = 0;

	store_relaxed(&pp->woke, NULL);
	if (woke && (woke == first || (i = find_woke(pp, woke))))
		*ret_inherit = hands_on(pp, woke, &at[0], now);
	if (*ret_inherit && !(taken & cpu_bit(woke->cpu)))
		return i;
	for (uint32_t k = 0; k < CHOICE && k < fair.queue.n; k++) {
		const struct g *gp = at[k].gp;

		if (taken & cpu_bit(gp->cpu) || (k && gp->ready_as == READY_YIELDED) ||
		    minus(at[k].key, at[0].key) > virtual(most, gp->weight))
			continue;
		*ret_inherit &= gp == woke;
		return k;
	}
	return *ret_inherit ? i : 0;
}

// Who waits by spinning runs if it has had less than all others, but not when the one before it, on this P, still waited: what they wait for may be
// done by one of the others. sched.lock must be held.
static struct g *next_spun(struct p *pp)
{
	bool in_vain = pp->in_vain;
	struct g *gp;

	pp->in_vain = false;
	if (!fair.spun.all.head || (fair.queue.n && in_vain))
		return NULL;
	gp = spinq_choose(&fair.spun, taken_cpus(pp));
	if (fair.queue.n)
		gp->spin_first = false; // somebody computes, who may be the one
	return fair.queue.n && minus(gp->vtime, fair.queue.at[0].key) > 0 ? NULL : gp;
}

static struct g *fair_pick(struct p *pp, bool *inherit)
{
	struct g *gp = NULL;
	int64_t now;
	uint32_t i;

	*inherit = false;
	if (queued() == 0)
		return NULL;
	now = os_nanotime();
	lock_acquire(&sched.lock);
	gp = next_spun(pp);
	if (gp) {
		gqueue_take(&fair.spun.all, gp);
	} else if (fair.queue.n) {
		i = which(pp, now, inherit);
		spinq_progress(&fair.spun);
		raise_clock(fair.queue.at[0].key);
		gp = heap_take(&fair.queue, i);
	}
	if (gp) {
		store_relaxed(&pp->cpu, gp->cpu);
		changed();
	}
	lock_release(&sched.lock);
	return gp;
}

static bool fair_take(struct g *gp)
{
	bool took;
	uint32_t i;

	lock_acquire(&sched.lock);
	for (i = 0; i < fair.queue.n && fair.queue.at[i].gp != gp; i++)
		;
	took = i < fair.queue.n;
	if (took)
		heap_take(&fair.queue, i);
	else
		took = gqueue_take(&fair.spun.all, gp);
	changed();
	lock_release(&sched.lock);
	return took;
}

// Room for n Gs in the queue. sched.lock must be held.
static bool fair_reserve(uint32_t n)
{
	return heap_reserve(&fair.queue, n);
}

static void fair_reset(void)
{
	fair.queue.n = 0;
	fair.clock = 0;
	fair.waited_since = NOBODY;
	fair.looked = 0;
	fair.spun = (struct spinq){0};
}

const struct policy policy_fair = {
	.name = "fair",
	.global = true,
	.shares_locks = true,
	.enqueue = fair_enqueue,
	.pick = fair_pick,
	.take = fair_take,
	.empty = globrunqempty,
	.charge = fair_charge,
	.wakes = fair_wakes,
	.credit = fair_credit,
	.victim = fair_victim,
	.reserve = fair_reserve,
	.reset = fair_reset,
};
