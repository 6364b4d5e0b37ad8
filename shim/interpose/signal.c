// signal.c: the program's signal calls, answered by shim/signal.c once there is a scheduler.

#include <signal.h>
#include <string.h>

#include "interpose.h"

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" // old programs call old functions

REAL_FN(sigaction);
REAL_FN(signal);
REAL_FN(sysv_signal);
REAL_FN(sigset);
REAL_FN(sigignore);
REAL_FN(siginterrupt);
REAL_FN(sigaltstack);
REAL_FN(sigprocmask);
REAL_FN(pthread_sigmask);
REAL_FN(sigblock);
REAL_FN(sigsetmask);

static sigset_t interrupting; // siginterrupt(sig, 1)

// A vfork child shares our tables with its parent, but has dispositions and a mask of its own: it talks
// to the kernel.
static bool active(void)
{
	return load_relaxed(&sched.active) == PHASE_ACTIVE && !tls.vforked;
}

// The cooperative safe point: signals find a thread that makes one such call after the other in the kernel and in this library, mostly, and
// nowhere where it may be stopped.
static void safe_point(void)
{
	struct g *gp = getg();

	if (gp)
		preempt_check(gp);
}

static int result(int r)
{
	safe_point();
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	int r;

	if (active())
		return result(signal_sigaction(sig, act, old));
	r = REAL(sigaction)(sig, act, old);
	if (r == 0 && old && config.dump_signal)
		signal_hide_dump(old);
	return r;
}
ALIAS(__sigaction, sigaction);

static sighandler_t set_handler(int sig, sighandler_t handler, int flags, bool mask_self)
{
	struct sigaction act = {.sa_handler = handler, .sa_flags = flags}, old;

	if (handler == SIG_ERR || sig < 1 || sig > 64) {
		errno = EINVAL;
		return SIG_ERR;
	}
	sigemptyset(&act.sa_mask);
	if (mask_self)
		sigaddset(&act.sa_mask, sig);
	return result(signal_sigaction(sig, &act, &old)) < 0 ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
	if (!active())
		return REAL(signal)(sig, handler);
	return set_handler(
		sig, handler,
		sig > 0 && sig <= 64 && sigismember(&interrupting, sig) > 0 ? 0 : SA_RESTART, true);
}
ALIAS(bsd_signal, signal);
ALIAS(ssignal, signal);

EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler)
{
	if (!active())
		return REAL(sysv_signal)(sig, handler);
	return set_handler(sig, handler, (int)SA_RESETHAND | SA_NODEFER, false);
}
ALIAS(__sysv_signal, sysv_signal);

EXPORT int siginterrupt(int sig, int interrupt)
{
	struct sigaction act;

	if (!active())
		return REAL(siginterrupt)(sig, interrupt);
	if (result(signal_sigaction(sig, NULL, &act)) < 0)
		return -1;
	if (interrupt) {
		sigaddset(&interrupting, sig);
		act.sa_flags &= ~SA_RESTART;
	} else {
		sigdelset(&interrupting, sig);
		act.sa_flags |= SA_RESTART;
	}
	return result(signal_sigaction(sig, &act, NULL));
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	return active() ? result(signal_sigmask(how, set, old)) : REAL(sigprocmask)(how, set, old);
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	int r;

	if (!active())
		return REAL(pthread_sigmask)(how, set, old);
	r = signal_sigmask(how, set, old);
	safe_point();
	return -r;
}
COMPAT_FROM(pthread_sigmask, "GLIBC_2.32", 2_2_5, "GLIBC_2.2.5");

static int old_mask(int how, int mask)
{
	sigset_t set, old;

	sigemptyset(&set);
	memcpy(&set, &mask, sizeof mask);
	if (sigprocmask(how, &set, &old) < 0)
		return -1;
	memcpy(&mask, &old, sizeof mask);
	return mask;
}

EXPORT int sigblock(int mask)
{
	return active() ? old_mask(SIG_BLOCK, mask) : REAL(sigblock)(mask);
}

EXPORT int sigsetmask(int mask)
{
	return active() ? old_mask(SIG_SETMASK, mask) : REAL(sigsetmask)(mask);
}

// XSI: set the handler and unblock, or block (SIG_HOLD) and leave it.
EXPORT sighandler_t sigset(int sig, sighandler_t handler)
{
	sigset_t set, was;
	struct sigaction old;
	sighandler_t prev;

	if (!active())
		return REAL(sigset)(sig, handler);
	sigemptyset(&set);
	if (handler == SIG_ERR || sigaddset(&set, sig) < 0) {
		errno = EINVAL;
		return SIG_ERR;
	}
	if (handler == SIG_HOLD) {
		if (sigprocmask(SIG_BLOCK, &set, &was) < 0 || sigaction(sig, NULL, &old) < 0)
			return SIG_ERR;
		return sigismember(&was, sig) ? SIG_HOLD : old.sa_handler;
	}
	prev = set_handler(sig, handler, 0, false);
	if (prev == SIG_ERR || sigprocmask(SIG_UNBLOCK, &set, &was) < 0)
		return SIG_ERR;
	return sigismember(&was, sig) ? SIG_HOLD : prev;
}

EXPORT int sigignore(int sig)
{
	if (!active())
		return REAL(sigignore)(sig);
	return set_handler(sig, SIG_IGN, 0, false) == SIG_ERR ? -1 : 0;
}

EXPORT int sigaltstack(const stack_t *restrict ss, stack_t *restrict old)
{
	return active() ? result(signal_sigaltstack(ss, old)) : REAL(sigaltstack)(ss, old);
}
