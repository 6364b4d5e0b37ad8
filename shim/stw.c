// stw.c: stop the world: no thread of the program runs, and all of them are where they may be looked at.
//
// Problem. A thread dump, a checkpoint or a collector of garbage wants all threads to stand still, at places where
// their stacks can be walked, and soon. Approach: Go's stopTheWorld. sched.stopping is set; from then on pidleget gives no P and
// schedule lets every P idle. Each G that runs is asked to yield, as at the end of a slice: by gp->preempt, then by
// signal, its locks spared for a while, and after FORCE wherever it is. A P whose G is in a system call is taken; the G finds
// none when it comes back. Nobody gets credit. So the world has stopped when no P is held and no G runs without one. That state
// of a P (Go's Pgcstop) need not exist: it is P_IDLE, and not given to anybody.
//
// sysmon does it, in steps (stw_poll), for it alone sends signals to threads that do not expect them. The one who asked (the
// owner) waits, and then runs outside of the scheduler, without a P: its calls pass straight through, as in a handler on a
// parked thread. So whatever it does cannot depend on a P: it may fork, exec, exit, wait for threads that are not scheduled, or end.
//
// What is not stopped: threads that are not Gs, and code that runs inside a call of libc (resolver modules, atfork handlers). A
// thread asleep in the kernel where no interposer saw it (the read inside fgets, a page fault that lasts) is left there, as a signal
// could end its call; when it wakes up, it is asked. It is told of (stragglers). Handlers of the program that come meanwhile
// to threads that stand still wait (stw_hold).
//
// The delicate races:
//  - A G comes back from a system call just as its P is taken: it has read the word, and stores its status. gp->preempt is set,
//    and after that membarrier makes every running thread execute a barrier: who has passed its look at gp->preempt by then
//    is seen as running, who has not sees it and queues, with locks held or not (preempt_check_slow).
//  - A G without a P that parks and finds a token runs on. So one that waits counts only in PARK_PARKED.
//  - A G is granted a P, or goes on without one, and its thread sleeps still: it is no straggler that sleeps unseen (ask).
//  - A handler on a thread that waits: it counts itself (gp->handlers), then looks at sched.stopping. stw_poll looks the other way round.
//
// Rejected: SIGSTOP and ptrace (no safe points; a parent and debuggers see it). A signal to every thread, as collectors do: it
// ends system calls.

#include <errno.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>

#include "shim.h"
#include "probes.h"

static const int64_t US = 1000, MS = 1000000;
enum {
	FORCE = 2000000,      // ns until a thread is stopped where it is
	GRACE = 1000000,      // ns until locks no longer count
	SHORTLY = 20000000,   // ns until a page fault or the birth of a thread is not waited for
	ROUND_MIN = 30000,    // ns between two rounds
	ALIVE = 100000000,    // ns between looks whether the owner is still there
	ASLEEP_LOOK = 500000, // ns between looks at those asleep unseen
};

// state is a number of the stop, and in the low bits enum stw_state: so sysmon, if it is late, does not call stopped what
// somebody else has begun to stop meanwhile.
enum { STATE_BITS = 3, STATE_ONE = 4 };

static struct {
	uint32_t owner; // tid, or 0. A futex word
	uint32_t state; // a futex word
	uint32_t seen;	// sysmon: the state that it has begun with
	bool passes;	// the owner is a G that passes through
	int64_t since;
	struct stopped result; // of the last round before the world had stopped
} stw;

static uint32_t state_word(void)
{
	return load_acquire(&stw.state); // pairs with the cas in stw_poll, and with set_state
}

enum stw_state stw_state(void)
{
	return (enum stw_state)(state_word() & STATE_BITS);
}

const struct stopped *stw_result(void)
{
	return &stw.result;
}

int64_t stw_since(void)
{
	return stw.since;
}

// By the owner.
static void set_state(uint32_t word)
{
	(void)xchg(&stw.state, word); // pairs with state_word, and with stw_hold
	os_futex_wake(&stw.state, INT32_MAX);
}

static void set_stopping(bool on)
{
	critical_enter();
	lock_acquire(&sched.lock); // who is in pidleget comes before or after
	store_relaxed(&sched.stopping, on);
	lock_release(&sched.lock);
	critical_leave();
}

// --- rounds, by sysmon ------------------------------------------------------------------------------

// What a round found.
struct round {
	uint32_t running, asleep;
	int64_t next;
	struct stopped result;
};

static void add_straggler(struct round *round, const struct g *gp)
{
	struct stopped *r = &round->result;

	if (r->stragglers < STRAGGLERS)
		r->straggler[r->stragglers] = gp->tid;
	r->stragglers++;
}

// Its thread sleeps in the library and not in the program: it has been granted a P, or goes on without, and is still to wake up, as the
// kernel runs others than its waker, which need not be a G that is waited for here; or it waits for a lock of ours. It goes on by itself.
static bool sleeps_here(const struct g *gp)
{
	const volatile struct g *v = gp;

	return v->dozes || (v->waiting && v->status == G_RUNNING && !load_relaxed(&gp->handlers));
}

// Is gp's thread asleep in the kernel, perhaps for long? An uninterruptible sleep is mostly a page fault that waits
// while another thread forks or maps: it ends at once, and then the program would run on in a world said to be stopped.
static bool asleep(const struct g *gp, int64_t now, char *ret_state)
{
	bool here = sleeps_here(gp);
	char state = os_thread_state(gp->tid);

	here |= sleeps_here(
		gp); // before, or since: it may have fallen asleep or woken up between the two
	if (ret_state)
		*ret_state = state;
	return !here && (state == 'S' || (state == 'D' && now >= stw.since + SHORTLY));
}

// gp runs, with pp under word or without a P: make it stop.
static void ask(struct g *gp, struct p *pp, uint64_t word, int64_t now, struct round *round)
{
	int64_t since = stw.since, next;
	char state = 'R';

	store_relaxed(&gp->preempt, true);
	add_straggler(round, gp);
	if (!load_relaxed(&gp->tid)) { // gostart looks
		round->running++;
		return;
	}
	if (!load_relaxed(&gp->signal_pending) && asleep(gp, now, &state)) {
		if (pp)
			take_and_hand_off(pp, word, gp, true, now, &stats.retakes_opaque);
		round->asleep++;
		return;
	}
	round->running++;
	if (state == 'D' || state == 'S')
		return; // it goes on by itself, after a fault perhaps with a call that a signal would end
	if (load_relaxed(&gp->locks) > 0) {
		if (now < stw.since + GRACE)
			return;
		store_relaxed(&gp->grace_over, true);
	}
	if (config.asyncpreemptoff)
		return;
	if (config.force_after > FORCE && !load_relaxed(&gp->preemptoff))
		since += FORCE - config.force_after;
	next = signal_g(gp, pp, word, &gp->asking, since, now, INT64_MAX);
	if (next < round->next)
		round->next = next;
}

static void look_at_p(struct p *pp, int64_t now, struct round *round)
{
	uint64_t word = load_acquire(&pp->word); // pairs with wirep: pp->g is its holder
	struct g *gp = load_relaxed(&pp->g);

	if (P_STATE(word) == P_SCHED)
		round->running++;
	if (P_STATE(word) != P_RUNNING || !gp)
		return;
	if (load_relaxed(&gp->status) == G_SYSCALL) {
		take_and_hand_off(pp, word, gp, true, now, &stats.retakes_syscall);
		round->running++; // until it has been seen without
	} else {
		ask(gp, pp, word, now, round);
	}
}

static bool holds_p(const struct g *gp)
{
	const struct p *pp = load_relaxed(&gp->p);

	return pp && load_relaxed(&pp->word) == (load_relaxed(&gp->pseq) | P_RUNNING);
}

static void look_at_g(struct g *gp, int64_t now, struct round *round)
{
	switch ((enum g_status)load_seq_cst(&gp->status)) { // after the membarrier
	case G_RUNNING:
		if (!holds_p(gp))
			ask(gp, NULL, 0, now, round);
		return;
	case G_WAITING:
		if (load_relaxed(&gp->park) != PARK_PARKED)
			round->running++;
		break;
	case G_SYSCALL:
	case G_RUNNABLE:
	case G_PREEMPTED:
		break;
	case G_IDLE:
	case G_DEAD:
	default:
		return;
	}
	round->result.threads++;
	// A thread that is being made comes to gostart by itself; its creator is in a system call.
	if (!load_relaxed(&gp->tid) && now < stw.since + SHORTLY)
		round->running++;
	// A handler of the program on top: it goes on to its end, or sleeps.
	if (load_seq_cst(&gp->handlers) && // pairs with call_handler's fetch_add
	    !asleep(gp, now, NULL)) {
		round->running++;
		add_straggler(round, gp);
	}
}

static struct round look_at_all(int64_t now)
{
	struct round round = {0, 0, now + 10 * MS, {0}};

	for (uint32_t i = 0; i < load_relaxed(&sched.nprocs_made); i++)
		look_at_p(&sched.allp[i], now, &round);
	// All Ps that were held in calls have been taken, and gp->preempt is set: see the head of this file.
	sys3(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	// acquire: pairs with gfree_refill
	for (struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink)
		look_at_g(gp, now, &round);
	return round;
}

static void begin(void)
{
	// acquire: pairs with gfree_refill
	for (struct g *gp = load_acquire(&sched.allgs); gp; gp = gp->alllink)
		gp->asking = (struct asking){0, 0};
}

static void let_go(void)
{
	set_stopping(false);
	PROBE2(stw, 0, stw.since);
	set_state(state_word() & ~(uint32_t)STATE_BITS);
	sched_restart();
	sysmon_notice();	      // there are slices again
	store_release(&stw.owner, 0); // pairs with the cas in claim
	os_futex_wake(&stw.owner, INT32_MAX);
}

// sysmon: a step towards a stopped world, and a look whether it stays so. Returns when to call again; INT64_MAX: it goes.
int64_t stw_poll(int64_t now)
{
	uint32_t state = state_word(), owner;
	struct round round;

	if ((state & STATE_BITS) == STW_GOES)
		return INT64_MAX;
	owner = load_relaxed(&stw.owner);
	if (owner && (int)owner != os_gettid() && os_tgkill((int)owner, 0) == -ESRCH &&
	    cas(&stw.owner, owner, (uint32_t)os_gettid())) { // against stw_start
		let_go();
		return INT64_MAX;
	}
	if (stw.seen != (state & ~(uint32_t)STATE_BITS)) {
		stw.seen = state & ~(uint32_t)STATE_BITS;
		begin();
	}
	round = look_at_all(now);
	now = os_nanotime();
	if ((state & STATE_BITS) == STW_STOPPING) {
		round.result.ns = now - stw.since;
		stw.result = round.result;
		if (!round.running &&
		    cas(&stw.state, state, stw.seen | STW_STOPPED)) { // against set_state
			CHECKED(invariants_stopped());
			PROBE2(stw, 1, stw.since);
			os_futex_wake(&stw.state, INT32_MAX);
		}
	}
	if (!round.running)
		return now + (round.asleep ? ASLEEP_LOOK : ALIVE);
	if (round.next < now + ROUND_MIN)
		round.next = now + ROUND_MIN;
	return round.next < now + 200 * US ? round.next : now + 200 * US;
}

// --- the owner ----------------------------------------------------------------------------------------

static bool claim(uint32_t me, const struct deadline *until)
{
	while (!cas(&stw.owner, 0, me)) { // against others who want to, and let_go
		uint32_t owner = load_relaxed(&stw.owner);

		if (owner && os_futex_wait(&stw.owner, owner, until) == -ETIMEDOUT)
			return false;
	}
	return true;
}

static void stop_begins(void)
{
	stw.since = os_nanotime();
	set_stopping(true);
	set_state((state_word() + STATE_ONE) | STW_STOPPING);
	sysmon_notice();
}

// sysmon, for itself. False: somebody else owns it.
bool stw_stop_by_sysmon(void)
{
	if (!cas(&stw.owner, 0, (uint32_t)os_gettid())) // as in claim
		return false;
	stop_begins();
	return true;
}

void stw_start_by_sysmon(void)
{
	let_go();
}

static void pass_through(struct g *gp)
{
	entersyscallblock(
		gp); // inlined all the way into preempt_stop_the_world, whose frame is gone soon
	gp->at.pc = 0;
	tls.no_adopt++;
	compiler_barrier();
	tls.g = NULL;
}

static void pass_no_more(void)
{
	struct g *gp = tls.self;

	tls.g = gp;
	compiler_barrier();
	tls.no_adopt--;
	exitsyscall(gp);
}

// 0, -EDEADLK: the caller has stopped it already; -ETIMEDOUT: not all stopped (*ret says who did not), and it goes on;
// -ENOTSUP: there is nobody to do it.
int stw_stop(int64_t timeout, struct stopped *ret)
{
	struct deadline until = os_deadline_in(timeout);
	uint32_t me = (uint32_t)os_gettid(), state;
	struct g *gp = tls.g;
	int r = 0;

	*ret = (struct stopped){0};
	if (load_relaxed(&stw.owner) == me)
		return -EDEADLK;
	if (load_relaxed(&sched.active) == PHASE_OFF || load_relaxed(&sched.open))
		return -ENOTSUP;
	if (load_relaxed(&sched.active) == PHASE_DORMANT) {
		store_relaxed(&stw.owner, me); // there is no other thread
		return 0;
	}
	if (gp)
		pass_through(gp);
	if (!claim(me, &until)) {
		if (gp)
			pass_no_more();
		return -ETIMEDOUT;
	}
	stw.passes = gp;
	stop_begins();
	for (state = state_word(); (state & STATE_BITS) == STW_STOPPING && r != -ETIMEDOUT;
	     state = state_word())
		r = os_futex_wait(&stw.state, state, &until);
	*ret = stw.result;
	if (stw_state() == STW_STOPPED)
		return 0;
	stw_start();
	return -ETIMEDOUT;
}

// 0, or -EPERM: the caller has not stopped it.
int stw_start(void)
{
	uint32_t me = (uint32_t)os_gettid();
	bool passes = stw.passes;

	if (load_relaxed(&stw.owner) != me)
		return -EPERM;
	if (stw_state() == STW_GOES) { // it was dormant
		store_relaxed(&stw.owner, 0);
		return 0;
	}
	stw.passes = false;
	let_go();
	if (passes)
		pass_no_more();
	return 0;
}

// The calling thread ends.
void stw_thread_exits(void)
{
	if (unlikely(load_relaxed(&stw.owner)))
		stw_start();
}

// A handler of the program is about to run on a thread that stands still: it waits until the world goes on. Signal-safe.
void stw_hold(void)
{
	uint32_t state;

	if (load_relaxed(&stw.owner) == (uint32_t)os_gettid())
		return;
	while (((state = state_word()) & STATE_BITS) != STW_GOES)
		os_futex_wait(&stw.state, state, NULL);
}

void stw_reset_in_child(void)
{
	stw.owner = 0;
	stw.state = 0;
	stw.seen = 0;
	stw.passes = false;
}
