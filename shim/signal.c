// signal.c: the program's handlers, and the preemption signal beside them.
//
// Problem. A handler of the program may run at any instruction, also while its thread holds a lock of
// ours; it may then post a semaphore and need that lock. It may run on a thread that is parked or in a
// system call and so has no P. And no signal that the program may use must be missing.
//
// Approach. From activation on every handler of the program is entered through enter_handler:
//  - In a critical section (tls.critical > 0) the signal is deferred: its siginfo is kept, all signals
//    are masked in the interrupted context, and at the end of the section it is queued to this thread
//    again with its own siginfo and the mask restored. So at most one signal is held back per thread,
//    and the kernel keeps the order of the others. (FreeBSD's libthr defers in the same place.)
//    A forced park is one as well: a thread without a CPU would not run handlers either.
//  - On a thread without a P, tls.g is NULL while the handler runs: its calls pass straight through.
//  - One with SA_ONSTACK is entered with all signals blocked, and gets its mask and its stack (altstack.c) from us.
// What the program asked for is kept in dispositions[] and read back from there.
//
// The preemption signal is SIG_SETXID, the one by which libc makes all threads change their user. No program can
// block, handle or wait for it through libc, full sets do not have it, and being a real-time signal to the kernel it is queued: so
// all other signals are the program's, with their masks, pending sets, signalfd and sigwait, and need no care. libc
// installs its handler when the first thread is made; after that we put ours in its place, and ours calls
// it for what has no mark of ours (preempt.c).
// With PREEMPT_SIGNAL it is one that the program may use as well: an instance without the mark goes to the program's handler. It
// is not really blocked when the program blocks it, but when the first one comes (hold); gp->sig_blocked remembers what
// the program believes (sigmask.c).
//
// Rejected: masking signals around critical sections, two system calls on every slow path. SIGURG, as in Go, or a free
// real-time signal: the kernel merges two pending SIGURGs, a signal that we never really block is never pending for the
// program, and programs use any of them at any time. Moving on to another one then is a matter of all threads,
// with their masks and signals on their way.

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "shim.h"

enum { NSIG_KERNEL = 64, SA_RESTORER_ = 0x04000000 };

struct kernel_sigaction {
	void (*handler)(int, siginfo_t *, void *);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

// What the program asked for, from activation on; of SIG_SETXID, libc. Written under table_lock; read by handlers without.
static struct kernel_sigaction dispositions[NSIG_KERNEL + 1];
static struct lock table_lock;

// Byte for byte what unwinders and debuggers recognise as a signal frame's return address.
__asm__(".text\n.type restore_rt, @function\n\tnop\nrestore_rt:\n\tmov $0xf, %rax\n\tsyscall\n"
	".size restore_rt, .-restore_rt\n");
extern void restore_rt(void) __attribute__((visibility("hidden")));

static int kernel_set(int sig, const struct kernel_sigaction *new, struct kernel_sigaction *old)
{
	return (int)sys4(SYS_rt_sigaction, sig, new, old, sizeof(uint64_t));
}

static bool is_handler(const struct kernel_sigaction *ka)
{
	return (uintptr_t)ka->handler > 1; // neither SIG_DFL nor SIG_IGN
}

static bool is_ignored(const struct kernel_sigaction *ka)
{
	return (uintptr_t)ka->handler == 1;
}

// Not the program's to handle.
static bool reserved(int sig)
{
	return sig == SIGKILL || sig == SIGSTOP || sig == SIG_CANCEL || sig == SIG_SETXID;
}

static const struct kernel_sigaction ours = {
	.handler = preempt_handler,
	.flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK | SA_RESTORER_,
	.restorer = restore_rt,
	.mask = ALL_SIGNALS, // a handler on top of ours that leaves by longjmp would leave ours blocked
};

// --- delivery ---------------------------------------------------------------------------------------

static bool synchronous(int sig, const siginfo_t *info)
{
	switch (sig) {
	case SIGSEGV:
	case SIGBUS:
	case SIGFPE:
	case SIGILL:
	case SIGTRAP:
	case SIGSYS:
		return info->si_code > 0;
	default:
		return false;
	}
}

static void defer(const siginfo_t *info, ucontext_t *uc)
{
	uint64_t all = ALL_SIGNALS;

	tls.sig_info = *info;
	memcpy(&tls.sig_mask, &uc->uc_sigmask, sizeof tls.sig_mask);
	memcpy(&uc->uc_sigmask, &all, sizeof all);
	tls.sig_deferred = true;
}

// To this thread again, which has all signals blocked.
static void queue_deferred(void)
{
	siginfo_t info = tls.sig_info;

	tls.sig_deferred = false;
	if (sys4(SYS_rt_tgsigqueueinfo, os_getpid(), os_gettid(), info.si_signo, &info) < 0)
		os_tgkill(os_gettid(), info.si_signo); // queue full: at least the signal itself
}

static void enter_handler(int sig, siginfo_t *info, void *uc);

// Where to send it is forbidden the handler is called, with all signals blocked. What it finds in the context is the mask.
static void call_deferred(void)
{
	siginfo_t info = tls.sig_info;
	ucontext_t uc = {0};

	memcpy(&uc.uc_sigmask, &tls.sig_mask, sizeof tls.sig_mask);
	tls.sig_deferred = false;
	enter_handler(info.si_signo, &info, &uc);
	memcpy(&tls.sig_mask, &uc.uc_sigmask, sizeof tls.sig_mask);
	os_sigmask(SIG_SETMASK, &tls.sig_mask, NULL);
}

// From critical_leave: the section is over.
void signal_deliver_deferred(void);
void signal_deliver_deferred(void)
{
	uint64_t mask = tls.sig_mask;

	if (unlikely(load_relaxed(&sched.sealed))) {
		call_deferred();
		return;
	}
	queue_deferred();
	os_sigmask(SIG_SETMASK, &mask, NULL);
}

void signal_park_begin(const struct g *gp, const ucontext_t *uc)
{
	uint64_t mask;

	critical_enter();
	if (!altstack_is_ours(gp))
		return; // there may be no room for one more frame
	memcpy(&mask, &uc->uc_sigmask, sizeof mask);
	mask |= SIG_BIT(SIG_CANCEL); // not our own: libc may need it
	os_sigmask(SIG_SETMASK, &mask, NULL);
}

void signal_park_end(void)
{
	uint64_t all = ALL_SIGNALS;

	os_sigmask(SIG_SETMASK, &all, NULL);
	tls.critical--;
	if (tls.sig_deferred)
		queue_deferred(); // and delivered when the handler returns
}

// blocked: all signals are, as this one came with SA_ONSTACK or is ours.
static void call_handler(const struct kernel_sigaction *ka, bool blocked, int sig, siginfo_t *info,
			 ucontext_t *uc)
{
	struct g *self = tls.self, *saved = tls.g;
	const uint64_t our_bit = SIG_BIT(config.signal);
	uint64_t real, more = ka->mask | (ka->flags & SA_NODEFER ? 0 : SIG_BIT(sig));
	bool masked = self && self->masked;
	stack_t real_alt = uc->uc_stack, prog_alt = {0};
	// Without a P: asleep in park_wait, or in a system call.
	bool pless = saved && (saved->waiting || load_relaxed(&saved->status) != G_RUNNING);

	if (!saved && tls.deep && !tls.frames)
		pless = true; // passes through already, but may leave by longjmp
	if (pless) {
		uintptr_t here = (uintptr_t)uc, lo = (uintptr_t)real_alt.ss_sp;

		tls.frames_lo = here >= lo && here - lo < real_alt.ss_size ? lo : 0;
		tls.frames_hi = here;
		tls.g = NULL;
		tls.no_adopt++;
		tls.frames++;
		if (self)
			fetch_add(&self->handlers, 1); // before the look; pairs with look_at_g
	}
	if (self && (pless || tls.frames) && unlikely(load_relaxed(&sched.stopping)))
		stw_hold(); // also one on top of a handler that waits here
	memcpy(&real, &uc->uc_sigmask, sizeof real);
	if (self) {
		self->sigcount++;
		if (!(ka->flags & SA_RESTART))
			self->signorestart++;
		// The context tells what the program set, and may be changed by it, but for what we have blocked ourselves.
		signal_show_mask(self, uc);
		prog_alt = self->prog_altstack;
		altstack_show(self, &uc->uc_stack);
		if (more & our_bit)
			self->sig_blocked = true;
		more &= ~our_bit;
		// Programs size alternate stacks for their own handlers, and the kernel's frame for one more signal, with all
		// vector registers, may not fit: there ours stays blocked until the handler is left.
		if (ka->flags & SA_ONSTACK && altstack_cramped(self)) {
			more |= our_bit;
			self->masked = true; // so that a longjmp unblocks it
		}
	}
	if (blocked) {
		more |= real;
		os_sigmask(SIG_SETMASK, &more, NULL);
	}
	// A preemption signal on its way would interrupt a call of the handler. Sent later, it is not: handlers is counted.
	if (pless && self && !(blocked && more & our_bit))
		preempt_drain(self);
	compiler_barrier();
	if (ka->flags & SA_SIGINFO)
		ka->handler(sig, info, uc);
	else
		((void (*)(int))(uintptr_t)ka->handler)(sig);
	compiler_barrier();
	// The kernel restores mask and alternate stack likewise: a jump inside the handler may have unblocked what belongs to
	// an injected call below. In the child of a fork there is no G any more, and mask and stack are the program's.
	if (self)
		signal_hide_mask(tls.self, real, uc);
	if (self && tls.self == self) {
		self->masked = masked;
		self->prog_altstack = prog_alt;
		if (altstack_is_ours(self))
			uc->uc_stack = real_alt;
	}
	if (pless && tls.frames) { // else the handler used longjmp, and park_abandon has been here
		tls.g = saved;
		tls.no_adopt--;
		tls.frames--;
		if (self && load_relaxed(&self->handlers))
			fetch_sub(&self->handlers, 1); // as above
	}
}

static int install(int sig, const struct kernel_sigaction *ka);

static void enter_handler(int sig, siginfo_t *info, void *uc)
{
	struct kernel_sigaction ka = dispositions[sig];

	if (tls.critical && !synchronous(sig, info)) {
		defer(info, uc);
		return;
	}
	if (unlikely(sig == config.dump_signal) && !load_relaxed(&sched.sealed))
		dump_signalled();
	if (!is_handler(&ka))
		return; // changed between delivery and here
	if (tls.self)
		altstack_leave(tls.self, ka.flags & SA_ONSTACK, enter_handler, sig, info, uc);
	if (ka.flags & SA_RESETHAND) {
		dispositions[sig].handler = NULL; // SIG_DFL
		if (sig != config.signal)
			install(sig, &dispositions[sig]);
	}
	call_handler(&ka, ka.flags & SA_ONSTACK || sig == config.signal, sig, info, uc);
}

// The program believes it blocked: now it is, and pending, until the program unblocks it. The thread is preempted
// cooperatively meanwhile. A signal to the thread cannot be told from one to the process, but for pthread_kill's.
static void hold(int sig, siginfo_t *info, ucontext_t *uc)
{
	uint64_t mask;

	memcpy(&mask, &uc->uc_sigmask, sizeof mask);
	mask |= SIG_BIT(sig);
	memcpy(&uc->uc_sigmask, &mask, sizeof mask);
	if (info->si_code == SI_TKILL)
		sys4(SYS_rt_tgsigqueueinfo, os_getpid(), os_gettid(), sig, info);
	else
		sys3(SYS_rt_sigqueueinfo, os_getpid(), sig, info);
}

// A preemption signal that is not ours. Signal-safe; in the handler of config.signal, with all signals blocked.
void signal_forward(int sig, siginfo_t *info, void *uc)
{
	const struct kernel_sigaction *ka = &dispositions[sig];

	if (sig == SIG_SETXID) {
		if (is_handler(ka))
			ka->handler(sig, info, uc);
	} else if (tls.self && tls.self->sig_blocked) {
		hold(sig, info, uc);
	} else if (is_handler(ka)) {
		enter_handler(sig, info, uc);
	} else if (sig != SIGURG && !is_ignored(ka) && !tls.self) {
		hold(sig, info,
		     uc); // a thread that has not started yet, and perhaps inherits that it is blocked: others know
	} else if (sig != SIGURG && !is_ignored(ka)) {
		// A real-time signal that nobody handles ends the program.
		struct kernel_sigaction dfl = {0};
		uint64_t bit = SIG_BIT(sig);

		kernel_set(sig, &dfl, NULL);
		os_tgkill(os_gettid(), sig);
		os_sigmask(SIG_UNBLOCK, &bit, NULL);
	}
}

// --- dispositions -------------------------------------------------------------------------------------

static int install(int sig, const struct kernel_sigaction *ka)
{
	struct kernel_sigaction real = *ka;

	if (is_handler(ka) || sig == config.dump_signal) {
		real.handler = enter_handler;
		// RESETHAND is done by enter_handler: a deferred signal must find its handler again.
		real.flags = (ka->flags | SA_SIGINFO | SA_RESTORER_) & ~(unsigned long)SA_RESETHAND;
		if (!is_handler(ka))
			real.flags |= SA_RESTART;
		real.restorer = restore_rt;
		real.mask =
			ka->flags & SA_ONSTACK ? ALL_SIGNALS : ka->mask & ~SIG_BIT(config.signal);
	}
	return kernel_set(sig, &real, NULL);
}

// Could a handler of the program wake a thread, all of which wait? What a faulting instruction causes, comes from a thread that runs.
bool signal_may_wake(void)
{
	for (int sig = 1; sig <= NSIG_KERNEL; sig++)
		if (!reserved(sig) && is_handler(&dispositions[sig]) && sig != SIGSEGV &&
		    sig != SIGBUS && sig != SIGFPE && sig != SIGILL && sig != SIGTRAP &&
		    sig != SIGSYS && sig != SIGABRT)
			return true;
	return false;
}

// PREEMPT_DUMP_SIGNAL while there is no scheduler: one line.
static void dump_alone(int sig, siginfo_t *info, void *uc)
{
	(void)sig;
	(void)info;
	(void)uc;
	if (!load_relaxed(&sched.sealed))
		log_line(LOG_ERROR, "process %d has no threads that are scheduled", os_getpid());
}

static const struct kernel_sigaction early = {
	.handler = dump_alone,
	.flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK | SA_RESTORER_,
	.restorer = restore_rt,
};

void signal_dump_early(void)
{
	struct kernel_sigaction ka;

	if (config.dump_signal && kernel_set(config.dump_signal, NULL, &ka) == 0 && !ka.handler)
		kernel_set(config.dump_signal, &early, NULL);
}

void signal_hide_dump(struct sigaction *old)
{
	if (old->sa_sigaction == dump_alone)
		*old = (struct sigaction){0};
}

void signal_activate(void)
{
	for (int sig = 1; sig <= NSIG_KERNEL; sig++) {
		struct kernel_sigaction ka;

		if (reserved(sig) || kernel_set(sig, NULL, &ka) < 0)
			continue;
		if (ka.handler == dump_alone)
			ka = (struct kernel_sigaction){0};
		dispositions[sig] = ka;
		if (sig != config.signal && (is_handler(&ka) || sig == config.dump_signal))
			install(sig, &ka);
	}
	if (config.signal != SIG_SETXID)
		kernel_set(config.signal, &ours, NULL);
	signal_thread_made();
}

// By then libc has installed its handler for SIG_SETXID. With another preemption signal it is ours all the same: commands ask sysmon by it.
void signal_thread_made(void)
{
	struct kernel_sigaction ka;

	if (kernel_set(SIG_SETXID, NULL, &ka) < 0 || ka.handler == ours.handler)
		return;
	critical_enter();
	lock_acquire(&table_lock);
	dispositions[SIG_SETXID] = ka;
	kernel_set(SIG_SETXID, &ours, NULL);
	lock_release(&table_lock);
	critical_leave();
}

int signal_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct kernel_sigaction ka = {0}, was;
	int r = 0;

	if (sig < 1 || sig > NSIG_KERNEL || sig == SIG_CANCEL || sig == SIG_SETXID ||
	    (act && (sig == SIGKILL || sig == SIGSTOP)))
		return -EINVAL;
	if (sig == SIGKILL || sig == SIGSTOP) {
		if (old)
			*old = (struct sigaction){0};
		return 0;
	}
	if (act) {
		ka.handler = act->sa_sigaction;
		ka.flags = (unsigned int)act->sa_flags;
		memcpy(&ka.mask, &act->sa_mask, sizeof ka.mask);
	}
	critical_enter();
	lock_acquire(&table_lock);
	was = dispositions[sig];
	if (act) {
		dispositions[sig] = ka;
		if (sig != config.signal)
			r = install(sig, &ka);
		if (r < 0) // a sandbox forbids it
			dispositions[sig] = was;
	}
	lock_release(&table_lock);
	critical_leave();
	if (r < 0)
		return r;
	if (old) {
		memset(old, 0, sizeof *old);
		old->sa_sigaction = was.handler;
		old->sa_flags = (int)(was.flags & ~(unsigned long)SA_RESTORER_);
		memcpy(&old->sa_mask, &was.mask, sizeof was.mask);
	}
	return 0;
}

// --- threads, exec and fork ---------------------------------------------------------------------------

void signal_thread_start(struct g *gp)
{
	uint64_t mask = 0, bit = SIG_BIT(config.signal);

	altstack_thread_start(gp);
	os_sigmask(SIG_UNBLOCK, &bit, &mask);
	if (mask & bit)
		gp->sig_blocked = true;
}

// exec resets caught signals by itself; what it keeps is SIG_IGN and the mask.
void signal_prepare_exec(void)
{
	struct g *gp = tls.self;

	if (is_ignored(&dispositions[config.signal]))
		kernel_set(config.signal, &dispositions[config.signal], NULL);
	if (gp && gp->masked) // in a handler on top of a preemption
		signal_unmask_preempt();
	if (!tls.vforked) // a vfork child has the true mask already
		signal_child_mask(true);
}

void signal_exec_failed(void)
{
	struct g *gp = tls.self;
	uint64_t bit = SIG_BIT(SIG_CANCEL);

	if (!gp)
		return;
	if (is_ignored(&dispositions[config.signal]))
		kernel_set(config.signal, &ours, NULL);
	if (!tls.vforked)
		signal_child_mask(false);
	if (gp->masked)
		os_sigmask(SIG_BLOCK, &bit, NULL);
}

// The child is dormant again: the program's own dispositions, mask and alternate stack. Handlers stay
// entered through ours would be right too, but the kernel's view is then the plain one, and the next
// activation takes over whatever is installed by then.
void signal_reset_in_child(void)
{
	struct g *gp = tls.self;

	table_lock.word = 0;
	// Ours stay, where to change them is forbidden.
	for (int sig = 1; sig <= NSIG_KERNEL && !load_relaxed(&sched.sealed); sig++) {
		struct kernel_sigaction ka = dispositions[sig];

		if (sig == config.dump_signal && !ka.handler) {
			kernel_set(sig, &early, NULL);
			continue;
		}
		if (sig != config.signal && sig != config.dump_signal && sig != SIG_SETXID &&
		    (reserved(sig) || !is_handler(&ka)))
			continue;
		if (sig != SIG_SETXID && is_handler(&ka)) {
			ka.flags |= SA_RESTORER_;
			ka.restorer = restore_rt;
		}
		kernel_set(sig, &ka, NULL);
	}
	if (gp && gp->masked)
		preempt_unmask(gp);
	signal_child_mask(true);
	if (gp)
		altstack_thread_exit(gp);
	tls.frames = 0;
	tls.no_adopt = 0;
	tls.sig_deferred = false;
}
