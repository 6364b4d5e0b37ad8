// signal.c: signals as the program sees them.
//
// Problem. A handler of the program may run at any instruction, also while its thread holds a lock of
// ours; it may then post a semaphore and need that lock. It may run on a thread that is parked or in a
// system call and so has no P. And the preemption signal must stay the program's as well.
//
// Approach. From activation on every handler of the program is entered through enter_handler:
//  - In a critical section (tls.critical > 0) the signal is deferred: its siginfo is kept, all signals
//    are masked in the interrupted context, and at the end of the section it is queued to this thread
//    again with its own siginfo and the mask restored. So at most one signal is held back per thread,
//    and the kernel keeps the order of the others. (FreeBSD's libthr defers in the same place.)
//  - On a thread without a P, tls.g is NULL while the handler runs: its calls pass straight through.
//  - The preemption signal carries a mark (preempt.c). One without it is handed to the program's handler.
//  - A program that shows interest in SIGURG itself (sets a handler, blocks it) gets it back whole, with pending
//    sets, signalfd and sigwait: we move to a free real-time signal. Sharing could not be exact: the kernel
//    merges two pending SIGURGs, and one that we never really block is never pending for the program.
//    Where the user chose PREEMPT_SIGNAL there is no move.
// What the program asked for is kept in dispositions[] and read back from there.
//
// Rejected: masking signals around critical sections, two system calls on every slow path.

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "shim.h"

enum { NSIG_KERNEL = 64, SIG_CANCEL = 32, SIG_SETXID = 33, SA_RESTORER_ = 0x04000000 };
enum {
	ALTSTACK_ROOMY = 65536,
	// The kernel's frame, 3.3 KiB with AVX-512, and our handler's 1 KiB. Where frames are larger (AMX) the kernel refuses
	// smaller alternate stacks itself.
	ALTSTACK_LEAST = 5120,
	ALTSTACK_KERNEL = 2048, // its own limit
};
#define BIT(sig) ((uint64_t)1 << ((sig)-1))

struct kernel_sigaction {
	void (*handler)(int, siginfo_t *, void *);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

// What the program asked for, from activation on. Written under table_lock; read by handlers without.
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

static int kernel_mask(int how, const uint64_t *set, uint64_t *old)
{
	return (int)sys4(SYS_rt_sigprocmask, how, set, old, sizeof *set);
}

static bool is_handler(const struct kernel_sigaction *ka)
{
	return (uintptr_t)ka->handler > 1; // neither SIG_DFL nor SIG_IGN
}

static const struct kernel_sigaction ours = {
	.handler = preempt_handler,
	.flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK | SA_RESTORER_,
	.restorer = restore_rt,
	.mask = ~(
		uint64_t)0, // a handler on top of ours that leaves by longjmp would leave ours blocked
};

bool signal_movable;

static void install(int sig, const struct kernel_sigaction *ka);

// Leave SIGURG to the program. table_lock must be held, or there is one thread.
static void move_from_sigurg(void)
{
	if (!signal_movable || config.signal != SIGURG)
		return;
	for (int sig = NSIG_KERNEL - 2; sig > SIG_SETXID + 16; sig--) {
		if (dispositions[sig].handler)
			continue;
		kernel_set(sig, &ours, NULL);
		config.signal = sig;
		install(SIGURG, &dispositions[SIGURG]);
		log_line(LOG_INFO, "the program uses SIGURG: preempting with signal %d", sig);
		return;
	}
}

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
	uint64_t all = ~(uint64_t)0;

	tls.sig_info = *info;
	memcpy(&tls.sig_mask, &uc->uc_sigmask, sizeof tls.sig_mask);
	memcpy(&uc->uc_sigmask, &all, sizeof all);
	tls.sig_deferred = true;
}

// From critical_leave: the section is over.
void signal_deliver_deferred(void);
void signal_deliver_deferred(void)
{
	siginfo_t info = tls.sig_info;
	uint64_t mask = tls.sig_mask;

	tls.sig_deferred = false;
	// Signals are all masked until the last line, so this cannot nest.
	if (sys4(SYS_rt_tgsigqueueinfo, os_getpid(), os_gettid(), info.si_signo, &info) < 0)
		os_tgkill(os_gettid(), info.si_signo); // queue full: at least the signal itself
	kernel_mask(SIG_SETMASK, &mask, NULL);
}

static void call_handler(const struct kernel_sigaction *ka, int sig, siginfo_t *info, void *uc)
{
	struct g *self = tls.self, *saved = tls.g;
	bool urg_blocked = self && self->urg_blocked;
	// Without a P: asleep in park_wait, or in a system call.
	bool pless = saved && (saved->waiting || load_relaxed(&saved->status) != G_RUNNING);

	if (!saved && tls.deep && !tls.frames)
		pless = true; // passes through already, but may leave by longjmp
	if (pless) {
		const stack_t *alt = &((const ucontext_t *)uc)->uc_stack;
		uintptr_t here = (uintptr_t)uc, lo = (uintptr_t)alt->ss_sp;

		tls.frames_lo = here >= lo && here - lo < alt->ss_size ? lo : 0;
		tls.frames_hi = here;
		tls.g = NULL;
		tls.no_adopt++;
		tls.frames++;
	}
	if (self) {
		self->sigcount++;
		if (!(ka->flags & SA_RESTART))
			self->signorestart++;
	}
	compiler_barrier();
	if (ka->flags & SA_SIGINFO)
		ka->handler(sig, info, uc);
	else
		((void (*)(int))(uintptr_t)ka->handler)(sig);
	compiler_barrier();
	if (pless && tls.frames) { // else the handler used longjmp, and park_abandon has been here
		tls.g = saved;
		tls.no_adopt--;
		tls.frames--;
	}
	if (self)
		self->urg_blocked = urg_blocked; // the kernel restores the mask likewise
}

// Inside the preemption handler, where all signals are blocked: let the program's handlers nest for a while, with the
// mask of what was interrupted, and more. Not our own signal, nor cancellation, which must not unwind from there.
// Returns what gp->masked was: what is interrupted may be async_preempt2, which still has to unblock.
bool signal_nest_begin(struct g *gp, const ucontext_t *uc, uint64_t more)
{
	bool masked = gp && gp->masked;
	uint64_t mask;

	memcpy(&mask, &uc->uc_sigmask, sizeof mask);
	mask |= BIT(config.signal) | BIT(SIG_CANCEL) | more;
	if (gp)
		gp->masked = true;
	compiler_barrier();
	kernel_mask(SIG_SETMASK, &mask, NULL);
	return masked;
}

void signal_nest_end(struct g *gp, bool masked)
{
	uint64_t all = ~(uint64_t)0;

	kernel_mask(SIG_SETMASK, &all, NULL);
	compiler_barrier();
	if (gp)
		gp->masked = masked;
}

// A handler with SA_ONSTACK is entered with the preemption signal blocked. Programs size alternate stacks for their own
// handlers, and the kernel's frame for one more signal, with all vector registers, may not fit: there it stays blocked
// until the handler returns. True: it does.
static bool cramped(const struct g *gp, const ucontext_t *uc)
{
	uint64_t mask, bit = BIT(config.signal);

	memcpy(&mask, &uc->uc_sigmask, sizeof mask);
	if (gp && !(gp->prog_altstack.ss_flags & SS_DISABLE) &&
	    gp->prog_altstack.ss_size < ALTSTACK_ROOMY)
		return true;
	if (!(mask & bit)) // else a handler below is cramped
		kernel_mask(SIG_UNBLOCK, &bit, NULL);
	return false;
}

static void enter_handler(int sig, siginfo_t *info, void *uc)
{
	struct g *self = tls.self;
	bool tight, masked = self && self->masked;
	struct kernel_sigaction ka;
	stack_t alt;

	if (tls.critical && !synchronous(sig, info)) {
		defer(info, uc);
		return;
	}
	if (preempt_is_ours(info)) { // sent before we moved to another signal
		preempt_late();
		return;
	}
	ka = dispositions[sig];
	if (!is_handler(&ka))
		return; // changed between delivery and here
	tight = ka.flags & SA_ONSTACK && cramped(self, uc);
	if (tight)
		self->masked = true; // so that a longjmp unblocks it
	if (self)
		alt = self->prog_altstack;
	if (ka.flags & SA_RESETHAND) {
		struct kernel_sigaction dfl = {0};

		dispositions[sig].handler = NULL; // SIG_DFL
		if (sig != config.signal)
			kernel_set(sig, &dfl, NULL);
	}
	call_handler(&ka, sig, info, uc);
	// The kernel restores mask and alternate stack likewise: a jump inside the handler may have unblocked what belongs to
	// an injected call below. In the child of a fork there is no G any more.
	if (self && tls.self == self) {
		self->masked = masked;
		self->prog_altstack = alt;
	}
}

// A preemption signal that is not ours. Signal-safe; in the handler of config.signal.
void signal_forward(int sig, siginfo_t *info, void *uc)
{
	struct g *self = tls.self;
	bool masked;

	if (is_handler(&dispositions[sig])) {
		if (self && self->urg_blocked)
			return; // the program blocked it; redelivery on unblocking is not built yet
		masked = signal_nest_begin(self, uc, dispositions[sig].mask);
		enter_handler(sig, info, uc);
		signal_nest_end(self, masked);
	} else if (sig != SIGURG && (uintptr_t)dispositions[sig].handler == 0) {
		// A real-time signal that nobody handles ends the program.
		struct kernel_sigaction dfl = {0};
		uint64_t bit = BIT(sig);

		kernel_set(sig, &dfl, NULL);
		os_tgkill(os_gettid(), sig);
		kernel_mask(SIG_UNBLOCK, &bit, NULL);
	}
}

// --- dispositions -------------------------------------------------------------------------------------

static void install(int sig, const struct kernel_sigaction *ka)
{
	struct kernel_sigaction real = *ka;

	if (is_handler(ka)) {
		real.handler = enter_handler;
		// RESETHAND is done by enter_handler: a deferred signal must find its handler again.
		real.flags = (ka->flags | SA_SIGINFO | SA_RESTORER_) & ~(unsigned long)SA_RESETHAND;
		real.restorer = restore_rt;
		if (ka->flags & SA_ONSTACK)
			real.mask |= BIT(config.signal); // see cramped()
		else
			real.mask &= ~BIT(config.signal);
	}
	kernel_set(sig, &real, NULL);
}

void signal_activate(void)
{
	uint64_t mask = 0;

	for (int sig = 1; sig <= NSIG_KERNEL; sig++) {
		struct kernel_sigaction ka;

		if (sig == SIGKILL || sig == SIGSTOP || sig == SIG_CANCEL || sig == SIG_SETXID)
			continue;
		if (kernel_set(sig, NULL, &ka) < 0)
			continue;
		dispositions[sig] = ka;
		if (sig != config.signal && is_handler(&ka))
			install(sig, &ka);
	}
	kernel_mask(SIG_BLOCK, NULL, &mask);
	if (is_handler(&dispositions[SIGURG]) || mask & BIT(SIGURG))
		move_from_sigurg();
	kernel_set(config.signal, &ours, NULL);
}

int signal_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct kernel_sigaction ka = {0}, was;

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
		if (sig == SIGURG && is_handler(&ka))
			move_from_sigurg();
		if (sig != config.signal)
			install(sig, &ka);
	}
	lock_release(&table_lock);
	critical_leave();
	if (old) {
		memset(old, 0, sizeof *old);
		old->sa_sigaction = was.handler;
		old->sa_flags = (int)(was.flags & ~(unsigned long)SA_RESTORER_);
		memcpy(&old->sa_mask, &was.mask, sizeof was.mask);
	}
	return 0;
}

// --- mask and alternate stack ---------------------------------------------------------------------------

// The preemption signal is never really blocked; whether the program thinks so is remembered.
int signal_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	struct g *gp = tls.self;
	uint64_t want = 0, was = 0, bit;
	int r;

	if (set) {
		memcpy(&want, set, sizeof want);
		want &= ~(BIT(SIG_CANCEL) | BIT(SIG_SETXID)); // as libc does
		if (how != SIG_UNBLOCK && want & BIT(SIGURG) && config.signal == SIGURG) {
			critical_enter();
			lock_acquire(&table_lock);
			move_from_sigurg();
			lock_release(&table_lock);
			critical_leave();
		}
	}
	bit = BIT(config.signal);
	if (!gp) {
		r = kernel_mask(how, set ? &want : NULL, &was);
	} else {
		bool named = want & bit;
		bool blocked = gp->urg_blocked;

		want &= ~bit;
		if (set && how == SIG_SETMASK && gp->masked) {
			// In a handler on top of a preemption, or on a small stack: what we have blocked stays so.
			kernel_mask(SIG_BLOCK, NULL, &was);
			want |= was & (bit | BIT(SIG_CANCEL));
		}
		r = kernel_mask(how, set ? &want : NULL, &was);
		if (r == 0 && set) {
			if (how == SIG_SETMASK)
				gp->urg_blocked = named;
			else if (named)
				gp->urg_blocked = how == SIG_BLOCK;
		}
		was = blocked ? was | bit : was & ~bit;
		was &= ~BIT(SIG_CANCEL); // ours; the program has no means to block it
	}
	if (r == 0 && old) {
		memset(old, 0, sizeof *old);
		memcpy(old, &was, sizeof was);
	}
	return r;
}

static void altstack_ours(const struct g *gp)
{
	stack_t ss = {.ss_sp = gp->altstack, .ss_size = g_altstack_size()};

	sys2(SYS_sigaltstack, &ss, NULL);
}

// One that is set, but has no room for the preemption handler. Ours stays installed instead, also for the program's
// handlers, which would have no room either; the program is told of its own.
static bool too_small(const stack_t *ss)
{
	return !(ss->ss_flags & SS_DISABLE) && ss->ss_size < ALTSTACK_LEAST;
}

// A thread becomes a G: it keeps an alternate stack it has, else gets ours.
void signal_thread_start(struct g *gp)
{
	stack_t ss = {.ss_flags = SS_DISABLE};
	uint64_t mask = 0, bit = BIT(config.signal);

	sys2(SYS_sigaltstack, NULL, &ss);
	if (!(ss.ss_flags & SS_DISABLE))
		gp->prog_altstack = ss;
	if (ss.ss_flags & SS_DISABLE || too_small(&ss))
		altstack_ours(gp);
	kernel_mask(SIG_UNBLOCK, &bit, &mask);
	if (mask & bit)
		gp->urg_blocked = true;
}

void signal_thread_exit(struct g *gp)
{
	const stack_t *ss = &gp->prog_altstack;

	// Refused while the thread runs on it (pthread_exit in a handler): then the next G gets a new one.
	if ((ss->ss_flags & SS_DISABLE || too_small(ss)) && sys2(SYS_sigaltstack, ss, NULL) < 0)
		gp->altstack = NULL;
}

// Signal-safe.
bool signal_mask_cancel(sigset_t *mask)
{
	uint64_t bits;
	bool was;

	memcpy(&bits, mask, sizeof bits);
	was = bits & BIT(SIG_CANCEL);
	bits |= BIT(SIG_CANCEL);
	memcpy(mask, &bits, sizeof bits);
	return !was;
}

void signal_unmask_preempt(void)
{
	uint64_t bits = BIT(config.signal) | BIT(SIG_CANCEL);

	kernel_mask(SIG_UNBLOCK, &bits, NULL);
}

void signal_unmask_cancel(void)
{
	uint64_t bit = BIT(SIG_CANCEL);

	kernel_mask(SIG_UNBLOCK, &bit, NULL);
}

void signal_vfork(bool begins)
{
	uint64_t bit = BIT(config.signal);

	if (tls.self && tls.self->urg_blocked)
		kernel_mask(begins ? SIG_BLOCK : SIG_UNBLOCK, &bit, NULL);
}

// What the kernel would say to it.
static int altstack_check(const stack_t *ss)
{
	unsigned mode = (unsigned)ss->ss_flags & ~(1u << 31); // SS_AUTODISARM

	if (mode != 0 && mode != SS_ONSTACK && mode != SS_DISABLE)
		return -EINVAL;
	return mode != SS_DISABLE && ss->ss_size < ALTSTACK_KERNEL ? -ENOMEM : 0;
}

// On ours means: in a handler with SA_ONSTACK that has no stack of the program's, or one that is too small.
int signal_sigaltstack(const stack_t *ss, stack_t *old)
{
	struct g *gp = tls.self;
	stack_t cur, was;
	int r;

	if (!gp)
		return (int)sys2(SYS_sigaltstack, ss, old);
	r = (int)sys2(SYS_sigaltstack, NULL, &cur);
	if (r < 0)
		return r;
	was = gp->prog_altstack;
	if (was.ss_flags &
	    SS_DISABLE) // then the program sees what it would see on the thread's own stack
		was = (stack_t){.ss_flags = SS_DISABLE};
	else if (too_small(&was))
		was.ss_flags |= cur.ss_flags & SS_ONSTACK;
	else
		was = cur;
	if (ss && !(ss->ss_flags & SS_DISABLE && was.ss_flags & SS_DISABLE)) {
		r = altstack_check(ss);
		if (cur.ss_flags & SS_ONSTACK)
			r = -EPERM;
		if (r < 0)
			return r;
		if (!(ss->ss_flags & SS_DISABLE) && !too_small(ss)) {
			r = (int)sys2(SYS_sigaltstack, ss, NULL);
			if (r < 0)
				return r;
		} else {
			altstack_ours(gp);
		}
		gp->prog_altstack = *ss;
	}
	if (old)
		*old = was;
	return 0;
}

// --- exec and fork ----------------------------------------------------------------------------------------

// exec resets caught signals by itself; what it keeps is SIG_IGN and the mask.
void signal_prepare_exec(void)
{
	struct g *gp = tls.self;
	uint64_t bit = BIT(config.signal);

	if ((uintptr_t)dispositions[config.signal].handler == 1)
		kernel_set(config.signal, &dispositions[config.signal], NULL);
	if (gp && gp->masked) // in a handler on top of a preemption
		signal_unmask_preempt();
	if (gp && gp->urg_blocked && !tls.vforked) // a vfork child has the true mask already
		kernel_mask(SIG_BLOCK, &bit, NULL);
}

void signal_exec_failed(void)
{
	struct g *gp = tls.self;
	uint64_t bit = BIT(config.signal);

	if (!gp)
		return;
	if ((uintptr_t)dispositions[config.signal].handler == 1)
		kernel_set(config.signal, &ours, NULL);
	if (gp->urg_blocked && !tls.vforked)
		kernel_mask(SIG_UNBLOCK, &bit, NULL);
	bit = BIT(SIG_CANCEL);
	if (gp->masked)
		kernel_mask(SIG_BLOCK, &bit, NULL);
}

// The child is dormant again: the program's own dispositions, mask and alternate stack. Handlers stay
// entered through ours would be right too, but the kernel's view is then the plain one, and the next
// activation takes over whatever is installed by then.
void signal_reset_in_child(void)
{
	struct g *gp = tls.self;
	uint64_t bit = BIT(config.signal);

	table_lock.word = 0;
	for (int sig = 1; sig <= NSIG_KERNEL; sig++) {
		struct kernel_sigaction ka = dispositions[sig];

		if (sig == SIGKILL || sig == SIGSTOP || sig == SIG_CANCEL || sig == SIG_SETXID)
			continue;
		if (!is_handler(&ka) && sig != config.signal)
			continue;
		if (is_handler(&ka)) {
			ka.flags |= SA_RESTORER_;
			ka.restorer = restore_rt;
		}
		kernel_set(sig, &ka, NULL);
	}
	if (gp && gp->masked)
		preempt_unmask(gp);
	// A real-time signal was ours only while there were threads to preempt; the next activation
	// starts from SIGURG again.
	if (gp && gp->urg_blocked)
		kernel_mask(SIG_BLOCK, &bit, NULL);
	if (gp)
		signal_thread_exit(gp);
	if (signal_movable)
		config.signal = SIGURG;
	tls.frames = 0;
	tls.no_adopt = 0;
	tls.sig_deferred = false;
}
