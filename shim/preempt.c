// preempt.c: the preemption signal, sent and handled.
//
// Means, the gentlest first: gp->preempt, taken at the next interposed call; then a signal. At a safe point
// (safepoint.c) its handler makes the thread call async_preempt, and returns: the thread then stops in ordinary context,
// on its own stack, with its own signal mask. Elsewhere the answer is "not here", and sysmon asks again. When it has
// asked in vain for PREEMPT_FORCE_AFTER, the handler stops the thread right there, inside itself ("forced park"). The
// kernel's signal frame holds the whole state, so that is right for any code; but it holds the alternate stack and
// the mask while parked, and may hold what others wait for.
//
// Cancellation (libc's signal, whose handler is not entered through ours) is blocked from the injection to the end of
// async_preempt2: of the asynchronous type, it would unwind out of a G that waits in a queue. Whoever leaves by longjmp
// in between, out of a handler on top, unblocks it (gp->masked, park_abandon). In the handler itself all signals are
// blocked: a handler on top of its first instruction could leave, with our signal blocked, before anybody knew.
//
// The delicate race: a signal that arrives just as its target enters a blocking call would make that
// call fail with EINTR. preempt_m publishes signal_pending, then looks at the status; entersyscall sets the
// status, then looks at signal_pending and waits until the signal has arrived. Both need a full barrier
// between their two steps. A handler of the program on top of a wait or a call makes calls of its own, and its thread may be granted a P
// meanwhile: call_handler counts it (gp->handlers) where entersyscall sets the status. While nobody is to be preempted, entersyscall spends none: sched.fenced is false. The first signal
// after a time without demand sets it, and membarrier(2) makes every running thread of the process execute a
// barrier once: who has not published its call by then sees sched.fenced, and makes its own from then on. (A membarrier
// for each signal costs 16 us on a virtual machine, more than all the rest.) Where the kernel has none, it is always set.

#include <linux/membarrier.h>
#include <sys/syscall.h>

#include "frame.h"
#include "snapshot.h"
#include "probes.h"

enum { DRAIN_MAX = 100000000 }; // ns that a signal on its way is waited for

// The mark: queued, with a pointer that only we have. (SI_TKILL and the own pid, as Go tells its signals,
// would also be the program's pthread_kill.) The kernel takes a negative si_code from user space.
static int send(int tid)
{
	siginfo_t info = {.si_signo = config.signal, .si_code = SI_QUEUE};

	info.si_pid = sched.pid;
	info.si_value.sival_ptr = &sched;
	return (int)sys4(SYS_rt_tgsigqueueinfo, sched.pid, tid, config.signal, &info);
}

bool preempt_is_ours(const siginfo_t *info)
{
	return info->si_code == SI_QUEUE && info->si_value.sival_ptr == &sched;
}

// Send one signal, if gp still holds pp under word (pp NULL: still runs without a P), and if every call that begins
// now makes its own barrier.
bool preempt_m_if_fenced(struct g *gp, const struct p *pp, uint64_t word)
{
	// It would have to wait, and every call that may block for it. Only mostly so, hence not beyond the bound: cancellation
	// alone may be blocked, and a handler that was left by swapcontext has told nobody.
	if (load_relaxed(&gp->masked) && !load_relaxed(&gp->force))
		return false;
	if (load_relaxed(&gp->signal_pending))
		return false;
	store_relaxed(&gp->signal_at, os_nanotime());
	if (!cas(&gp->signal_pending, 0, 1)) // at most one on its way; pairs with entersyscall
		return false;
	// Looked at after the barrier: who has not seen signal_pending, and made no barrier of its own as preempt_rests had
	// been there, did so before; then this load sees it too.
	if (!load_seq_cst(&sched.fence_holds) ||      // pairs with preempt_rests
	    load_seq_cst(&gp->status) != G_RUNNING || // after the barrier; pairs with entersyscall
	    load_seq_cst(&gp->handlers) || // as above; pairs with call_handler's fetch_add
	    (pp && load_seq_cst(&pp->word) != word) || // as above; pairs with pin's CAS
	    send(gp->tid) < 0) {
		store_relaxed(&gp->signal_pending, 0);
		return false;
	}
	STAT(signals_sent);
	TRACE(write, TRACE_SIGNAL, 0, pp, gp->goid, 0, 0, 0);
	return true;
}

// sysmon: the same, and put up the fence first. Only sysmon puts it up and takes it down.
bool preempt_m(struct g *gp, const struct p *pp, uint64_t word)
{
	if (!sched.fence_holds && !load_relaxed(&gp->signal_pending)) {
		store_relaxed(&sched.fenced, true);
		sys3(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
		(void)xchg(&sched.fence_holds,
			   true); // after the membarrier; pairs with preempt_m_if_fenced
	}
	return preempt_m_if_fenced(gp, pp, word);
}

void preempt_init(void)
{
	sched.membarrier =
		sys3(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
	sched.fenced = !sched.membarrier;
	sched.fence_holds = sched.fenced;
}

// sysmon: no signal will be sent for a while. One on its way does no harm: its signal_pending is long visible.
void preempt_rests(void)
{
	if (sched.membarrier) {
		(void)xchg(&sched.fence_holds,
			   false); // before fenced is; pairs with preempt_m_if_fenced
		store_relaxed(&sched.fenced, false);
	}
}

// There is no sysmon any more: nor is a waker to send signals.
void preempt_ends(void)
{
	store_relaxed(&sched.fence_holds, false);
}

// Bounded: the thread may have the signal blocked by means we do not see; then it stays pending and does
// not interrupt the call either. It still counts as on its way: signals are queued, and where it is blocked for long
// each that was given up would let one more into the queue.
void preempt_drain(struct g *gp)
{
	int64_t end = os_nanotime() + DRAIN_MAX;

	for (int i = 0; i < 2000 && load_relaxed(&gp->signal_pending); i++) {
		if (os_nanotime() >= end) // on a full machine each of them takes milliseconds
			break;
		sys0(SYS_sched_yield);
	}
}

// A second grace for the same hold would be one too many.
static void locks_forgotten(struct g *gp)
{
	if (gp->grace_over)
		gp->locks = 0;
}

// Go's wantAsyncPreempt and canPreemptM. True: this thread may be stopped where it is.
static bool can_preempt(struct g *gp)
{
	if (!gp || tls.critical || gp->waiting) {
		STAT(refused_shim);
		return false;
	}
	if (load_relaxed(&gp->status) != G_RUNNING) {
		STAT(refused_syscall);
		return false;
	}
	if (!load_relaxed(&gp->preempt))
		return false;
	if ((gp->locks > 0 && !gp->grace_over) || (gp->preemptoff && !load_relaxed(&gp->force))) {
		STAT(refused_locks);
		return false;
	}
	return true;
}

static void refused(enum refusal why)
{
	switch (why) {
	case REFUSE_NOT:
		return;
	case REFUSE_NO_TABLE:
		STAT(refused_no_table);
		return;
	case REFUSE_UNSAFE_PC:
		STAT(refused_unsafe_pc);
		return;
	case REFUSE_CRITICAL:
		STAT(refused_critical);
		return;
	case REFUSE_STACK:
		STAT(refused_stack);
		return;
	}
}

// Does the handler run on a stack of its own? Otherwise the kernel's frame begins where the call would be pushed. (The
// program may have taken the alternate stack away by a system call that we did not see.)
static bool on_own_stack(const ucontext_t *uc)
{
	return (uintptr_t)uc - (uintptr_t)uc->uc_stack.ss_sp < uc->uc_stack.ss_size;
}

// Make the thread call async_preempt when the handler returns, if it is at a safe point.
static enum refusal inject(struct g *gp, ucontext_t *uc, bool spins)
{
	struct frame frame = {context_pc(uc), context_sp(uc), context_bp(uc)};
	enum refusal why;

	if (!context_can_push_call(uc))
		return REFUSE_UNSAFE_PC;
	if (!on_own_stack(uc))
		return REFUSE_STACK;
	why = spins ? is_spin_safe_point(gp, &frame) : is_async_safe_point(gp, &frame);
	if (why != REFUSE_NOT)
		return why;
	// A cancellation of the asynchronous type must not unwind from inside the scheduler.
	if (signal_mask_cancel(&uc->uc_sigmask))
		gp->masked = true;
	context_push_call(uc);
	gp->interrupted = frame;
	return REFUSE_NOT;
}

// Let others run, from inside the handler.
static void stop_here(struct g *gp, ucontext_t *uc)
{
	signal_park_begin(gp, uc);
	gp->interrupted = (struct frame){context_pc(uc), context_sp(uc), context_bp(uc)};
	gp->is_interrupted = true;
	gosched(gp, G_PREEMPTED);
	gp->is_interrupted = false;
	signal_park_end();
}

enum { LOOKED = 150000 }; // ns: how long it has spun when a sample finds it so, at most

// Code without a table: is there a PAUSE in the 16 bytes before pc, or behind? In the same page, which may be executable only.
static bool pause_near(uintptr_t pc)
{
	enum { AROUND = 16 };
	uintptr_t page = pc & -(uintptr_t)4096, lo = pc - AROUND, hi = pc + AROUND, bias;
	uint8_t b[2 * AROUND];

	if (modules_find(pc, &bias) || confined_somehow())
		return false;
	lo = lo < page ? page : lo;
	hi = hi > page + 4096 ? page + 4096 : hi;
	if (memory_read(lo, b, hi - lo) < 0)
		return false;
	for (uintptr_t i = 0; i + 1 < hi - lo; i++)
		if (b[i] == 0xf3 && b[i + 1] == 0x90)
			return true;
	return false;
}

// Two samples in a row at one such place: it waits. Nothing can be injected there, so it stops right here.
static bool look_without_table(struct g *gp, ucontext_t *uc)
{
	enum { PLACE = 64 };
	uintptr_t pc = context_pc(uc), before = gp->spin_near;

	gp->spin_near = 0;
	if (!config.force_after || !config.spin || !pause_near(pc))
		return false;
	gp->spin_near = pc;
	store_relaxed(&gp->spin_look, 0);
	if (!before || pc - before + PLACE > 2 * PLACE)
		return false;
	STAT(spin_yields);
	PROBE3(spin_yield, gp->goid, gp->tid, SPIN_SAMPLED);
	TRACE(write, TRACE_SPIN, TRACE_SPIN_SAMPLED, gp->p, gp->goid, 0, pc, 0);
	stop_here(gp, uc);
	return true;
}

// The injected call is to yield as who spins does.
static void spins_at(struct g *gp, uintptr_t loop)
{
	gp->spin_asked = loop;
	store_relaxed(&gp->spin_look, 0);
	gp->look_from = os_nanotime() - LOOKED;
	if (gp->look_from < gp->run_since)
		gp->look_from = gp->run_since;
}

// The signal only asked whether the thread spins. If it does, and may be stopped here, it gives up the rest of its slice: to
// whoever has waited longest, which sooner or later is the thread it waits for. An answer "no" costs the signal, no more.
static void answer_look(struct g *gp, ucontext_t *uc)
{
	const struct p *pp = gp->p;
	uintptr_t loop;

	if (!tls.g || tls.critical || gp->waiting || gp->locks > 0 ||
	    load_relaxed(&gp->status) != G_RUNNING)
		return;
	loop = is_spin_wait(context_pc(uc));
	if (!loop) {
		look_without_table(gp, uc);
		return;
	}
	store_relaxed(&gp->spin_look, 0);
	if (pp && inject(gp, uc, true) == REFUSE_NOT)
		spins_at(gp, loop);
}

// The handler of config.signal. Runs on the alternate stack with all signals blocked but during a forced park; keeps
// errno by not touching it. Stack: the walk or the futex wait below it, under 1 KiB.
void preempt_handler(int sig, siginfo_t *info, void *context)
{
	struct g *gp = tls.self;
	enum refusal why;
	uintptr_t loop;
	bool look;

	if (unlikely(tls.is_sysmon)) { // `preempt dump`, `preempt top`
		uint64_t v = (uintptr_t)info->si_value.sival_ptr;

		if (info->si_code == SI_QUEUE && v >> 32 == DUMP_MARK)
			dump_wanted((uint32_t)v);
		else if (info->si_code == SI_QUEUE && v >> 32 == SNAPSHOT_MARK)
			snapshot_wanted();
		return;
	}
	if (!preempt_is_ours(info)) {
		signal_forward(sig, info, context);
		return;
	}
	if (!gp ||
	    xchg(&gp->signal_pending, 0) != 1) // pairs with preempt_m; late: given up meanwhile
		return;
	gp->preempt_gen++;
	look = load_relaxed(&gp->look);
	store_relaxed(&gp->look, false);
	if (look && !load_relaxed(&gp->preempt)) {
		answer_look(gp, context);
		return;
	}
	if (!can_preempt(tls.g)) {
		sysmon_refused();
		return;
	}
	loop = config.spin ? is_spin_wait(context_pc(context)) : 0;
	why = inject(gp, context, loop != 0);
	refused(why);
	if (why != REFUSE_NOT)
		TRACE(write, TRACE_REFUSE, why, NULL, gp->goid, 0, 0, 0);
	if (why == REFUSE_NOT && loop)
		spins_at(gp, loop); // the slice ends, but this one has made no use of it
	if (why == REFUSE_NOT || (why == REFUSE_NO_TABLE && look_without_table(gp, context)))
		return;
	if (!load_relaxed(&gp->force)) {
		sysmon_refused();
		return;
	}
	locks_forgotten(gp);
	STAT(preempt_forced);
	PROBE3(go_preempt, gp->goid, gp->tid, PREEMPT_BY_FORCE);
	stop_here(gp, context);
}

// Go's asyncPreempt2: the injected call, in ordinary context. Since the handler returned, handlers of the program may
// have run here, and the request may be out of date.
void async_preempt2(void)
{
	struct g *gp = tls.g;

	uintptr_t spins = gp ? gp->spin_asked : 0;

	if (gp)
		gp->spin_asked = 0;
	if (gp && !tls.critical && !gp->waiting && load_relaxed(&gp->status) == G_RUNNING &&
	    (gp->locks <= 0 || gp->grace_over)) {
		bool asked = load_relaxed(&gp->preempt);

		if (asked) {
			locks_forgotten(gp);
			STAT(preempt_async);
			PROBE3(go_preempt, gp->goid, gp->tid, PREEMPT_INJECTED);
		}
		gp->is_interrupted = true;
		if (spins)
			spin_sampled(gp, spins, gp->look_from);
		else if (asked)
			gosched(gp, G_RUNNABLE);
		gp->is_interrupted = false;
	}
	if (tls.self)
		preempt_unmask(tls.self);
	else // the child of a fork by a handler on top of this call: it is no G, and inherited what inject has blocked
		signal_unmask_cancel();
}

// The thread runs, with a P or without, and is in no critical section: a cancellation that waited acts here, as it
// would have in the program's own code.
void preempt_unmask(struct g *gp)
{
	if (!gp->masked)
		return;
	signal_unmask_preempt();
	compiler_barrier(); // a handler that leaves by longjmp before this line does it once more
	gp->masked = false;
}
