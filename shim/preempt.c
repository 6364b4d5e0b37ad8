// preempt.c: the preemption signal, sent and handled.
//
// Means, the gentlest first: gp->preempt, taken at the next interposed call; then a signal. There are
// no safe-point tables yet, so every place where the handler may park at all is as good as
// any other: it parks right there, inside the handler ("forced park"). The kernel's signal frame holds the
// whole state, so this is right for any code; it costs the signal frame while parked.
//
// The delicate race: a signal that arrives just as its target enters a blocking call would make that
// call fail with EINTR. preempt_m publishes signal_pending, then looks at the status; entersyscall sets the
// status, then looks at signal_pending and waits until the signal has arrived. Both need a full barrier
// between their two steps. preempt_m has it for both: membarrier(2) makes every running thread of the process
// execute one. Where the kernel has no membarrier, entersyscall uses a locked instruction.

#include <linux/membarrier.h>
#include <sys/syscall.h>

#include "shim.h"

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

// sysmon: send one signal, if gp still holds pp under word (pp NULL: still runs without a P).
bool preempt_m(struct g *gp, const struct p *pp, uint64_t word)
{
	if (!cas(&gp->signal_pending, 0, 1)) // at most one on its way; pairs with entersyscall
		return false;
	if (sched.membarrier)
		sys3(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	if (load_seq_cst(&gp->status) != G_RUNNING ||  // after the barrier; pairs with entersyscall
	    (pp && load_seq_cst(&pp->word) != word) || // as above; pairs with pin's CAS
	    send(gp->tid) < 0) {
		store_relaxed(&gp->signal_pending, 0);
		return false;
	}
	STAT(signals_sent);
	return true;
}

void preempt_init(void)
{
	sched.membarrier =
		sys3(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

// Bounded: the thread may have the signal blocked by means we do not see; then it stays pending and does
// not interrupt the call either.
void preempt_drain(struct g *gp)
{
	for (int i = 0; i < 2000 && load_relaxed(&gp->signal_pending); i++)
		sys0(SYS_sched_yield);
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
	if (gp->locks > 0 && !gp->grace_over) {
		STAT(refused_locks);
		return false;
	}
	return true;
}

// The handler of config.signal. Runs on the alternate stack with all other signals as the program has
// them; keeps errno by not touching it. Stack: the futex wait below it, under 1 KiB.
void preempt_handler(int sig, siginfo_t *info, void *uc)
{
	struct g *gp = tls.self;

	if (!preempt_is_ours(info)) {
		signal_forward(sig, info, uc);
		return;
	}
	if (!gp ||
	    xchg(&gp->signal_pending, 0) != 1) // pairs with preempt_m; late: given up meanwhile
		return;
	gp->preempt_gen++;
	if (!can_preempt(tls.g))
		return;
	if (gp->grace_over)
		gp->locks = 0; // a second grace for the same hold would be one too many
	STAT(preempt_forced);
	gosched(gp, G_PREEMPTED);
}
