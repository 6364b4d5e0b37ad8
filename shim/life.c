// life.c: how Gs begin and end: threads, the child of a fork, and waits that are left without an end.
//
// Problem. A thread becomes a G when it starts and is none any more when it ends, both at moments at which the program's code may run on it: handlers before
// the first instruction of ours, destructors after the last. And a handler on top of a wait, or of a call, may leave it by longjmp or end the thread:
// then nobody comes back to where the wait would have been ended.
//
// Approach. tls.no_adopt keeps a thread out while it is between the two. A wait that is left is ended as if it had been a spurious wake-up (settle): who has taken the G out
// of the parking lot decides, as everywhere. After a fork all state is built anew.

#include <errno.h>
#include <sys/syscall.h>

#include "shim.h"

struct sched sched;

__thread struct tls tls __attribute__((tls_model("initial-exec"), visibility("hidden")));

// --- begin ----------------------------------------------------------------------------------------

int sched_init(int nprocs)
{
	sched.allp = os_mmap(sizeof(struct p) * MAX_PROCS);
	if (!sched.allp)
		return -ENOMEM;
	sched.policy = config.policy;
	sched.pid = os_getpid();
	sched.start_time = os_nanotime();
	sched.nprocs = 0;
	procresize(nprocs);
	return 0;
}

static void become(struct g *gp)
{
	// sysmon sends signals to whoever has a tid. One that found no G would be taken for a stranger's, and waited for by every call.
	tls.self = gp;
	compiler_barrier();
	store_relaxed(&gp->tid, os_gettid());
	gp->stack_bottom = tls.stack_lo;
	gp->stack_top = tls.stack_hi;
	g_has_tid(gp);
	TRACE(write, TRACE_GO_THREAD, 0, NULL, gp->goid, (uint32_t)gp->tid, 0, 0);
	tls.self = gp; // again: of an adopted thread a handler may have made another G in between
	tls.g = gp;
	stats_thread_starts(fetch_add(&sched.ngs, 1) + 1); // a count only
}

void sched_start(struct g *gp)
{
	TRACE(write, TRACE_GO_CREATE, 1, NULL, gp->goid, 0, 0, 0);
	become(gp);
	run_again(gp, false, READY_NEW);
}

void gostart(struct g *gp)
{
	// It may be a G already: a handler that ran before us may have waited for something.
	tls.no_adopt++;
	compiler_barrier();
	if (unlikely(tls.self)) {
		goexit();
		tls.no_adopt--;
	}
	critical_enter(); // to handlers it becomes one in one step: stw.c holds those of a G
	become(gp);
	tls.no_adopt--;
	critical_leave();
	signal_thread_start(gp);
	park_wait(gp, NULL, 0);
	preempt_check(gp); // the world may have begun to stop since
}

// --- waits that are left ----------------------------------------------------------------------------

// The wait that a handler interrupted is given up: get a P, by ourselves or from who has readied us.
static void settle(struct g *gp)
{
	lot_unclaim(gp, true);
	if (load_relaxed(&gp->park) == PARK_PARKED && lot_leave_parked(gp))
		gounpark(gp);
	else if (load_relaxed(&gp->park) == PARK_NONE && load_relaxed(&gp->status) == G_WAITING)
		run_again(gp, false,
			  READY_WOKEN); // interrupted between lot_leave_parked and run_again
	else
		park_wait(gp, NULL, 0);
}

// A jump from one place to another on the program's alternate stack: still in the handler, and that may be too
// small for one more signal.
static bool stays_on_altstack(const struct g *gp, uintptr_t sp)
{
	uintptr_t lo = (uintptr_t)gp->prog_altstack.ss_sp, size = gp->prog_altstack.ss_size;

	return !(gp->prog_altstack.ss_flags & SS_DISABLE) && sp - lo < size &&
	       (uintptr_t)__builtin_frame_address(0) - lo < size;
}

// What passes through are a handler of the program on top of a wait or a system call, and a deep call, which such
// a handler may have interrupted. A jump to a place inside leaves neither; where the handler has another stack, only
// that stack is inside. A jump out ends the wait as a spurious wake-up, and the thread gets a P again.
bool park_abandon(uintptr_t sp)
{
	struct g *gp = tls.self;

	if (gp && tls.g && !tls.critical && !stays_on_altstack(gp, sp))
		preempt_unmask(gp); // the handler interrupted a preemption before or after its wait
	if (!gp || tls.g || (!tls.frames && !tls.deep))
		return false;
	if (tls.frames) {
		if (sp >= tls.frames_lo && sp < tls.frames_hi)
			return false;
		tls.no_adopt -= tls.frames;
		tls.frames = 0;
		store_relaxed(&gp->handlers, 0);
	}
	if (tls.deep) {
		if (sp < tls.deep)
			return false; // to the code that the call runs
		tls.no_adopt--;
		tls.deep = 0;
	}
	tls.g = gp;
	gp->joins = 0;
	if (!gp->waiting) {
		exitsyscall(gp);
		return true;
	}
	settle(gp);
	gp->waiting = false;
	preempt_unmask(gp); // what the handler interrupted may have been a preemption
	return true;
}

// This thread is unwinding from a wait that it will not go back to: pthread_exit or a cancellation in a
// handler on top of it, or asynchronous cancellation.
void park_settle(void)
{
	struct g *gp = tls.self;

	if (!park_abandon(LEAVES) && gp && gp->waiting)
		settle(gp);
}

// --- asynchronous cancellation --------------------------------------------------------------------------

// With the asynchronous type, libc's handler unwinds from wherever the thread is: from inside the scheduler, with a P pinned, that would end
// everything. So such a thread passes through until it has the ordinary type again, or ends. Where it wakes others even so, in a
// critical section, the signal is blocked (critical_enter).
void outside_enter(void)
{
	static bool told;
	struct g *gp = getg();

	tls.async_cancel = true;
	if (!gp)
		return;
	entersyscallblock(gp);
	critical_enter(); // no handler of the program comes in between
	gp->at.pc = 0;	  // this frame is gone soon
	gp->locks = 0;	  // nobody counts meanwhile
	gp->held = NULL;
	store_relaxed(&gp->spun, NULL);
	gp->preemptoff = 0;
	tls.no_adopt++; // and nobody makes another G of it
	tls.g = NULL;
	tls.outside = true;
	critical_leave();
	if (!xchg(&told, true)) // once: a program may do so often
		log_line(LOG_INFO,
			 "a thread may be cancelled anywhere: it runs without the scheduler");
}

// libc has the ordinary type again.
void outside_leave(void)
{
	tls.async_cancel = false;
	if (!tls.outside)
		return;
	critical_enter();
	tls.g = tls.self;
	tls.outside = false;
	tls.no_adopt--;
	critical_leave();
	exitsyscall(tls.g);
}

// --- end ------------------------------------------------------------------------------------------

// The calling thread leaves for good; what remains of it runs ungated and is never adopted.
void goexit(void)
{
	struct g *gp = tls.self;

	stw_thread_exits();
	park_settle();
	outside_leave();
	tls.no_adopt++;
	if (!gp)
		return;
	lot_unclaim(gp, true); // of a wait it left by longjmp
	entersyscallblock(gp); // hands the P on and waits for a signal on its way
	tls.g = NULL;
	tls.self = NULL;
	altstack_thread_exit(gp);
	stats_thread_exit(gp);
	TRACE(end_of, gp);
	set_status(gp, G_DEAD);
	INVARIANT(load_relaxed(&sched.ngs) > 0, gp, NULL);
	fetch_sub(&sched.ngs, 1); // a count only
	g_free(gp);
}

// After fork: the only thread left is the caller. All state is built anew rather than locked before
// the fork: the program's own atfork handlers run in between and may need our locks.
void sched_reset_in_child(void)
{
	struct g *gp;

	tls.g = NULL;
	tls.self = NULL;
	tls.critical = 0;
	sched.lock.word = 0;
	sched.pidle = NULL;
	sched.npidle = 0;
	sched.runq = (struct gqueue){0};
	if (sched.policy && sched.policy->reset)
		sched.policy->reset();
	sched.demand = 0;
	sched.ngs = 0;
	sched.nprocs = 0;
	sched.nprocs_made = 0;
	sched.gfree = NULL;
	for (gp = sched.allgs; gp; gp = gp->alllink) {
		// As its thread finds it if the fork was in a handler that now returns.
		gp->p = NULL;
		gp->preempt = false;
		gp->waiting = false;
		gp->handlers = 0;
		gp->is_interrupted = false;
		gp->joins = 0;
		gp->note = NOTE_NONE;
		gp->park = PARK_NONE;
		gp->waitaddr = NULL;
		gp->claim = NULL;
		gp->status = G_IDLE;
		gp->schedlink = sched.gfree;
		sched.gfree = gp;
	}
	CHECKED(invariants_reset_in_child());
	tls.vforked = 0;
	tls.deep = 0;
	tls.outside = false;
	if (sched.allp)
		os_munmap(sched.allp, sizeof(struct p) * MAX_PROCS);
	sched.allp = NULL;
	sched.open = false;
	sched.stopping = false;
	sched.watch_idle = 0;
	sched.start_time = 0;
	store_relaxed(&sched.active, PHASE_DORMANT);
}

// --- the end of the process -------------------------------------------------------------------------

// At the end of the process, at exec, and before it is sealed, after which nothing of this may be called: the trace is written, files are removed that are good only while the process
// lives, helpers are reaped. Not in the child of a vfork.
void process_leaves(void)
{
	if (load_relaxed(&sched.sealed))
		return;
	trace_settle();
	snapshot_leave();
	helper_leave();
}
