/*
 * signal.c - signals as the program sees them: handlers, masks, stacks, jumps, and its own SIGURG.
 */
#include "prog.h"

#include <poll.h>
#include <setjmp.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>

/* siginterrupt is obsolete, and still a function the program may call. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static atomic_int count;
static atomic_int in;
static atomic_int stop;

static void count_handler(int sig)
{
	(void)sig;
	atomic_fetch_add(&count, 1);
}

static void handle(int sig, void (*fn)(int), int flags)
{
	struct sigaction sa = {.sa_handler = fn, .sa_flags = flags};

	CHECK_EQ(sigaction(sig, &sa, NULL), 0);
}

/* An SA_SIGINFO handler gets the sender's values, and runs in a busy thread at once. */
static volatile siginfo_t got;
static atomic_int got_tid;

static void info_handler(int sig, siginfo_t *si, void *uc)
{
	CHECK(uc != NULL);
	CHECK_EQ(sig, si->si_signo);
	*(siginfo_t *)(uintptr_t)&got = *si;
	atomic_store(&got_tid, (int)syscall(SYS_gettid));
	atomic_fetch_add(&count, 1);
}

static void *busy(void *arg)
{
	atomic_int *tid = arg;

	atomic_store(tid, (int)syscall(SYS_gettid));
	while (!atomic_load_explicit(&stop, memory_order_relaxed))
		;
	return NULL;
}

CASE_STRESS(handler_siginfo)
{
	struct sigaction sa = {.sa_sigaction = info_handler, .sa_flags = SA_SIGINFO}, old;
	union sigval v = {.sival_int = 4711};
	atomic_int tid = 0;
	pthread_t t;

	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	CHECK_EQ(sigaction(SIGRTMIN + 1, &sa, NULL), 0);
	t = spawn(busy, &tid);
	hogs_start(3);
	while (!atomic_load(&tid))
		sleep_ns(100000);
	for (int i = 1; i <= 10; i++) {
		CHECK_EQ(pthread_sigqueue(t, SIGRTMIN + 1, v), 0);
		AWAIT(&count, 2 * i - 1);
		CHECK_EQ(got.si_code, SI_QUEUE);
		CHECK_EQ(got.si_value.sival_int, 4711);
		CHECK_EQ(got.si_pid, getpid());
		CHECK_EQ(atomic_load(&got_tid), atomic_load(&tid));
		CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
		AWAIT(&count, 2 * i);
		CHECK_EQ(got.si_code, SI_TKILL);
		CHECK_EQ(got.si_pid, getpid());
		CHECK_EQ(got.si_uid, getuid());
	}
	atomic_store(&stop, 1);
	join(t);
	hogs_stop();
	/* What sigaction reads back is what was set. */
	CHECK_EQ(sigaction(SIGUSR1, NULL, &old), 0);
	CHECK(old.sa_sigaction == info_handler);
	CHECK_EQ(old.sa_flags & ~0x04000000, SA_SIGINFO);
	CHECK_EQ(sigismember(&old.sa_mask, SIGUSR2), 0);
}

/* sigaction reads back masks and flags, before and after the first thread; signal() too. */
static void *nothing(void *arg)
{
	return arg;
}

static void read_back(int sig)
{
	struct sigaction sa = {.sa_handler = count_handler, .sa_flags = SA_NODEFER | SA_ONSTACK};
	struct sigaction old;

	sigemptyset(&sa.sa_mask);
	sigaddset(&sa.sa_mask, SIGURG);
	sigaddset(&sa.sa_mask, SIGTERM);
	CHECK_EQ(sigaction(sig, &sa, NULL), 0);
	for (int k = 0; k < 2; k++) {
		CHECK_EQ(sigaction(sig, NULL, &old), 0);
		CHECK(old.sa_handler == count_handler);
		CHECK_EQ(old.sa_flags & ~0x04000000, SA_NODEFER | SA_ONSTACK);
		for (int i = 1; i < 32; i++)
			CHECK_EQ(sigismember(&old.sa_mask, i), i == SIGURG || i == SIGTERM);
		join(spawn(nothing, NULL));
	}
	CHECK(signal(sig, SIG_IGN) == count_handler);
	CHECK(signal(sig, count_handler) == SIG_IGN);
	CHECK_EQ(sigaction(sig, NULL, &old), 0);
	CHECK_EQ(old.sa_flags & ~0x04000000, SA_RESTART);
	CHECK_EQ(siginterrupt(sig, 1), 0);
	CHECK_EQ(sigaction(sig, NULL, &old), 0);
	CHECK_EQ(old.sa_flags & ~0x04000000, 0);
	CHECK(signal(sig, SIG_DFL) == count_handler);
}

CASE(sigaction_read_back)
{
	struct sigaction old;

	CHECK_EQ(sigaction(SIGURG, NULL, &old), 0);
	CHECK(old.sa_handler == SIG_DFL);
	read_back(SIGUSR1);
	CHECK_EQ(sigaction(SIGURG, NULL, &old), 0); /* threads have been, nothing changed */
	CHECK(old.sa_handler == SIG_DFL);
	read_back(SIGURG);
	CHECK_ERRNO(sigaction(SIGKILL, &old, NULL), EINVAL);
	CHECK_ERRNO(sigaction(0, NULL, &old), EINVAL);
	CHECK_ERRNO(sigaction(65, NULL, &old), EINVAL);
}

/* sa_mask holds while the handler runs, SA_NODEFER lets the signal itself in again, and the mask
 * is restored afterwards. */
static atomic_int depth, max_depth, raised, inside;

static void nest_handler(int sig)
{
	int d = atomic_fetch_add(&depth, 1) + 1;

	if (d > atomic_load(&max_depth))
		atomic_store(&max_depth, d);
	if (!atomic_exchange(&raised, 1))
		raise(sig);
	atomic_fetch_sub(&depth, 1);
}

static void inside_handler(int sig)
{
	(void)sig;
	atomic_store(&inside, 1);
	raise(SIGUSR2);
	CHECK_EQ(atomic_load(&count), 0);
	atomic_store(&inside, 0);
}

static void *mask_main(void *arg)
{
	struct sigaction sa = {.sa_handler = inside_handler};
	sigset_t set;

	atomic_store(&max_depth, 0);
	atomic_store(&raised, 0);
	atomic_store(&count, 0);
	handle(SIGUSR1, nest_handler, SA_NODEFER);
	CHECK_EQ(raise(SIGUSR1), 0);
	CHECK_EQ(atomic_load(&max_depth), 2);
	atomic_store(&max_depth, 0);
	atomic_store(&raised, 0);
	handle(SIGUSR1, nest_handler, 0);
	CHECK_EQ(raise(SIGUSR1), 0);
	CHECK_EQ(atomic_load(&max_depth), 1);
	handle(SIGUSR2, count_handler, 0);
	sigemptyset(&sa.sa_mask);
	sigaddset(&sa.sa_mask, SIGUSR2);
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	CHECK_EQ(raise(SIGUSR1), 0);
	CHECK_EQ(atomic_load(&count), 1);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &set), 0);
	for (int i = 1; i < 32; i++)
		CHECK_EQ(sigismember(&set, i), 0);
	return arg;
}

CASE_STRESS(handler_masks)
{
	mask_main(NULL);
	hogs_start(2);
	join(spawn(mask_main, NULL));
	mask_main(NULL);
	hogs_stop();
}

/* SA_RESETHAND: once, then the default. */
CASE(handler_resethand)
{
	struct sigaction old;

	for (int k = 0; k < 2; k++) {
		atomic_store(&count, 0);
		handle(SIGWINCH, count_handler, (int)SA_RESETHAND);
		CHECK_EQ(raise(SIGWINCH), 0);
		CHECK_EQ(raise(SIGWINCH), 0);
		CHECK_EQ(atomic_load(&count), 1);
		CHECK_EQ(sigaction(SIGWINCH, NULL, &old), 0);
		CHECK(old.sa_handler == SIG_DFL);
		join(spawn(nothing, NULL));
	}
}

/* Masks read back as set, SIGURG and sigfillset included; a blocked SIGURG stays pending. */
static void *masks_main(void *arg)
{
	sigset_t set, old, pend;

	sigfillset(&set);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &old), 0);
	for (int i = 1; i < 32; i++)
		CHECK_EQ(sigismember(&old, i), i != SIGKILL && i != SIGSTOP);
	spin(1000000); /* may be preempted for all that */
	CHECK_EQ(sched_yield(), 0);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &old), 0);
	CHECK_EQ(sigismember(&old, SIGURG), 1);
	handle(SIGURG, count_handler, 0);
	atomic_store(&count, 0);
	CHECK_EQ(raise(SIGURG), 0);
	sleep_ns(MS);
	CHECK_EQ(atomic_load(&count), 0);
	CHECK_EQ(sigpending(&pend), 0);
	CHECK_EQ(sigismember(&pend, SIGURG), 1);
	sigemptyset(&set);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, &old), 0);
	CHECK_EQ(sigismember(&old, SIGURG), 1);
	CHECK_EQ(atomic_load(&count), 1);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &old), 0);
	CHECK_EQ(sigismember(&old, SIGURG), 0);
	CHECK_EQ(sigpending(&pend), 0);
	CHECK_EQ(sigismember(&pend, SIGURG), 0);
	return arg;
}

CASE_STRESS(masks_read_back)
{
	masks_main(NULL);
	hogs_start(4);
	join(spawn(masks_main, NULL));
	masks_main(NULL);
	hogs_stop();
}

/* A new thread inherits the mask of its maker. */
static void *inherited(void *arg)
{
	sigset_t set;

	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &set), 0);
	CHECK_EQ(sigismember(&set, SIGUSR1), 1);
	CHECK_EQ(sigismember(&set, SIGURG), arg != NULL);
	CHECK_EQ(sigismember(&set, SIGUSR2), 0);
	return NULL;
}

CASE(mask_inherited)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	join(spawn(inherited, NULL));
	sigaddset(&set, SIGURG);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	join(spawn(inherited, &set));
}

/* The program's own SIGURG handler gets every one: raise, kill, pthread_kill, sigqueue and raw
 * tgkill, sent one after the other to busy threads that are being preempted meanwhile. */
static void sigurg_from(bool before)
{
	struct sigaction sa = {.sa_sigaction = info_handler, .sa_flags = SA_SIGINFO};
	union sigval v = {.sival_int = 99};
	atomic_int tid = 0;
	int want = 0;
	pthread_t t;

	atomic_store(&count, 0);
	atomic_store(&stop, 0);
	if (before)
		CHECK_EQ(sigaction(SIGURG, &sa, NULL), 0);
	t = spawn(busy, &tid);
	hogs_start(3);
	if (!before)
		CHECK_EQ(sigaction(SIGURG, &sa, NULL), 0);
	while (!atomic_load(&tid))
		sleep_ns(100000);
	for (int i = 0; i < 10; i++) {
		CHECK_EQ(raise(SIGURG), 0);
		AWAIT(&count, ++want);
		CHECK_EQ(atomic_load(&got_tid), (int)syscall(SYS_gettid));
		CHECK_EQ(kill(getpid(), SIGURG), 0);
		AWAIT(&count, ++want);
		CHECK_EQ(got.si_code, SI_USER);
		CHECK_EQ(pthread_kill(t, SIGURG), 0);
		AWAIT(&count, ++want);
		CHECK_EQ(atomic_load(&got_tid), atomic_load(&tid));
		CHECK_EQ(sigqueue(getpid(), SIGURG, v), 0);
		AWAIT(&count, ++want);
		CHECK_EQ(got.si_code, SI_QUEUE);
		CHECK_EQ(got.si_value.sival_int, 99);
		CHECK_EQ(syscall(SYS_tgkill, getpid(), atomic_load(&tid), SIGURG), 0);
		AWAIT(&count, ++want);
		CHECK_EQ(atomic_load(&got_tid), atomic_load(&tid));
	}
	/* And no more than these: ours are not seen. */
	sleep_ns(20 * MS);
	CHECK_EQ(atomic_load(&count), want);
	atomic_store(&stop, 1);
	join(t);
	hogs_stop();
}

CASE_STRESS(sigurg_own_handler)
{
	sigurg_from(true);
	sigurg_from(false);
}

/* A program that reads SIGURG by signalfd or sigwait, blocked everywhere, as PostgreSQL does. */
CASE_STRESS(sigurg_signalfd)
{
	struct signalfd_siginfo si;
	sigset_t set;
	int fd, sig;

	sigemptyset(&set);
	sigaddset(&set, SIGURG);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	CHECK(fd >= 0);
	hogs_start(4);
	for (int i = 0; i < 10; i++) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};

		CHECK_EQ(kill(getpid(), SIGURG), 0);
		CHECK_EQ(poll(&pfd, 1, 10000), 1);
		CHECK_EQ(read(fd, &si, sizeof(si)), (long)sizeof(si));
		CHECK_EQ(si.ssi_signo, SIGURG);
		CHECK_EQ(si.ssi_pid, getpid());
		CHECK_EQ(kill(getpid(), SIGURG), 0);
		CHECK_EQ(sigwait(&set, &sig), 0);
		CHECK_EQ(sig, SIGURG);
	}
	CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 20), 0);
	hogs_stop();
}

/* The alternate stack is the program's: read back, used by its handlers, also in busy threads. */
static _Alignas(16) char alt[4][65536];

static void alt_handler(int sig)
{
	char here;
	stack_t ss;
	bool on = false;

	(void)sig;
	for (int i = 0; i < 4; i++)
		on |= &here >= alt[i] && &here < alt[i] + sizeof(alt[i]);
	CHECK(on);
	CHECK_EQ(sigaltstack(NULL, &ss), 0);
	CHECK(ss.ss_flags & SS_ONSTACK);
	atomic_fetch_add(&count, 1);
}

static void *alt_main(void *arg)
{
	stack_t ss, mine = {.ss_sp = arg, .ss_size = sizeof(alt[0])};
	int before = 0;

	CHECK_EQ(sigaltstack(NULL, &ss), 0);
	CHECK(ss.ss_flags & SS_DISABLE);
	CHECK_EQ(sigaltstack(&mine, &ss), 0);
	CHECK(ss.ss_flags & SS_DISABLE);
	for (int i = 0; i < 20; i++) {
		spin(50000);
		CHECK_EQ(raise(SIGUSR1), 0);
		before++;
		CHECK_EQ(sigaltstack(NULL, &ss), 0);
		CHECK(ss.ss_sp == arg && ss.ss_size == sizeof(alt[0]) && ss.ss_flags == 0);
	}
	mine.ss_flags = SS_DISABLE;
	CHECK_EQ(sigaltstack(&mine, NULL), 0);
	CHECK_EQ(sigaltstack(NULL, &ss), 0);
	CHECK(ss.ss_flags & SS_DISABLE);
	return (void *)(intptr_t)before;
}

CASE_STRESS(sigaltstack_own)
{
	pthread_t t[4];

	handle(SIGUSR1, alt_handler, SA_ONSTACK);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(alt_main, alt[i]);
	for (int i = 0; i < 4; i++)
		CHECK_EQ((intptr_t)join(t[i]), 20);
	CHECK_EQ(atomic_load(&count), 80);
	alt_main(alt[0]);
}

/* siglongjmp out of a SIGALRM handler that found its thread parked, in a sleep, or busy. */
static sigjmp_buf jump;
static pthread_mutex_t jump_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t jump_cond = PTHREAD_COND_INITIALIZER;
static sem_t jump_sem;
static pthread_t jump_main_thread;

static void jump_handler(int sig)
{
	(void)sig;
	if (pthread_equal(pthread_self(), jump_main_thread))
		siglongjmp(jump, 1);
	pthread_kill(jump_main_thread, SIGALRM);
}

static void jump_out_of(int what)
{
	struct timespec ts = {.tv_sec = 100};

	if (!sigsetjmp(jump, 1)) {
		ualarm(2000, 0);
		switch (what) {
		case 0:
			CHECK_EQ(pthread_mutex_lock(&jump_lock), 0);
			for (;;)
				pthread_cond_wait(&jump_cond, &jump_lock);
		case 1:
			nanosleep(&ts, NULL);
			break;
		case 2:
			sem_wait(&jump_sem);
			break;
		case 3:
			poll(NULL, 0, -1);
			break;
		default:
			for (;;)
				__asm__ volatile("");
		}
		fail(__FILE__, __LINE__, "came back from wait %d", what);
	}
	if (what == 0) {
		/* Where the jump left the lock is not told: make it a new one. */
		CHECK_EQ(pthread_mutex_init(&jump_lock, NULL), 0);
		memset(&jump_cond, 0, sizeof(jump_cond));
	}
}

CASE_STRESS(siglongjmp_out_of_wait)
{
	sigset_t set;

	jump_main_thread = pthread_self();
	CHECK_EQ(sem_init(&jump_sem, 0, 0), 0);
	handle(SIGALRM, jump_handler, 0);
	hogs_start(4);
	for (int i = 0; i < 15; i++)
		jump_out_of(i % 5);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &set), 0);
	CHECK_EQ(sigismember(&set, SIGALRM), 0);
	hogs_stop();
	CHECK_EQ(pthread_mutex_lock(&jump_lock), 0);
	CHECK_EQ(pthread_mutex_unlock(&jump_lock), 0);
	sleep_ns(MS);
}

/* A thread in sigwait gets what the process is sent, among busy threads. */
static sigset_t wait_set;
static atomic_int waited[4];

static void *sigwait_main(void *arg)
{
	for (;;) {
		siginfo_t si;
		int sig = sigwaitinfo(&wait_set, &si);

		if (sig < 0) {
			CHECK_EQ(errno, EINTR);
			continue;
		}
		if (sig == SIGTERM)
			return arg;
		atomic_fetch_add(&waited[sig == SIGUSR1 ? 0 : sig == SIGUSR2 ? 1 : 2], 1);
	}
}

CASE_STRESS(sigwait_thread)
{
	struct timespec ts = {.tv_nsec = 10 * MS};
	sigset_t usr1;
	long long t0;
	pthread_t t;

	sigemptyset(&wait_set);
	sigaddset(&wait_set, SIGUSR1);
	sigaddset(&wait_set, SIGUSR2);
	sigaddset(&wait_set, SIGTERM);
	sigaddset(&wait_set, SIGRTMIN);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, &wait_set, NULL), 0);
	t = spawn(sigwait_main, NULL);
	hogs_start(4);
	for (int i = 1; i <= 10; i++) {
		CHECK_EQ(kill(getpid(), SIGUSR1), 0);
		AWAIT(&waited[0], i);
		CHECK_EQ(kill(getpid(), SIGUSR2), 0);
		AWAIT(&waited[1], i);
	}
	for (int i = 0; i < 20; i++)
		CHECK_EQ(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i}), 0);
	AWAIT(&waited[2], 20);
	CHECK_EQ(kill(getpid(), SIGTERM), 0);
	join(t);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	t0 = now(CLOCK_MONOTONIC);
	CHECK_ERRNO(sigtimedwait(&usr1, NULL, &ts), EAGAIN);
	CHECK(now(CLOCK_MONOTONIC) - t0 >= 10 * MS);
	hogs_stop();
}

/* Handlers installed before the first thread work after it, in every thread. */
static void *raiser(void *arg)
{
	for (int i = 0; i < 100; i++)
		CHECK_EQ(raise(SIGUSR1), 0);
	return arg;
}

CASE_STRESS(handler_before_threads)
{
	pthread_t t[8];

	handle(SIGUSR1, count_handler, 0);
	CHECK_EQ(raise(SIGUSR1), 0);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(raiser, NULL);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&count), 801);
}

/* A profiler's timer on process CPU time hits busy threads all over and disturbs nothing. */
CASE_STRESS(itimer_prof)
{
	struct itimerval it = {{0, 1000}, {0, 1000}}, off = {0};
	sigset_t set;

	handle(SIGPROF, count_handler, SA_RESTART);
	CHECK_EQ(setitimer(ITIMER_PROF, &it, NULL), 0);
	hogs_start(8);
	sigemptyset(&set);
	sigaddset(&set, SIGPROF); /* main's sleeps are to be whole */
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
	for (int i = 0; i < 5000 && atomic_load(&count) < 10; i++)
		sleep_ns(MS);
	CHECK(atomic_load(&count) >= 10);
	hogs_stop();
	CHECK_EQ(setitimer(ITIMER_PROF, &off, NULL), 0);
}

/* SIGEV_THREAD timers start their threads. */
static void timer_fn(union sigval v)
{
	CHECK(v.sival_ptr == &count);
	atomic_fetch_add(&in, 1);
}

CASE_STRESS(timer_thread)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD,
			      .sigev_notify_function = timer_fn,
			      .sigev_value.sival_ptr = &count};
	struct itimerspec its = {{0, 2000000}, {0, 2000000}};
	timer_t timer;

	hogs_start(2);
	CHECK_EQ(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
	CHECK_EQ(timer_settime(timer, 0, &its, NULL), 0);
	for (int i = 0; i < 10000 && atomic_load(&in) < 5; i++)
		sleep_ns(MS);
	CHECK(atomic_load(&in) >= 5);
	CHECK_EQ(timer_delete(timer), 0);
	hogs_stop();
}

/* An alternate stack set in a handler is gone when the handler returns, but for the first of the first thread. */
static void alt_setter(int sig)
{
	stack_t ss = {.ss_sp = alt[0], .ss_size = sizeof(alt[0])};

	(void)sig;
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	atomic_fetch_add(&count, 1);
}

CASE(sigaltstack_in_handler)
{
	stack_t ss, mine = {.ss_sp = alt[1], .ss_size = sizeof(alt[1])};

	hogs_start(2);
	handle(SIGUSR1, alt_setter, 0);
	CHECK_EQ(sigaltstack(&mine, NULL), 0);
	mine.ss_flags = SS_DISABLE;
	CHECK_EQ(sigaltstack(&mine, NULL), 0);
	mine.ss_flags = 0;
	for (int i = 1; i <= 5; i++) {
		CHECK_EQ(raise(SIGUSR1), 0);
		CHECK_EQ(atomic_load(&count), i);
		CHECK_EQ(sigaltstack(NULL, &ss), 0);
		CHECK(ss.ss_flags & SS_DISABLE);
		spin(100000);
	}
	CHECK_EQ(sigaltstack(&mine, NULL), 0);
	CHECK_EQ(raise(SIGUSR1), 0);
	CHECK_EQ(sigaltstack(NULL, &ss), 0);
	CHECK(ss.ss_sp == alt[1] && ss.ss_flags == 0);
	hogs_stop();
}

/* A signal that waits for a new thread is handled in it before its start routine, by a handler that waits for a semaphore. (No
 * business of handlers, but it works.) */
static sem_t before_start;
static atomic_int handled_before_start;

static void waits_before_start(int sig)
{
	(void)sig;
	CHECK_EQ(sem_wait(&before_start), 0);
	atomic_fetch_add(&handled_before_start, 1);
}

static void *counts_handled(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)atomic_load(&handled_before_start);
}

CASE(handler_before_start)
{
	enum { TIMES = 30 };
	struct sigaction sa = {.sa_handler = waits_before_start};
	pthread_attr_t attr;
	sigset_t set, none;
	pthread_t t;

	CHECK_EQ(sem_init(&before_start, 0, 0), 0);
	sigemptyset(&none);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setsigmask_np(&attr, &none), 0);
	for (int i = 1; i <= TIMES; i++) {
		void *n;

		CHECK_EQ(kill(getpid(), SIGUSR1), 0);
		CHECK_EQ(pthread_create(&t, &attr, counts_handled, NULL), 0);
		sleep_ns(5 * MS);
		CHECK_EQ(sem_post(&before_start), 0);
		CHECK_EQ(pthread_join(t, &n), 0);
		CHECK_EQ((int)(intptr_t)n, i);
	}
	pthread_attr_destroy(&attr);
}
