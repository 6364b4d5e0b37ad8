// test_signal.c: masks and counts that the preemption handler, handlers of the program on top of it, and sysmon share.

#include <signal.h>
#include <sys/syscall.h>

#include "frame.h"
#include "unit.h"

enum { CANCEL = 32 };
#define BIT(sig) ((uint64_t)1 << ((sig)-1))

static struct g g;
static int handled;

static void reset(void)
{
	unit_config();
	sched.policy = config.policy;
	g = (struct g){.status = G_RUNNING, .tid = os_gettid()};
	g.prog_altstack.ss_flags = SS_DISABLE;
	tls.g = tls.self = &g;
	stats = (struct stats){0};
	handled = 0;
}

static uint64_t blocked(void)
{
	uint64_t mask = 0;

	sys4(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof mask);
	return mask;
}

static void block(uint64_t mask)
{
	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask);
}

// The count may be one too low for a while (shim.h). The request counts all the same, or a thread that takes no more
// locks would be asked in vain for ever: sysmon takes the injected call for an answer.
START_TEST(locks_below_zero)
{
	reset();
	g.locks = -1;
	g.preempt = true;
	async_preempt2();
	ck_assert_uint_eq(stats.preempt_async, 1);
	ck_assert(!g.preempt);
	g.locks = 1;
	g.preempt = true;
	async_preempt2();
	ck_assert_uint_eq(stats.preempt_async, 1);
}
END_TEST

static void jumps_inside(int sig)
{
	(void)sig;
	handled++;
	park_abandon((uintptr_t)__builtin_frame_address(0)); // as longjmp does
}

static void install(int sig, void (*fn)(int), int flags)
{
	struct sigaction sa = {.sa_handler = fn, .sa_flags = flags};

	ck_assert_int_eq(signal_sigaction(sig, &sa, NULL), 0);
}

// A handler on top of an injected call jumps from one place in itself to another, and returns. The kernel blocks
// cancellation again then; the end of the injected call must still know that it has to unblock it.
START_TEST(jump_on_top_of_injected)
{
	reset();
	install(SIGUSR1, jumps_inside, 0);
	block(BIT(CANCEL));
	g.masked = true;
	ck_assert_int_eq(raise(SIGUSR1), 0);
	ck_assert_int_eq(handled, 1);
	ck_assert_uint_eq(blocked() & BIT(CANCEL), BIT(CANCEL));
	async_preempt2();
	ck_assert_uint_eq(blocked() & BIT(CANCEL), 0);
	ck_assert(!g.masked);
}
END_TEST

static uint64_t mask_after_jump;

static void jumps_on_altstack(int sig)
{
	jumps_inside(sig);
	mask_after_jump = blocked();
}

// On a small alternate stack the preemption signal stays blocked until the handler is left.
START_TEST(jump_on_small_altstack)
{
	static _Alignas(16) char alt[32768];
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};

	reset();
	block(0);
	ck_assert_int_eq(signal_sigaltstack(&ss, NULL), 0);
	install(SIGUSR1, jumps_on_altstack, SA_ONSTACK);
	ck_assert_int_eq(raise(SIGUSR1), 0);
	ck_assert_int_eq(handled, 1);
	ck_assert(mask_after_jump & BIT(config.signal));
	ck_assert_uint_eq(blocked(), 0);
	ck_assert(!g.masked);
}
END_TEST

// The child of a fork by a handler on top of an injected call goes on in that call, and is no G.
START_TEST(forked_on_top_of_injected)
{
	reset();
	block(BIT(CANCEL));
	tls.g = tls.self = NULL;
	async_preempt2();
	ck_assert_uint_eq(blocked() & BIT(CANCEL), 0);
}
END_TEST

// The program sets the whole mask in a handler on top of a preemption: what we have blocked stays so, unseen.
START_TEST(setmask_on_top_of_preemption)
{
	uint64_t ours;
	sigset_t set, old;

	reset();
	ours = BIT(CANCEL) | BIT(config.signal);
	block(ours | BIT(SIGUSR2));
	g.masked = true;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ck_assert_int_eq(signal_sigmask(SIG_SETMASK, &set, &old), 0);
	ck_assert_uint_eq(blocked(), ours | BIT(SIGUSR1));
	ck_assert_int_eq(memcmp(&old, &(uint64_t){BIT(SIGUSR2)}, sizeof(uint64_t)), 0);
	g.masked = false;
	ck_assert_int_eq(signal_sigmask(SIG_SETMASK, &set, &old), 0);
	ck_assert_uint_eq(blocked(), BIT(SIGUSR1));
	ck_assert_int_eq(memcmp(&old, &(uint64_t){BIT(SIGUSR1)}, sizeof(uint64_t)), 0);
	block(0);
}
END_TEST

// A preemption signal that arrives after we moved to another one, in the program's handler for the old one: the thread
// goes on. It may be on the very stack that it interrupted.
START_TEST(late_after_move)
{
	siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};

	reset();
	block(0);
	install(SIGUSR1, jumps_inside, 0);
	info.si_pid = os_getpid();
	info.si_value.sival_ptr = &sched;
	g.signal_pending = 1;
	g.preempt = true;
	g.force = true;
	ck_assert_int_eq(sys4(SYS_rt_tgsigqueueinfo, os_getpid(), os_gettid(), SIGUSR1, &info), 0);
	ck_assert_int_eq(handled, 0);
	ck_assert_uint_eq(g.signal_pending, 0);
	ck_assert_uint_eq(stats.preempt_forced + stats.refused_no_table + stats.refused_critical +
				  stats.refused_stack,
			  0);
}
END_TEST

// What sysmon has said of one slice is not said of the next.
START_TEST(a_new_slice)
{
	struct g other = g;

	reset();
	ck_assert_int_eq(sched_init(1), 0);
	store_relaxed(&sched.active, PHASE_ACTIVE);
	sched_start(&g);
	ck_assert_ptr_nonnull(g.p);
	g.grace_over = true;
	gosched(&g, G_RUNNABLE);
	ck_assert_ptr_nonnull(g.p);
	ck_assert(!g.grace_over);

	other = (struct g){.status = G_SYSCALL, .grace_over = true, .force = true};
	exitsyscall_slow(&other); // on credit: there is one P
	ck_assert_ptr_null(other.p);
	ck_assert(!other.grace_over);
	ck_assert(!other.force);
}
END_TEST

// A thread with something blocked that the program did not block is not asked, for that would wait; but beyond the bound it
// is: cancellation alone may be blocked.
START_TEST(masked_is_not_for_ever)
{
	reset();
	g.masked = true;
	sched.pid = os_getpid();
	ck_assert(!preempt_m(&g, NULL, 0));
	g.force = true;
	ck_assert(preempt_m(&g, NULL, 0)); // ignored: it is SIGURG
	ck_assert_uint_eq(stats.signals_sent, 1);
}
END_TEST

// A handler without an alternate stack (taken away by a raw system call) lies where the call would be pushed.
START_TEST(handler_on_the_same_stack)
{
	siginfo_t info = {.si_code = SI_QUEUE};
	ucontext_t uc = {0};

	reset();
	info.si_value.sival_ptr = &sched;
	g.preempt = true;
	g.signal_pending = 1;
	uc.uc_stack.ss_flags = SS_DISABLE;
	preempt_handler(config.signal, &info, &uc);
	ck_assert_uint_eq(stats.refused_stack, 1);
	g.signal_pending = 1;
	uc.uc_stack = (stack_t){.ss_sp = &uc, .ss_size = sizeof uc};
	preempt_handler(config.signal, &info, &uc);
	ck_assert_uint_eq(stats.refused_stack, 1);
	ck_assert_uint_eq(stats.refused_no_table, 1);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, locks_below_zero);
	tcase_add_test(tc, jump_on_top_of_injected);
	tcase_add_test(tc, jump_on_small_altstack);
	tcase_add_test(tc, forked_on_top_of_injected);
	tcase_add_test(tc, setmask_on_top_of_preemption);
	tcase_add_test(tc, late_after_move);
	tcase_add_test(tc, a_new_slice);
	tcase_add_test(tc, masked_is_not_for_ever);
	tcase_add_test(tc, handler_on_the_same_stack);
}

int main(void)
{
	return unit_run("signal", add);
}
