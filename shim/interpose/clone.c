// clone.c: clone(2) as programs call it themselves: sandboxes, containers, crash reporters.
//
// What matters is whether the child has our memory, and with it the thread's own state (tls):
//  - without CLONE_VM it is a fork, but no atfork handler tells us; so the child begins in a function of ours.
//  - with CLONE_VM and CLONE_VFORK the caller stands still meanwhile: as vfork.
//  - with CLONE_VM alone two processes run with one thread pointer. Neither may act as the G, for the other one may be
//    inside the scheduler at any instruction; nobody can tell when the child has ended. The caller leaves the
//    scheduler for good and both pass through.
//  - with CLONE_SETTLS the child has a state of its own: a foreign thread.
// Calls by syscall(2) come here from trampolines/x86_64/syscall.S and syscall.c. Inline ones do not; who makes them
// uses system calls only in the child, as libc's own functions are not for it either.

#include <linux/sched.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "objects.h"

REAL_FN(clone);

struct cloned {
	int (*fn)(void *);
	void *arg;
};

// The child of a clone without CLONE_VM, on its stack, with a copy of the caller's frame.
static int cloned_start(void *arg)
{
	struct cloned *c = arg;
	int r;

	shim_child_after_fork();
	r = c->fn(c->arg);
	shim_thread_exits(SYS_exit, r); // is what libc's function does with r
	return r;
}

static bool shares_tls(unsigned long flags)
{
	return flags & CLONE_VM && !(flags & CLONE_SETTLS);
}

// The calling thread passes through from now on.
static void leave_for_good(void)
{
	if (tls.self) {
		signal_child_mask(true); // the mask that the program set
		goexit();
		log_line(LOG_INFO,
			 "a thread shares its state with a clone: it runs without the scheduler");
	} else {
		tls.no_adopt++;
	}
}

// From syscall(2), nr being clone or clone3. True: a fork on the caller's own stack, so that frames of ours may
// be below it. A child with another stack and a copy of our memory is not told of; see above.
bool clone_is_fork(long nr, unsigned long a, unsigned long b);
bool clone_is_fork(long nr, unsigned long a, unsigned long b)
{
	unsigned long flags = a, stack = b;

	if (nr == SYS_clone3) {
		const struct clone_args *args = (const struct clone_args *)a;

		if (!args || b < CLONE_ARGS_SIZE_VER0)
			return false; // an error, which the kernel reports
		flags = args->flags;
		stack = args->stack;
	}
	if (shares_tls(flags))
		leave_for_good();
	return !(flags & CLONE_VM) && !stack;
}

EXPORT int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	unsigned long bits = (unsigned)flags;
	struct cloned c = {fn, arg};
	struct g *gp = getg();
	pid_t *parent_tid, *child_tid;
	void *new_tls;
	va_list ap;
	int r;

	// As many as there can be; libc's function leaves it to the flags, too, which of them count.
	va_start(ap, arg);
	parent_tid = va_arg(ap, pid_t *);
	new_tls = va_arg(ap, void *);
	child_tid = va_arg(ap, pid_t *);
	va_end(ap);
	if (!fn || !stack)
		return REAL(clone)(fn, stack, flags, arg, parent_tid, new_tls, child_tid);
	if (!(bits & CLONE_VM)) {
		if (gp)
			entersyscall(gp);
		r = REAL(clone)(cloned_start, stack, flags, &c, parent_tid, new_tls, child_tid);
		if (gp)
			exitsyscall(gp);
		return r;
	}
	if (shares_tls(bits) && !(bits & CLONE_VFORK))
		leave_for_good();
	if (!shares_tls(bits) || !(bits & CLONE_VFORK))
		return REAL(clone)(fn, stack, flags, arg, parent_tid, new_tls, child_tid);
	vfork_prepare();
	r = REAL(clone)(fn, stack, flags, arg, parent_tid, new_tls, child_tid);
	vfork_parent(0);
	return r;
}
ALIAS(__clone, clone);
