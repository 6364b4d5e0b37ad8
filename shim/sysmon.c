// sysmon.c: the monitor: the one thread that runs without a P.
//
// It takes Ps back from calls that block, asks Gs that overran their slice to yield, makes strays queue (strays.c),
// follows the CPU quota, and prints schedtrace lines. Only when somebody waits for a P is there anything to
// do: without demand it sleeps on its note, for ever.
//
// Tickless: with demand it sleeps to the next slice end, retake or look that is due. The interval between
// looks at blocked calls starts at TICK_MIN and doubles up to TICK_MAX while looks find nothing, as Go's does.
//
// It is not a pthread: libc does not know it, so it is in nobody's list of threads to signal or join, and
// every signal is blocked in it. It never calls libc and has no G.

#include <errno.h>
#include <sys/syscall.h>

#include "shim.h"
#include "probes.h"

static const int64_t US = 1000, MS = 1000000;
enum {
	TICK_MIN = 50000,   // ns; below it timers on virtual machines are late anyway
	TICK_CALL = 250000, // ns until the next look at a call that has just begun, at most
	TICK_MAX = 1500000, // ns; at slices of 1 ms their ends are looks enough
	CONFIRM =
		200000, // ns between the first look at a holder and the second, where holders block unseen
	FRUITLESS = 2,		// looks before the interval starts to double
	LINGER = 10,		// short sleeps without demand before the long one
	SIGNAL_LOST = 20000000, // ns until a signal on its way is given up
	UNSTARTED = 10000000,	// ns with a P until a thread is expected to have started
	HASTE = 10,		// nice, below the program's
	SLICE_SHORT = 1000000,	// ns
	SLICE_SUSPECT = 200000, // ns
	TAKEOVER = 40000,	// ns from sysmon's wake-up to the start of the next slice
	BACKOFF_MIN = 50000,	// ns between a refusal and the next signal
	BACKOFF_MAX = 5000000,	// ns
	LOOK_MIN = 150000,	// ns of a slice before the holder is asked whether it spins
	LOOK_TOGETHER = 30000,	// ns that a look may come sooner, with another one
	// Signals before it grows: a thread that is at safe points half of the time refuses them all once in 256.
	INSIST = 8,
};

// 1: in deep sleep. Whoever changes it to 0 wakes it.
static uint32_t asleep;
static uint32_t stopping;
static int tid;
static int exit_status; // of sysmon; written before stopping is set

// 1: in a short sleep, or about to. Whoever changes it to 0 wakes it.
static uint32_t napping;

static struct {
	int64_t tick;
	int fruitless;
	int64_t next_resize, next_trace;
	int64_t opaque_until; // holders blocked unseen not long ago
	bool retook;
	bool undecided; // whether requests are taken
} mon;

// There is demand. Signal-safe. The common case is one load.
void sysmon_kick(void)
{
	if (unlikely(load_relaxed(&asleep)) &&
	    xchg(&asleep, 0)) // after ready()'s RMW; pairs with sleep
		os_futex_wake(&asleep, 1);
}

static void wake_from_nap(void)
{
	if (xchg(&napping, 0)) // pairs with the xchg in sysmon
		os_futex_wake(&napping, 1);
}

// A signal was answered with "not here": it is to be repeated soon. Signal-safe. That refusals tell spares sysmon a look
// after each signal, most of which are not refused: at slices of 1 ms a third of what preemption costs.
void sysmon_refused(void)
{
	if (load_relaxed(&napping))
		wake_from_nap();
}

void sysmon_notice(void)
{
	wake_from_nap(); // first: sleep_deep looks at it
	sysmon_kick();
}

// Until when the short sleep lasts; INT64_MIN while there is none. A hint.
static int64_t nap_ends = INT64_MIN;

// The waker signals by itself where it may: sysmon would take 15 us and more of a CPU on its way (measured on a virtual machine), and
// the woken G waits. What remains is sysmon's: requests for later, holders of locks, who refuses.
void sysmon_ask(struct p *pp, uint64_t word, int64_t at, const struct g *woken,
		const struct g *self)
{
	struct g *gp = load_relaxed(&pp->g);
	int64_t now = os_nanotime();

	if (!gp)
		return;
	store_relaxed(&pp->resched_at, at);
	store_relaxed(&pp->resched_for, woken);
	store_release(&pp->resched, word); // pairs with watch_running: resched_at is set
	if (at <= now && load_acquire(&pp->word) == word) { // pairs with wirep: gp is its holder
		store_relaxed(&gp->preempt, true);
		TRACE(write, TRACE_ASK, 1, pp, gp->goid, self ? self->goid : 0, 0, now);
		if (gp == self) // takes it at the end of the call that woke the other, or soon
			return;
		if (!config.asyncpreemptoff && load_relaxed(&gp->locks) <= 0 &&
		    preempt_m_if_fenced(gp, pp, word))
			return;
	}
	if (load_relaxed(&nap_ends) > at)
		wake_from_nap();
}

// While threads wait by spinning (spin.c).
static int64_t short_slice(void)
{
	return earlier(config.quantum, SLICE_SHORT);
}

void sysmon_spins(int64_t now)
{
	if (load_relaxed(&nap_ends) > now + SLICE_SUSPECT)
		wake_from_nap();
}

// Is the holder asleep in the kernel although its P says that it runs? Needs two looks with the same P
// word and no CPU time between them, then asks /proc. Without /proc nobody is called blocked.
//
// Who was not asleep then waits for a CPU, and has to have one before it can fall asleep: until its CPU time moves on /proc need not be
// asked again. (Where other processes want the CPUs too, at slices of 100 us, a seventh of all CPU time went into that.)
static bool blocked_unseen(struct g *gp, uint64_t word)
{
	int64_t cpu = os_thread_cputime(gp->tid);
	bool still = gp->seq_seen == word && gp->cpu_seen == cpu;
	char state;

	gp->seq_seen = word;
	gp->cpu_seen = cpu;
	if (cpu < 0) // gone without goexit, by a raw exit
		return os_tgkill(gp->tid, 0) == -ESRCH;
	if (!still || gp->cpu_awake == cpu)
		return false;
	state = os_thread_state(gp->tid);
	if (state == 'S' || state == 'D')
		return true;
	if (state) // else /proc could not be read
		gp->cpu_awake = cpu;
	return false;
}

// Ask by signal, if one is due; overdue since then. Returns when to look again. A refusal (no safe point there)
// is asked again, more and more seldom; PREEMPT_FORCE_AFTER from then on no refusal counts (gp->force). A signal that
// did not arrive for long (the thread blocks it by means that we do not see) is given up, so that another can be sent;
// should it come after all, it is swallowed.
int64_t signal_g(struct g *gp, const struct p *pp, uint64_t word, struct asking *asking,
		 int64_t since, int64_t now, int64_t answered)
{
	int64_t force_at = since + config.force_after, backoff = BACKOFF_MIN, look;
	bool force = config.force_after && now >= force_at, sent;

	// Also back to false: it may have been set just after the G was granted another slice.
	if (force != load_relaxed(&gp->force)) {
		store_relaxed(&gp->force, force);
		if (force)
			*asking = (struct asking){now, 0};
	}
	if (now < asking->next)
		return asking->next;
	if (load_acquire(&gp->signal_pending) && // pairs with preempt_m: signal_at is of this one
	    now - load_relaxed(&gp->signal_at) > SIGNAL_LOST)
		store_relaxed(&gp->signal_pending, 0);
	sent = preempt_m(gp, pp, word);
	if (sent) {
		if (asking->sent < INSIST + 7)
			asking->sent++;
	} else {
		backoff *= 4; // one is on its way, and the kernel has not let the thread run yet
	}
	if (asking->sent > INSIST)
		backoff = earlier(backoff << (asking->sent - INSIST), BACKOFF_MAX);
	asking->next = now + backoff;
	look = sent && answered > asking->next ? answered : asking->next; // sooner if it is refused
	if (config.force_after && !force) {
		asking->next = earlier(asking->next, force_at);
		look = earlier(look, force_at);
	}
	return look;
}

// queue: what the G does when it comes back unaware of it: at its next interposed call it queues, or it runs on credit.
// until: it has had the use of the P until then.
void take_and_hand_off(struct p *pp, uint64_t word, struct g *gp, bool queue, int64_t until,
		       uint64_t *count)
{
	critical_enter();
	store_relaxed(&gp->retaken_at, until);
	if (retakep(pp, word)) {
		store_relaxed(&gp->preempt, queue);
		store_relaxed(&pp->syscalltick, pp->syscalltick + 1);
		count_relaxed(count, 1);
		PROBE3(retake, gp->goid, pp->id, count == &stats.retakes_opaque);
		mon.retook = true;
		if (count == &stats.retakes_opaque)
			mon.opaque_until = os_nanotime() + 1000 * MS;
		handoffp(pp);
	}
	critical_leave();
}

// When a slice ends that began at start. The end is moved, by a quarter of the slice at most, towards a grid that is common to all
// Ps: so the slices of all come to end at the same moments, and one look ends them all (a wake-up of sysmon costs 15 us on a virtual
// machine). A slice that is ended on the grid is followed by one that begins TAKEOVER later, and so ends on the grid unmoved.
static int64_t slice_end(int64_t start, int64_t slice)
{
	int64_t end = start + slice, period = slice + TAKEOVER, late = end % period,
		most = slice / 4;

	if (late <= period / 2)
		return end - earlier(late, most);
	return end + earlier(period - late, most);
}

// Ask the holder of a P whether it only spins, waiting for another thread (preempt.c, answer_look). Who does not is asked
// after twice the time again, now and in the slices to come: a G that never spins is soon left alone. Returns
// when to look again.
static int64_t watch_spin(struct p *pp, uint64_t word, struct g *gp, int64_t now, int64_t end)
{
	int64_t wait = load_relaxed(&gp->spin_look);
	bool spun =
		wait ==
		0; // the last time it was asked, or it never was: soon the next one's slice may need a look

	if (spun)
		wait = LOOK_MIN;
	if (!pp->sysmon.look_at)
		pp->sysmon.look_at = load_relaxed(&pp->slice_start) + wait;
	if (now < pp->sysmon.look_at - LOOK_TOGETHER)
		return earlier(end, pp->sysmon.look_at);
	if (load_relaxed(&gp->locks) <= 0) {
		wait = earlier(2 * wait, config.quantum);
		store_relaxed(&gp->spin_look, wait);
		store_relaxed(&gp->look, true);
		if (preempt_m(gp, pp, word))
			gp->signal_at = now;
	}
	pp->sysmon.look_at = now + wait;
	return earlier(end, spun ? now + TAKEOVER + LOOK_MIN : pp->sysmon.look_at);
}

// The lock that gp is spared for, as far as is known: one of those it holds.
static const void *held_by(const struct g *gp)
{
	uintptr_t spun = (uintptr_t)load_relaxed(&gp->spun);

	if (spun && spun % 2 == 0) // else let go of (interpose/spin.c)
		return (const void *)spun;
	return load_relaxed(&gp->held);
}

// gp was granted a P for a slice of its own and has not run since: it waits for a CPU, which others hold, maybe of other processes. Asked now, it
// would yield before it did anything, and so would the next one.
static bool has_not_begun(const struct g *gp, int64_t slice_start)
{
	return load_relaxed(&gp->note) & NOTE_GRANTED &&
	       load_relaxed(&gp->run_since) == slice_start && // else one handed on to it
	       !load_relaxed(&gp->handlers);		      // one runs on top of its wait
}

// A P whose G runs: end its slice. Returns when to look again.
static int64_t watch_running(struct p *pp, uint64_t word, struct g *gp, int64_t now)
{
	int64_t start = load_relaxed(&pp->slice_start), slice = config.quantum, end;
	bool first;

	if (!load_relaxed(&gp->tid)) {
		// Its thread has not started yet. It may not do so for long: a handler of the program can be first. (Without
		// asynchronous preemption nobody takes a P from a thread that is about to compute.)
		if (now < start + (chaos_repeats() ? 100 : 1) * (int64_t)UNSTARTED ||
		    config.asyncpreemptoff)
			return now + mon.tick;
		take_and_hand_off(pp, word, gp, !gives_credit(), now, &stats.retakes_opaque);
		return now + mon.tick;
	}
	if (pp->sysmon.slice_start != start) {
		pp->sysmon.slice_start = start;
		pp->sysmon.asking = (struct asking){0, 0};
		pp->sysmon.requested = pp->sysmon.spared = false;
		pp->sysmon.look_at = 0;
		pp->sysmon.begun = start;
		pp->sysmon.unbegun = 0;
	}
	if (spin_seen_lately(now))
		slice = earlier(slice, load_relaxed(&gp->suspect) ? SLICE_SUSPECT : short_slice());
	end = slice_end(pp->sysmon.begun, slice);
	if (load_acquire(&pp->resched) == word && // pairs with sysmon_ask: resched_at is set
	    resched_waits(pp))
		end = earlier(end, load_relaxed(&pp->resched_at));
	if (chaos_repeats()) {
		if (chaos_judge(pp, gp, now, &end) == CHAOS_SPARED)
			return now + MS;
	}
	first = gp->seq_seen != word;
	// At the end of a slice shorter than a tick each look is the first, and would be for nothing. One that did not
	// stop by then is looked at: its thread may sleep in a handler that blocks our signal.
	if ((!first || now < end || pp->sysmon.requested) && blocked_unseen(gp, word)) {
		// Asleep where no interposer sees it, it will be so again, and each time a P would be lost for
		// CONFIRM: a team of libgomp's whose threads queued after every barrier made 1/30 of its rounds. So
		// it comes back as from any blocking call, and watch_strays charges it.
		take_and_hand_off(pp, word, gp, !gives_credit(), now, &stats.retakes_opaque);
		return now + mon.tick;
	}
	if (now >= end && has_not_begun(gp, start)) {
		pp->sysmon.begun = now;
		if (slice << pp->sysmon.unbegun < TICK_MAX)
			pp->sysmon.unbegun++;
		return now +
		       (slice < TICK_MAX ? earlier(slice << pp->sysmon.unbegun, TICK_MAX) : slice);
	}
	if (now < end) {
		int64_t next = end;

		if (first && now < mon.opaque_until) // a new holder: has it blocked at once?
			next = earlier(end, now + CONFIRM);
		if (config.spin && !config.asyncpreemptoff && start + LOOK_MIN < end)
			next = earlier(next, watch_spin(pp, word, gp, now, end));
		return next;
	}
	if (!pp->sysmon.requested) {
		pp->sysmon.requested = true;
		STAT(preempt_requested);
		TRACE(write, TRACE_ASK, 0, pp, gp->goid, 0, 0, now);
	}
	store_relaxed(&gp->preempt, true);
	if (load_relaxed(&gp->locks) > 0) {
		int64_t grace_end = end + config.lock_grace;

		if (now < grace_end) {
			if (!pp->sysmon.spared) {
				pp->sysmon.spared = true;
				STAT(preempt_spared);
				STAT(lock_deferred);
				lock_count(held_by(gp), LOCK_SPARED);
			}
			return grace_end;
		}
		store_relaxed(&gp->grace_over, true);
	}
	if (config.asyncpreemptoff)
		return now + MS;
	return signal_g(gp, pp, word, &pp->sysmon.asking, end, now, slice_end(now, slice));
}

// A P whose G is in a system call: retake it after one full tick. Go's exception: when nothing is queued
// here and other Ps idle, leave it for 10 ms.
static int64_t watch_syscall(struct p *pp, uint64_t word, struct g *gp, int64_t now)
{
	int64_t since = in_syscall_since(pp, word, now);

	if (now < since + RETAKE_AFTER) // most are over by then: not worth a wake-up of its own
		return now + earlier(mon.tick, TICK_CALL);
	if (chaos_repeats() && !chaos_takes(gp, since, now))
		return now + MS;
	if (runqempty(pp) && load_relaxed(&sched.npidle) > 0 && now < since + 10 * MS)
		return since + 10 * MS;
	take_and_hand_off(pp, word, gp, true, since, &stats.retakes_syscall);
	return now + mon.tick;
}

// Go's retake, over all Ps. Returns when to look again.
static int64_t retake(int64_t now)
{
	int64_t next = now + mon.tick;

	for (uint32_t i = 0; i < load_relaxed(&sched.nprocs_made); i++) {
		struct p *pp = &sched.allp[i];
		uint64_t word = load_acquire(&pp->word); // pairs with wirep: pp->g is its holder

		struct g *gp = load_relaxed(&pp->g);

		if (P_STATE(word) != P_RUNNING || !gp)
			continue;
		if (load_relaxed(&gp->status) == G_SYSCALL)
			next = earlier(next, watch_syscall(pp, word, gp, now));
		else
			next = earlier(next, watch_running(pp, word, gp, now));
	}
	return next;
}

// The number of Ps that the affinity mask and the cgroup allow now.
static void follow_quota(int64_t now)
{
	int cpus, quota;

	if (config.procs || now < mon.next_resize)
		return;
	mon.next_resize = now + 1000 * MS;
	cpus = os_affinity_cpus(sched.pid);
	quota = cgroup_cpus();
	if (cpus < 1)
		return;
	if (quota > 0 && quota < cpus)
		cpus = quota;
	if ((uint32_t)cpus != load_relaxed(&sched.nprocs))
		procresize(cpus);
}

static void trace_line(int64_t now)
{
	char buf[4096];
	struct text t = {buf, 0, sizeof buf};

	if (!config.schedtrace_ms || now < mon.next_trace)
		return;
	mon.next_trace = now + config.schedtrace_ms * MS;
	schedtrace_line(&t, now);
	text_write_fd(&t, 2);
}

static void sleep_until(int64_t when)
{
	struct deadline d = {CLOCK_MONOTONIC, {when / 1000000000, when % 1000000000}};

	store_relaxed(&nap_ends, when);
	os_futex_wait(&napping, 1, &d);
	store_relaxed(&nap_ends, INT64_MIN);
}

// No demand: sleep until kicked, until the next trace line, or until the helper and the like should be looked at.
static void sleep_deep(int64_t when)
{
	struct deadline d;

	if (config.schedtrace_ms)
		when = earlier(when, mon.next_trace);
	when = earlier(when, deadlock_sleeps(os_nanotime()));

	if (helper_running() || helper_calling())
		when = earlier(when, os_nanotime() + 100 * MS);
	d = (struct deadline){CLOCK_MONOTONIC, {when / 1000000000, when % 1000000000}};
	xchg(&asleep, 1); // before the look at demand; pairs with ready() and sysmon_kick
	// napping: nobody has given notice since it looked; pairs with sysmon_notice.
	if (!demand() && !load_relaxed(&stopping) && stw_state() == STW_GOES &&
	    load_relaxed(&napping)) {
		preempt_rests();
		os_futex_wait(&asleep, 1, when < INT64_MAX ? &d : NULL);
	}
	store_relaxed(&asleep, 0);
	mon.tick = TICK_MIN;
	mon.fruitless = 0;
}

// Requests of `preempt dump` and `preempt top` are taken, but under a filter that may forbid the answer; the command sees the mask.
static void listen(void)
{
	uint64_t bit = SIG_BIT(SIG_SETXID);

	mon.undecided = false;
	// Also where another signal preempts: the program's instances of that one could come here.
	if (!confined(CONFINE_FILES))
		os_sigmask(SIG_UNBLOCK, &bit, NULL);
}

void sysmon_turns_deaf(void)
{
	uint64_t bit = SIG_BIT(SIG_SETXID);

	os_sigmask(SIG_BLOCK, &bit, NULL);
}

static void sysmon(void *arg)
{
	// The kernel's struct sched_attr; a short slice lets a waking sysmon run at once.
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {.size = 48, .runtime = 100 * 1000};
	int lingered = 0;

	(void)arg;
	tls.is_sysmon = true;
	mon.undecided = true;
	confine_start();
	sys5(SYS_prctl, 29 /* PR_SET_TIMERSLACK */, 1, 0, 0, 0);
	sys5(SYS_prctl, 15 /* PR_SET_NAME */, "sysmon", 0, 0, 0);
	attr.nice = 20 - (int)sys2(SYS_getpriority, 0 /* PRIO_PROCESS */,
				   0);	      // the kernel returns 20 - nice
	sys3(SYS_sched_setattr, 0, &attr, 0); // refused or unknown: coarser, still right
	// Where the program has the right to: without, one signal in a hundred is some ms late.
	sys3(SYS_setpriority, 0, 0, attr.nice - HASTE);
	while (!load_acquire(&stopping)) { // pairs with sysmon_stop
		int64_t now, next;

		xchg(&napping, 1); // before any signal is sent; pairs with wake_from_nap
		if (unlikely(mon.undecided) && confine_known())
			listen();
		now = os_nanotime();

		CHECKED(invariants_look(now));
		follow_quota(now);
		trace_line(now);
		next = earlier(stw_poll(now), earlier(dump_poll(now), deadlock_poll(now)));
		next = earlier(next, snapshot_poll(now));
		if (load_relaxed(&sched.stopping)) {
			sleep_until(next);
			continue;
		}
		if (!demand()) {
			if (helper_running() || helper_calling())
				modules_poll(now);
			next = earlier(next, watch_strays_alone(now, mon.tick));
			if (++lingered > LINGER) {
				sleep_deep(next);
				lingered = strays_told() ? LINGER : 0;
			} else {
				sleep_until(earlier(next, now + earlier(config.quantum, MS)));
			}
			continue;
		}
		lingered = 0;
		strays_left();
		mon.retook = false;
		next = earlier(next, earlier(retake(now), watch_strays(now, mon.tick)));
		futexhash_poll(now);
		weigh_poll(now);
		if (!config.asyncpreemptoff) // else nobody asks where a thread is
			next = earlier(next, earlier(modules_poll(now), sites_poll(now)));
		if (mon.retook) {
			mon.tick = TICK_MIN;
			mon.fruitless = 0;
		} else if (++mon.fruitless > FRUITLESS) {
			mon.tick = earlier(mon.tick * 2, TICK_MAX);
		}
		now = os_nanotime();
		if (next > now)
			sleep_until(next);
	}
	stw_thread_exits(); // nobody would let go of a world that it has stopped
	sys1(SYS_exit, exit_status);
}

static void nothing(void *arg)
{
	(void)arg;
}

// End for good, and let everybody run. False: it is ending already.
static bool end_for_good(void)
{
	if (xchg(&stopping, 1)) // once; pairs with the loop in sysmon
		return false;
	sched_open();
	trace_thread_ends(exit_status);
	xchg(&asleep, 0); // as sysmon_kick
	os_futex_wake(&asleep, 1);
	wake_from_nap();
	// It may write a line that nobody reads (log.c): where it would be killed otherwise that is waited for.
	for (int i = 0; i < (load_relaxed(&sched.sealed) ? 100000 : 1000) && os_tgkill(tid, 0) == 0;
	     i++) {
		struct deadline d = os_deadline_in(100 * US);

		os_futex_wait(&stopping, 1, &d);
		wake_from_nap();
		os_futex_wake(&asleep, 1);
	}
	sites_abandoned(); // its children die with it
	preempt_ends();
	return true;
}

// Make room for a thread of the program where RLIMIT_NPROC allows no more. True: sysmon was there, and its slot is free
// now or soon.
bool sysmon_stop(void)
{
	static int probes; // each leaves its stack behind

	// EAGAIN may have been for something else, a huge stack.
	if (tid <= 0 || probes >= 16 || (probes++, os_spawn(nothing, NULL)) != -EAGAIN)
		return false;
	if (!end_for_good())
		return false;
	log_line(LOG_WARN, "no room for one more thread: running without the scheduler");
	return true;
}

// Is gp's thread, not the caller, where it is about to make a call of ours: before its start, or stopped by a signal?
static bool still_calls(struct g *gp)
{
	uint32_t status = load_relaxed(&gp->status);

	if (status == G_IDLE || status == G_DEAD || gp == tls.self)
		return false;
	return !load_relaxed(&gp->tid) || load_relaxed(&gp->signal_pending) ||
	       load_relaxed(&gp->masked) || load_relaxed(&gp->is_interrupted);
}

// A seccomp filter is about to be put up that may kill for what sysmon and threads with a G call. A thread that was preempted
// unblocks signals as it goes on, and one that is new asks for its stack. What another is just about to call in
// our code besides is not waited for.
void sysmon_sealed(void)
{
	struct deadline until;
	struct g *gp;

	if (tid <= 0)
		return;
	end_for_good();
	until = os_deadline_in(2000 * MS);
	for (gp = load_acquire(&sched.allgs); gp; gp = gp->alllink) // pairs with gfree_refill
		while (still_calls(gp) && !os_deadline_passed(&until)) {
			struct deadline d = os_deadline_in(100 * US);

			os_futex_wait(&stopping, 1, &d);
		}
}

// The last thread of the program ends by the system call exit, which ends no other thread: ours would keep the process.
// Since Linux 6.2 the status of the process is that of the thread that exits last: should that be ours, it has the same.
void sysmon_last(int status)
{
	if (tid <= 0)
		return;
	exit_status = status; // before the xchg of stopping
	end_for_good();
}

int sysmon_start(void)
{
	int r;

	mon.tick = TICK_MIN;
	mon.next_resize = os_nanotime() + 1000 * MS;
	mon.next_trace = os_nanotime() + config.schedtrace_ms * MS;
	stopping = 0;
	r = os_spawn(sysmon, NULL);
	tid = r;
	return r < 0 ? r : 0;
}

void sysmon_reset_in_child(void)
{
	exit_status = 0;
	asleep = 0;
	napping = 0;
	nap_ends = INT64_MIN;
	stopping = 0;
	tid = 0;
}
