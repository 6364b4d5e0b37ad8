// altstack.c: the program's alternate stacks, beside ours.
//
// Problem. The preemption handler must not run on the stack that it interrupts (preempt.c), so every thread has an
// alternate stack, ours if the program set none. But then the kernel puts a handler of the program with SA_ONSTACK on it,
// too, which would have run on the thread's own stack, with all the room there is.
//
// Approach. Such a handler is entered on ours with all signals blocked. The kernel's frame is copied to where the
// kernel would have put it, below the red zone of what was interrupted, and the handler is entered again there. From then on
// all is as if ours did not exist: the handler returns through the copy, unwinders and longjmp find the thread's own
// frames, and a stack without room for the frame ends the program by SIGSEGV. On a coroutine's stack the handler stays on ours. What sigaltstack and contexts tell is
// what the program set (gp->prog_altstack).
//
// An alternate stack of the program's is really installed, and the preemption handler uses it, unless it is too small for
// that: then ours stays, also for the program's handlers, which would have no room there either.
//
// Rejected: taking ours away around the program's own code. It would have to come back by a system call before each
// preemption, which comes at any time.

#include <errno.h>
#include <sys/syscall.h>

#include "frame.h"
#include "shim.h"

enum {
	// The kernel's frame, 3.3 KiB with AVX-512, and our handler's 1 KiB. Where frames are larger (AMX) the kernel refuses
	// smaller alternate stacks itself.
	LEAST = 5120,
	ROOMY = 65536,
	KERNEL_LEAST = 2048, // the kernel's own limit
};

static bool unset(const stack_t *ss)
{
	return ss->ss_flags & SS_DISABLE;
}

static bool too_small(const stack_t *ss)
{
	return !unset(ss) && ss->ss_size < LEAST;
}

static bool within(const stack_t *ss, uintptr_t sp)
{
	return sp - (uintptr_t)ss->ss_sp < ss->ss_size; // never where it is disabled: its size is 0
}

bool altstack_is_ours(const struct g *gp)
{
	return unset(&gp->prog_altstack) || too_small(&gp->prog_altstack);
}

bool altstack_cramped(const struct g *gp)
{
	return !unset(&gp->prog_altstack) && gp->prog_altstack.ss_size < ROOMY;
}

void altstack_show(const struct g *gp, stack_t *ss)
{
	unsigned on = (unsigned)ss->ss_flags & SS_ONSTACK;

	if (unset(&gp->prog_altstack)) {
		*ss = (stack_t){.ss_flags = SS_DISABLE};
	} else if (too_small(&gp->prog_altstack)) {
		*ss = gp->prog_altstack;
		ss->ss_flags |= (int)on;
	}
}

// Signal-safe, with all signals blocked if it is not the program's stack.
void altstack_leave(const struct g *gp, bool onstack, signal_handler_fn *again, int sig,
		    siginfo_t *info, ucontext_t *uc)
{
	uintptr_t sp = context_sp(uc);

	// Somewhere else than the kernel would have put it? Not if that stack was in use already.
	if (!within(&uc->uc_stack, (uintptr_t)uc) || within(&uc->uc_stack, sp))
		return;
	// On a stack of the program's own making there may be no room: Go asks the kernel for the alternate stack, finds ours,
	// and believes that handlers never run on a goroutine's few KiB.
	if (sp < tls.stack_lo || sp >= tls.stack_hi)
		return;
	if (!onstack || unset(&gp->prog_altstack))
		context_move_frame(again, sig, info, uc);
}

static void install_ours(const struct g *gp)
{
	stack_t ss = {.ss_sp = gp->altstack, .ss_size = g_altstack_size()};

	sys2(SYS_sigaltstack, &ss, NULL);
}

void altstack_thread_start(struct g *gp)
{
	stack_t ss = {.ss_flags = SS_DISABLE};

	if (load_relaxed(&sched.sealed)) // as it started
		return;
	sys2(SYS_sigaltstack, NULL, &ss);
	if (!unset(&ss))
		gp->prog_altstack = ss;
	if (altstack_is_ours(gp))
		install_ours(gp);
}

void altstack_thread_exit(struct g *gp)
{
	// Refused while the thread runs on it (pthread_exit in a handler): then the next G gets a new one.
	if (altstack_is_ours(gp) && !load_relaxed(&sched.sealed) &&
	    sys2(SYS_sigaltstack, &gp->prog_altstack, NULL) < 0)
		gp->altstack = NULL;
}

// What the kernel would say to it.
static int check(const stack_t *ss)
{
	unsigned mode = (unsigned)ss->ss_flags & ~(1u << 31); // SS_AUTODISARM

	if (mode != 0 && mode != SS_ONSTACK && mode != SS_DISABLE)
		return -EINVAL;
	return mode != SS_DISABLE && ss->ss_size < KERNEL_LEAST ? -ENOMEM : 0;
}

int signal_sigaltstack(const stack_t *ss, stack_t *old)
{
	struct g *gp = tls.self;
	stack_t cur;
	int r;

	if (!gp)
		return (int)sys2(SYS_sigaltstack, ss, old);
	r = (int)sys2(SYS_sigaltstack, NULL, &cur);
	if (r < 0)
		return r;
	altstack_show(gp, &cur);
	if (ss) {
		r = check(ss);
		if (cur.ss_flags & SS_ONSTACK)
			r = -EPERM;
		if (r < 0)
			return r;
		if (!unset(ss) && !too_small(ss)) {
			r = (int)sys2(SYS_sigaltstack, ss, NULL);
			if (r < 0)
				return r;
		} else if (!altstack_is_ours(gp)) {
			install_ours(gp);
		}
		gp->prog_altstack = *ss;
	}
	if (old)
		*old = cur;
	return 0;
}
