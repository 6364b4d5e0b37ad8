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

// The count may be one too low for a while (scheduler.h). The request counts all the same, or a thread that takes no more
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

static ucontext_t *seen;
static uint64_t seen_mask;
static stack_t seen_stack;

static void reads_context(int sig, siginfo_t *info, void *context)
{
	uint64_t none = 0;

	(void)sig;
	(void)info;
	handled++;
	seen = context;
	memcpy(&seen_mask, &seen->uc_sigmask, sizeof seen_mask);
	seen_stack = seen->uc_stack;
	memcpy(&seen->uc_sigmask, &none, sizeof none); // but not what we have blocked
}

// On top of an injected call, with an alternate stack that is too small for ours: the context has what the program set.
START_TEST(context_on_top_of_injected)
{
	static _Alignas(16) char alt[4096];
	struct sigaction sa = {.sa_sigaction = reads_context, .sa_flags = SA_SIGINFO};
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt}, was;

	reset();
	g.altstack = os_mmap(g_altstack_size());
	ck_assert_ptr_nonnull(g.altstack);
	altstack_thread_start(&g);
	ck_assert_int_eq(signal_sigaltstack(&ss, NULL), 0);
	ck_assert_int_eq(signal_sigaction(SIGUSR1, &sa, NULL), 0);
	block(BIT(CANCEL) | BIT(SIGUSR2));
	g.masked = true;
	ck_assert_int_eq(raise(SIGUSR1), 0);
	ck_assert_int_eq(handled, 1);
	ck_assert_uint_eq(seen_mask, BIT(SIGUSR2));
	ck_assert_ptr_eq(seen_stack.ss_sp, alt);
	ck_assert_uint_eq(seen_stack.ss_size, sizeof alt);
	ck_assert_uint_eq(blocked(), BIT(CANCEL));
	sys2(SYS_sigaltstack, NULL, &was);
	ck_assert_ptr_eq(was.ss_sp, g.altstack);
	block(0);
}
END_TEST

// A jump out of a handler with all signals blocked: a preemption signal that the user chose counts as blocked no longer.
START_TEST(jump_restores_what_counts_as_blocked)
{
	sigset_t saved;

	reset();
	config.signal = SIGURG;
	g.sig_blocked = true;
	sigemptyset(&saved);
	signal_jump(&saved);
	ck_assert(!g.sig_blocked);
	sigfillset(&saved);
	sigdelset(&saved, config.signal);
	signal_jump(&saved);
	ck_assert(g.sig_blocked);
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
	config.signal = SIGURG; // ignored
	ck_assert(preempt_m(&g, NULL, 0));
	ck_assert_uint_eq(stats.signals_sent, 1);
}
END_TEST

static int64_t ticks;

// Each look at it takes 10 ms, as the sched_yield before it does on a full machine.
static int slow_clock(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	ticks += 10000000;
	*ts = (struct timespec){ticks / 1000000000, ticks % 1000000000};
	return 0;
}

// A signal that does not come is not waited for longer than a moment, and still counts as on its way.
START_TEST(drain_ends)
{
	reset();
	g.signal_pending = 1;
	os_vdso_clock_gettime = slow_clock;
	preempt_drain(&g);
	ck_assert_int_ge(ticks, 20000000); // it looked
	ck_assert_int_lt(ticks, 1000000000);
	ck_assert_uint_eq(g.signal_pending, 1);
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

// libc's handler for the signal that is ours gets what is not ours, with its siginfo, and nothing of ours; a handler that it
// installs later is taken over. The child of a fork has it back.
static void libc_handler(int sig, siginfo_t *info, void *context)
{
	(void)context;
	ck_assert_int_eq(sig, SIG_SETXID);
	ck_assert_int_eq(info->si_code, SI_TKILL);
	ck_assert_int_eq(info->si_pid, os_getpid());
	handled++;
}

struct raw_action {
	void (*handler)(int, siginfo_t *, void *);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

START_TEST(shared_with_libc)
{
	struct raw_action act = {.handler = libc_handler, .flags = SA_SIGINFO}, now;
	struct sigaction none = {.sa_handler = SIG_IGN};
	siginfo_t info = {.si_signo = SIG_SETXID, .si_code = SI_QUEUE};

	reset();
	block(0);
	ck_assert_int_eq(config.signal, SIG_SETXID);
	sched.pid = os_getpid();
	signal_activate();
	os_tgkill(os_gettid(), SIG_SETXID); // nobody's yet
	ck_assert_int_eq(sys4(SYS_rt_sigaction, SIG_SETXID, &act, NULL, 8), 0);
	for (int i = 0; i < 2; i++) {
		signal_thread_made();
		sys4(SYS_rt_sigaction, SIG_SETXID, NULL, &now, 8);
		ck_assert_ptr_eq(now.handler, preempt_handler);
	}
	os_tgkill(os_gettid(), SIG_SETXID);
	ck_assert_int_eq(handled, 1);
	info.si_pid = os_getpid();
	info.si_value.sival_ptr = &sched;
	g.signal_pending = 1;
	sys4(SYS_rt_tgsigqueueinfo, os_getpid(), os_gettid(), SIG_SETXID, &info);
	ck_assert_int_eq(handled, 1);
	ck_assert_uint_eq(g.signal_pending, 0);
	ck_assert_int_eq(signal_sigaction(SIG_SETXID, &none, NULL), -EINVAL);
	signal_reset_in_child();
	sys4(SYS_rt_sigaction, SIG_SETXID, NULL, &now, 8);
	ck_assert_ptr_eq(now.handler, libc_handler);
}
END_TEST

static void notes(int sig)
{
	handled = sig;
}

// A signal that the user chose and the program blocked: it counts as blocked, is so for real and pending when one comes, and is
// handled when it is unblocked.
START_TEST(chosen_signal_waits)
{
	sigset_t set, none, old;

	sigemptyset(&none);
	for (int way = 0; way < 2; way++) {
		reset();
		config.signal = SIGRTMIN + 3;
		sched.pid = os_getpid();
		signal_activate();
		install(config.signal, notes, 0);
		block(0);
		sigemptyset(&set);
		sigaddset(&set, config.signal);
		ck_assert_int_eq(signal_sigmask(SIG_BLOCK, &set, NULL), 0);
		ck_assert_uint_eq(blocked(), 0);
		ck_assert_int_eq(signal_sigmask(SIG_BLOCK, NULL, &old), 0);
		ck_assert_int_eq(sigismember(&old, config.signal), 1);
		ck_assert_int_eq(raise(config.signal), 0);
		ck_assert_int_eq(handled, 0);
		ck_assert_uint_eq(blocked(), BIT(config.signal));
		sigpending(&old);
		ck_assert_int_eq(sigismember(&old, config.signal), 1);
		ck_assert_int_eq(
			signal_sigmask(way ? SIG_UNBLOCK : SIG_SETMASK, way ? &set : &none, &old),
			0);
		ck_assert_int_eq(sigismember(&old, config.signal), 1);
		ck_assert_int_eq(handled, config.signal);
		ck_assert(!g.sig_blocked);
		ck_assert_uint_eq(blocked(), 0);
	}
}
END_TEST

// In a forced park the program's handlers wait, with the mask of what was interrupted; after it the signal is pending for
// the thread, until the preemption handler returns.
START_TEST(deferred_in_forced_park)
{
	ucontext_t uc = {0};
	sigset_t pending;

	reset();
	install(SIGUSR1, notes, 0);
	block(ALL_SIGNALS);
	signal_park_begin(&g, &uc);
	ck_assert_uint_eq(blocked(), BIT(CANCEL));
	ck_assert_int_eq(raise(SIGUSR1), 0);
	ck_assert_int_eq(handled, 0);
	signal_park_end();
	ck_assert_int_eq(handled, 0);
	ck_assert_uint_eq(tls.critical, 0);
	sigpending(&pending);
	ck_assert_int_eq(sigismember(&pending, SIGUSR1), 1);
	block(0);
	ck_assert_int_eq(handled, SIGUSR1);
}
END_TEST

// The frame of a handler that the program wants on the thread's own stack lies there whole: at the kernel's alignment, below
// the red zone, with the vector registers, which come back from it. A handler with SA_ONSTACK has its mask.
static uintptr_t frame_at;
static uint64_t handler_mask;

static void moved(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	ck_assert_int_eq(sig, SIGUSR1);
	ck_assert_int_eq(info->si_value.sival_int, 77);
	frame_at = (uintptr_t)uc;
	handler_mask = blocked();
	ck_assert_uint_eq((frame_at - 8) % 16, 8);
	ck_assert_uint_eq((uintptr_t)uc->uc_mcontext.fpregs % 64, 0);
	ck_assert((uintptr_t)info > frame_at &&
		  (uintptr_t)uc->uc_mcontext.fpregs > (uintptr_t)info);
	ck_assert_uint_lt((uintptr_t)uc->uc_mcontext.fpregs, context_sp(uc) - ASYNC_RED_ZONE);
	ck_assert_int_eq(uc->uc_stack.ss_flags, SS_DISABLE);
	__asm__ volatile("pxor %%xmm7, %%xmm7" ::: "xmm7");
	handled++;
}

START_TEST(frame_on_the_own_stack)
{
	struct sigaction sa = {.sa_sigaction = moved, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	uint64_t in = 0x0123456789abcdef, out = 0, zone = 0;
	siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	reset();
	block(0);
	g.altstack = os_mmap(g_altstack_size());
	ck_assert_ptr_nonnull(g.altstack);
	altstack_thread_start(&g);
	stack_is(here - 65536, here + 65536);
	sigaddset(&sa.sa_mask, SIGUSR2);
	ck_assert_int_eq(signal_sigaction(SIGUSR1, &sa, NULL), 0);
	info.si_pid = os_getpid();
	info.si_value.sival_int = 77;
	__asm__ volatile("movq %[in], %%xmm7\n\t"
			 "mov %[in], -128(%%rsp)\n\t"
			 "syscall\n\t"
			 "movq %%xmm7, %[out]\n\t"
			 "mov -128(%%rsp), %[zone]"
			 : [out] "=r"(out), [zone] "=&r"(zone)
			 : [in] "r"(in), "a"(SYS_rt_sigqueueinfo), "D"(os_getpid()), "S"(SIGUSR1),
			   "d"(&info)
			 : "rcx", "r11", "xmm7", "memory");
	ck_assert_int_eq(handled, 1);
	ck_assert_uint_eq(out, in);
	ck_assert_uint_eq(zone, in);
	ck_assert_uint_lt((uintptr_t)&zone - frame_at, 65536);
	ck_assert_uint_eq(handler_mask, BIT(SIGUSR1) | BIT(SIGUSR2));
	ck_assert_uint_eq(blocked(), 0);
}
END_TEST

static void stayed(int sig)
{
	char here;

	ck_assert_int_eq(sig, SIGUSR1);
	frame_at = (uintptr_t)&here;
	handled++;
}

// What was interrupted ran elsewhere than on the thread's own stack, as a goroutine does: there may be no room.
START_TEST(frame_off_a_coroutines_stack)
{
	struct sigaction sa = {.sa_handler = stayed, .sa_flags = SA_ONSTACK};

	reset();
	block(0);
	g.altstack = os_mmap(g_altstack_size());
	ck_assert_ptr_nonnull(g.altstack);
	altstack_thread_start(&g);
	stack_is(65536, 1 << 20);
	ck_assert_int_eq(signal_sigaction(SIGUSR1, &sa, NULL), 0);
	raise(SIGUSR1);
	ck_assert_int_eq(handled, 1);
	ck_assert_uint_lt(frame_at - (uintptr_t)g.altstack, g_altstack_size());
	ck_assert_uint_eq(blocked(), 0);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, shared_with_libc);
	tcase_add_test(tc, chosen_signal_waits);
	tcase_add_test(tc, deferred_in_forced_park);
	tcase_add_test(tc, frame_on_the_own_stack);
	tcase_add_test(tc, frame_off_a_coroutines_stack);
	tcase_add_test(tc, locks_below_zero);
	tcase_add_test(tc, jump_on_top_of_injected);
	tcase_add_test(tc, jump_on_small_altstack);
	tcase_add_test(tc, forked_on_top_of_injected);
	tcase_add_test(tc, setmask_on_top_of_preemption);
	tcase_add_test(tc, context_on_top_of_injected);
	tcase_add_test(tc, jump_restores_what_counts_as_blocked);
	tcase_add_test(tc, a_new_slice);
	tcase_add_test(tc, masked_is_not_for_ever);
	tcase_add_test(tc, drain_ends);
	tcase_add_test(tc, handler_on_the_same_stack);
}

int main(void)
{
	return unit_run("signal", add);
}
