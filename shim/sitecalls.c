// sitecalls.c: what is done at rewritten instructions (sites.c has them rewritten, site.S calls).
//
// A thread at a PAUSE waits for another thread. When Gs wait for a P, one of them may be that thread: so after some PAUSEs it
// yields (spin.c says after how many, and to whom).
//
// A thread that gets in line for a lock is not in it yet: it is where to stop those whose slice is over, and who makes lines long
// (convoy.c).
//
// A system call that may block is a call as interposed ones are: the P is kept or handed on (HACKING.md, section 7).
//
// Who is not on a stack known to be this thread's own gets neither: coroutines, for what lies below their stack pointer may be
// somebody's, and threads made by raw clone that share the thread-local data of their maker. Nor does the child of a fork that was
// an instruction, too. (The child of such a vfork does: it waits as the thread whose memory it has, and which waits for it.)

#include <linux/futex.h>
#include <sys/syscall.h>

#include "shim.h"
#include "site.h"

enum {
	ROOM = 2048,	   // bytes of stack, as in safepoint.c
	ADAPTIVE = 500000, // ns; InnoDB's locks spin for up to 0.24 ms
};

_Static_assert(offsetof(struct sched, demand) == SITE_DEMAND_OFFSET, "site.S reads it");
_Static_assert(sizeof(struct site_call) == SITE_CALL_SIZE, "site.S fills it");
_Static_assert(offsetof(struct site_call, rbp) == SITE_CALL_RBP &&
		       offsetof(struct site_call, flags) == SITE_CALL_FLAGS &&
		       offsetof(struct site_call, r9) == SITE_CALL_R9 &&
		       offsetof(struct site_call, r10) == SITE_CALL_R10,
	       "site.S fills it");

// Is gp the calling thread, in a state in which it may stop?
static bool may_stop(const struct g *gp)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	return gp && !tls.critical && !gp->waiting && load_relaxed(&gp->status) == G_RUNNING &&
	       here < tls.stack_hi && here - tls.stack_lo >= ROOM && tls.stack_lo && sites_here();
}

// Has it no P? Then it has nothing to hand on, and sysmon sees to it that it does not spin for long. Would it queue
// all the same, then with the locks it holds, so that more threads spin, and queue: of 32 threads of MariaDB, hardly one
// of which waited for a P otherwise, 6000 did each second.
static bool on_credit(const struct g *gp)
{
	const struct p *pp = gp->p;

	return !pp || load_relaxed(&pp->word) != (gp->pseq | P_RUNNING);
}

// Where many run on credit, who has a P is one among them, and may hold what others spin for: a latch of the program's own making, which no counter
// sees. So it goes on for as long as adaptive locks spin before they sleep. But not for longer: it may be a barrier. (120 times a second one of MariaDB's 32
// connections queued: 0.81 of plain instead of 0.94.)
static bool spins_briefly(void)
{
	return tls.paused_at - tls.paused_since < ADAPTIVE && credit_is_common(tls.paused_at);
}

// Instead of a PAUSE while there is demand. from: where the stub goes on. Stack: as gosched.
void site_waits(uintptr_t from)
{
	struct g *gp = getg();
	const struct site_slot *slot =
		(const struct site_slot *)((from & -(uintptr_t)SITE_STUB) + SITE_DISTANCE);
	uintptr_t pc = slot->back - 2;
	bool long_enough;

	if (!gp || !demand() || (on_credit(gp) && !load_relaxed(&gp->preempt)))
		return;
	long_enough = spin_paused(gp, pc);
	// Its slice is over. No signal would stop it: most of the time it is in our text, where none does.
	if (unlikely(load_relaxed(&gp->preempt)) && may_stop(gp) && preempt_due(gp)) {
		spin_yield(gp, pc, tls.paused_since, NULL);
		return;
	}
	if (!long_enough || (gp->locks > 0 && tls.pauses < SPIN_HOLDER) || spins_briefly())
		return;
	tls.pauses = 0;
	if (!may_stop(gp) || on_credit(gp))
		return;
	STAT(spin_site_yields);
	spin_yield(gp, pc, tls.paused_since, NULL);
}

// Before an instruction by which a thread gets in line, while there is demand. from, stack: as site_waits.
void site_enqueues(uintptr_t from)
{
	struct g *gp = getg();
	uint32_t line = (uint32_t)((from - (uintptr_t)site_pause_stubs) / SITE_STUB -
				   SITE_ENQUEUE * SITE_STUBS);

	if (!gp || !demand() || on_credit(gp))
		return;
	if (unlikely(load_relaxed(&gp->preempt)) && may_stop(gp) && preempt_due(gp)) {
		gosched(gp, G_RUNNABLE);
		gp->line_lost = 0; // it comes at the end of it
	}
	if (convoy_joins(gp, line) && may_stop(gp) && gp->locks <= 0)
		convoy_waits(gp);
}

// Does this futex operation wait? An operation that waits, but finds another value in the word than
// it expects, returns at once: runtimes count on that being cheap.
bool futex_waits(const uint32_t *word, int op, uint32_t expected)
{
	switch (op & FUTEX_CMD_MASK) {
	case FUTEX_WAIT:
	case FUTEX_WAIT_BITSET:
	case FUTEX_WAIT_REQUEUE_PI:
		// No word, or a misaligned one, is an error that the kernel reports.
		if (!word || (uintptr_t)word % sizeof(*word))
			return false;
		return load_relaxed(word) == expected;
	case FUTEX_LOCK_PI:
	case FUTEX_LOCK_PI2:
		return true;
	default:
		return false;
	}
}

// Calls that may block, and end with nothing but a result. Not those that change the signal mask meanwhile: what is
// blocked then is for interposers to say. All others are made by the stub, with nothing of ours on the stack.
#define BIT(nr) ((uint64_t)1 << ((nr) % 64))
const uint64_t site_gated[SITE_NUMBERS / 64] = {
	[0] = BIT(SYS_read) | BIT(SYS_write) | BIT(SYS_open) | BIT(SYS_poll) | BIT(SYS_pread64) |
	      BIT(SYS_pwrite64) | BIT(SYS_readv) | BIT(SYS_writev) | BIT(SYS_select) |
	      BIT(SYS_sched_yield) | BIT(SYS_nanosleep) | BIT(SYS_connect) | BIT(SYS_accept) |
	      BIT(SYS_sendto) | BIT(SYS_recvfrom) | BIT(SYS_sendmsg) | BIT(SYS_recvmsg) |
	      BIT(SYS_wait4) | BIT(SYS_sendfile),
	[1] = BIT(SYS_semop) | BIT(SYS_msgsnd) | BIT(SYS_msgrcv) | BIT(SYS_flock) | BIT(SYS_fsync) |
	      BIT(SYS_fdatasync),
	[3] = BIT(SYS_futex) | BIT(SYS_semtimedop) | BIT(SYS_clock_nanosleep) |
	      BIT(SYS_epoll_wait) | BIT(SYS_waitid),
	[4] = BIT(SYS_openat) | BIT(SYS_accept4) | BIT(SYS_preadv) | BIT(SYS_pwritev) |
	      BIT(SYS_recvmmsg) | BIT(SYS_sendmmsg),
};
_Static_assert(SYS_sendfile / 64 == 0 && SYS_wait4 / 64 == 0 && SYS_semop / 64 == 1 &&
		       SYS_fdatasync / 64 == 1 && SYS_futex / 64 == 3 && SYS_waitid / 64 == 3 &&
		       SYS_openat / 64 == 4 && SYS_sendmmsg / 64 == 4,
	       "the rows above");

static long raw(const struct site_call *c)
{
	return sys6((long)c->rax, (long)c->rdi, (long)c->rsi, (long)c->rdx, (long)c->r10,
		    (long)c->r8, (long)c->r9);
}

// Instead of a `syscall` with a number of those above. Keeps errno.
long site_call(const struct site_call *c)
{
	struct g *gp = getg();
	bool will = false;
	long r;

	if (!may_stop(gp))
		return raw(c);
	switch (c->rax) {
	case SYS_sched_yield:
		if (!demand()) {
			preempt_check(gp);
			return raw(c);
		}
		gosched(gp, G_RUNNABLE);
		return 0;
	case SYS_futex:
		if (!futex_waits((const uint32_t *)c->rdi, (int)c->rsi, (uint32_t)c->rdx))
			return raw(c);
		will = true;
		break;
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
		will = true;
		break;
	default:
		break;
	}
	if (will && demand())
		entersyscallblock(gp);
	else
		entersyscall(gp);
	r = raw(c);
	exitsyscall(gp);
	return r;
}
