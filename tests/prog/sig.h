/* sig.h: what cases about signals share. */
#pragma once

#include "prog.h"

static inline void set_action(int sig, void (*fn)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = {.sa_sigaction = fn, .sa_flags = flags | SA_SIGINFO};

	CHECK_EQ(sigaction(sig, &sa, NULL), 0);
}

static inline sigset_t set_of(int sig)
{
	sigset_t set;

	CHECK_EQ(sigemptyset(&set), 0);
	CHECK_EQ(sigaddset(&set, sig), 0);
	return set;
}

static inline bool pending(int sig)
{
	sigset_t set;

	CHECK_EQ(sigpending(&set), 0);
	return sigismember(&set, sig) == 1;
}

/* The mask is exactly this set. */
static inline void mask_is(const sigset_t *want)
{
	sigset_t set;

	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &set), 0);
	for (int i = 1; i <= 64; i++)
		if (sigismember(&set, i) != sigismember(want, i))
			fail(__FILE__, __LINE__, "signal %d is %d in the mask", i,
			     sigismember(&set, i));
	CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &set), 0);
	for (int i = 1; i <= 64; i++)
		CHECK_EQ(sigismember(&set, i), sigismember(want, i));
}

/* All that a program can block, as the kernel and libc leave it. */
static inline sigset_t full(void)
{
	sigset_t set;

	CHECK_EQ(sigfillset(&set), 0);
	CHECK_EQ(sigdelset(&set, SIGKILL), 0);
	CHECK_EQ(sigdelset(&set, SIGSTOP), 0);
	return set;
}
