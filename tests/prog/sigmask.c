/*
 * sigmask.c - masks: read back exactly, in the kernel what they are, handed on by exec, and none of libc's own business lost.
 */
#include "prog.h"
#include "sig.h"

#include <poll.h>
#include <setjmp.h>
#include <sys/syscall.h>
#include <ucontext.h>

static atomic_int hits;
static atomic_intptr_t hit_value;

static void ignore(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
}

/*
 * What a thread has blocked is what it reads back, one signal at a time and all at once: by both calls, in a
 * handler's context, after siglongjmp out of it, in a new thread.
 */
static sigset_t expected;
static sigjmp_buf mask_jump;
static atomic_int jumps;

static void check_context(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	sigset_t set = expected;

	(void)info;
	for (int i = 1; i <= 64; i++)
		if (i != 32 && i != 33 && sigismember(&uc->uc_sigmask, i) != sigismember(&set, i))
			fail(__FILE__, __LINE__, "signal %d is %d in the context", i,
			     sigismember(&uc->uc_sigmask, i));
	CHECK_EQ(sigaddset(&set, sig), 0);
	mask_is(&set);
	atomic_fetch_add(&hits, 1);
	if (atomic_load(&jumps))
		siglongjmp(mask_jump, 1);
}

static void *mask_reader(void *arg)
{
	mask_is(&expected);
	return arg;
}

CASE_STRESS(masks_exact)
{
	sigset_t none;

	sigemptyset(&none);
	hogs_start(2);
	for (int sig = 1; sig <= 65; sig++) {
		expected = sig <= 64 ? none : full();
		if (sig == SIGKILL || sig == SIGSTOP || sig == 32 || sig == 33)
			continue;
		if (sig <= 64)
			CHECK_EQ(sigaddset(&expected, sig), 0);
		CHECK_EQ(sigdelset(&expected, SIGUSR1), 0);
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, &expected, NULL), 0);
		mask_is(&expected);
		/* After SIGUSR1, as one of all has to be there; a handler for it comes with the first. */
		set_action(SIGUSR1, check_context, SA_ONSTACK);
		for (volatile int jump = 0; jump < 2; jump++) {
			atomic_store(&jumps, jump);
			atomic_store(&hits, 0);
			if (!sigsetjmp(mask_jump, 1)) {
				CHECK_EQ(raise(SIGUSR1), 0);
				CHECK_EQ(jump, 0);
			}
			CHECK_EQ(atomic_load(&hits), 1);
			mask_is(&expected);
		}
		if (sig % 8 == 7 || sig >= 62)
			join(spawn(mask_reader, NULL));
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, &none, NULL), 0);
		mask_is(&none);
	}
	hogs_stop();
}

/*
 * The kernel's mask of a thread is the program's, exactly and at any time, while other threads begin and cease to use every
 * signal there is. (Once the preemption signal moved away from what others used; a call that set the mask, and a
 * handler with SA_ONSTACK, could meet the move half-way.)
 */
static atomic_int users_end, users;

static uint64_t kernel_mask(void)
{
	uint64_t mask = 0;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof(mask));
	return mask;
}

static void *signal_user(void *arg)
{
	sigset_t none;

	sigemptyset(&none);
	while (!atomic_load(&users_end)) {
		int sig = 1 + atomic_fetch_add(&users, 1) % 64;
		struct sigaction sa = {.sa_sigaction = ignore, .sa_flags = SA_SIGINFO};
		sigset_t set;

		if (sig == SIGKILL || sig == SIGSTOP || sig == 32 || sig == 33 || sig == SIGUSR1)
			continue;
		set = set_of(sig);
		CHECK_EQ(sigaction(sig, &sa, NULL), 0);
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
		CHECK_EQ(kernel_mask(), 1ull << (sig - 1));
		CHECK_EQ(pthread_kill(pthread_self(), sig), 0);
		CHECK(pending(sig));
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, &none, NULL), 0);
		sa.sa_handler = SIG_DFL;
		CHECK_EQ(sigaction(sig, &sa, NULL), 0);
	}
	return arg;
}

static atomic_int looked;

static void onstack_mask(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	uint64_t mask;

	(void)info;
	memcpy(&mask, &uc->uc_sigmask, sizeof(mask));
	CHECK_EQ(kernel_mask() & ~(1ull << 32), mask | 1ull << (sig - 1));
	atomic_fetch_add(&looked, 1);
}

CASE_STRESS(mask_in_the_kernel)
{
	stack_t ss = {.ss_size = 1 << 15}, off = {.ss_flags = SS_DISABLE};
	sigset_t set = full(), none;
	pthread_t t;
	uint64_t all;

	sigemptyset(&none);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	all = kernel_mask();
	ss.ss_sp = malloc(ss.ss_size);
	set_action(SIGUSR1, onstack_mask, SA_ONSTACK);
	hogs_start(2);
	t = spawn(signal_user, NULL);
	for (int i = 0; i < 300; i++) {
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
		CHECK_EQ(kernel_mask(), all);
		spin(1000);
		CHECK_EQ(kernel_mask(), all);
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, &none, NULL), 0);
		CHECK_EQ(kernel_mask(), 0);
		spin(1000);
		/* Without an alternate stack, and with one that is too small for two signals. */
		CHECK_EQ(sigaltstack(i & 1 ? &ss : &off, NULL), 0);
		CHECK_EQ(raise(SIGUSR1), 0);
		CHECK_EQ(atomic_load(&looked), i + 1);
		CHECK_EQ(kernel_mask(), 0);
	}
	atomic_store(&users_end, 1);
	join(t);
	hogs_stop();
	CHECK_EQ(sigaltstack(&off, NULL), 0);
	free(ss.ss_sp);
}

/* Changing the user goes through a signal of libc's to every thread, busy or waiting: all have changed when it returns. */
static atomic_int uid_round, uid_seen;
static uid_t uid_want;

static void *uid_reader(void *arg)
{
	for (int round = 1; round <= 20; round++) {
		while (atomic_load_explicit(&uid_round, memory_order_relaxed) < round)
			if (arg)
				poll(NULL, 0, 1); /* which may be interrupted */
		CHECK_EQ(syscall(SYS_geteuid), uid_want);
		atomic_fetch_add(&uid_seen, 1);
		while (atomic_load_explicit(&uid_seen, memory_order_relaxed) < 4 * round)
			if (arg)
				poll(NULL, 0, 1); /* which may be interrupted */
	}
	return arg;
}

CASE_STRESS(setuid_in_all_threads)
{
	pthread_t t[4];

	if (geteuid())
		skip("not root");
	hogs_start(2);
	for (intptr_t i = 0; i < 4; i++)
		t[i] = spawn(uid_reader, (void *)(i & 1));
	for (int round = 1; round <= 20; round++) {
		uid_want = round & 1 ? 12345 : 0;
		CHECK_EQ(seteuid(uid_want), 0);
		atomic_store(&uid_round, round);
		AWAIT(&uid_seen, 4 * round);
	}
	for (int i = 0; i < 4; i++)
		join(t[i]);
	hogs_stop();
}

/* A handler changes the mask of what it interrupted, through its context. */
static void change_context(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	uc->uc_sigmask = expected;
	atomic_store(&hit_value, (intptr_t)info->si_value.sival_ptr);
}

CASE_STRESS(mask_set_in_context)
{
	sigset_t none;

	sigemptyset(&none);
	hogs_start(2);
	set_action(SIGUSR1, change_context, 0);
	for (int sig = 1; sig <= 64; sig++) {
		if (sig == SIGKILL || sig == SIGSTOP || sig == 32 || sig == 33)
			continue;
		expected = set_of(sig);
		CHECK_EQ(raise(SIGUSR1), 0);
		mask_is(&expected);
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, &none, NULL), 0);
	}
	hogs_stop();
}

/* exec hands on the mask and what is pending, as it was set, for every signal. */
static void exec_masked(void *arg)
{
	char text[32];
	int sig = (int)(intptr_t)arg;
	sigset_t set = sig ? set_of(sig) : full();

	hogs_start(2);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	sleep_ns(2 * MS);
	if (sig)
		CHECK_EQ(pthread_sigqueue(pthread_self(), sig, (union sigval){.sival_int = 3}), 0);
	snprintf(text, sizeof(text), "%d", sig);
	prog_argv[2] = NULL;
	exec_self("exec_masked_image", text);
}

HELPER(exec_masked_image)
{
	int sig = atoi(prog_argv[2]);
	sigset_t want = sig ? set_of(sig) : full();

	mask_is(&want);
	for (int i = 1; i <= 64; i++)
		if (pending(i) != (i == sig))
			fail(__FILE__, __LINE__, "signal %d handed on, %d is %spending", sig, i,
			     i == sig ? "not " : "");
	_exit(0);
}

CASE_STRESS(exec_mask_exact)
{
	const int sigs[] = {0, SIGUSR1, SIGURG, SIGRTMIN, SIGRTMAX - 2};

	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		CHECK_EQ(in_child(exec_masked, (void *)(intptr_t)sigs[i]), 0);
}
