/*
 * sigstack.c - handlers on alternate stacks, handlers that leave, and how programs die.
 */
#include "prog.h"
#include "sig.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static atomic_int hits;

/*
 * Alternate stacks: what is set is read back, in a handler with SS_ONSTACK or, with SS_AUTODISARM, disabled, and the
 * errors are the kernel's. A handler's context tells the thread's own setting.
 */
static atomic_int alt_flags, alt_context_flags, alt_errno;
static atomic_intptr_t alt_here, alt_context_sp;

static void alt_look(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	stack_t ss, off = {.ss_flags = SS_DISABLE};

	(void)sig;
	(void)info;
	CHECK_EQ(sigaltstack(NULL, &ss), 0);
	atomic_store(&alt_flags, ss.ss_flags);
	atomic_store(&alt_context_flags, uc->uc_stack.ss_flags);
	atomic_store(&alt_context_sp, (intptr_t)uc->uc_stack.ss_sp);
	atomic_store(&alt_here, (intptr_t)__builtin_frame_address(0));
	atomic_store(&alt_errno, 0);
	if (ss.ss_flags & SS_ONSTACK && sigaltstack(&off, NULL) < 0)
		atomic_store(&alt_errno, errno);
	atomic_fetch_add(&hits, 1);
}

static void *alt_thread(void *arg)
{
	char *memory =
		mmap(NULL, 1 << 17, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t ss = {.ss_sp = memory, .ss_size = 1 << 17}, old, off = {.ss_flags = SS_DISABLE};

	CHECK(memory != MAP_FAILED);
	CHECK_EQ(sigaltstack(NULL, &old), 0);
	CHECK_EQ(old.ss_flags, SS_DISABLE);
	CHECK(!old.ss_sp && !old.ss_size);
	/* None set: SA_ONSTACK means nothing. */
	CHECK_EQ(raise(SIGUSR1), 0);
	CHECK_EQ(atomic_load(&alt_flags), SS_DISABLE);
	CHECK_EQ(atomic_load(&alt_context_sp), 0);
	for (int i = 0; i < 2; i++) {
		ss.ss_flags = i ? (int)SS_AUTODISARM : 0;
		CHECK_EQ(sigaltstack(&ss, &old), 0);
		CHECK_EQ(old.ss_flags, i ? 0 : SS_DISABLE);
		CHECK_EQ(sigaltstack(NULL, &old), 0);
		CHECK_EQ(old.ss_flags, ss.ss_flags);
		CHECK(old.ss_sp == ss.ss_sp && old.ss_size == ss.ss_size);
		CHECK_EQ(raise(SIGUSR1), 0);
		CHECK_EQ(atomic_load(&alt_flags), i ? SS_DISABLE : SS_ONSTACK);
		CHECK_EQ(atomic_load(&alt_errno), i ? 0 : EPERM);
		CHECK_EQ(atomic_load(&alt_context_flags), ss.ss_flags);
		CHECK_EQ(atomic_load(&alt_context_sp), (intptr_t)memory);
		CHECK((uintptr_t)atomic_load(&alt_here) - (uintptr_t)memory < 1 << 17);
		CHECK_EQ(sigaltstack(NULL, &old), 0);
		CHECK(old.ss_sp == ss.ss_sp && old.ss_size == ss.ss_size);
		CHECK_EQ(old.ss_flags, ss.ss_flags);
		/* Preempted meanwhile. */
		spin(100000);
	}
	ss.ss_size = 100;
	CHECK_ERRNO(sigaltstack(&ss, NULL), ENOMEM);
	ss.ss_flags = 4;
	CHECK_ERRNO(sigaltstack(&ss, NULL), EINVAL);
	ss.ss_flags = SS_DISABLE | SS_ONSTACK;
	CHECK_ERRNO(sigaltstack(&ss, NULL), EINVAL);
	CHECK_EQ(sigaltstack(&off, &old), 0);
	CHECK(old.ss_sp == memory);
	ss.ss_flags = SS_DISABLE | SS_ONSTACK;
	CHECK_ERRNO(sigaltstack(&ss, NULL), EINVAL);
	CHECK_EQ(sigaltstack(NULL, &old), 0);
	CHECK_EQ(old.ss_flags, SS_DISABLE);
	CHECK_EQ(munmap(memory, 1 << 17), 0);
	return arg;
}

CASE_STRESS(alternate_stack_exact)
{
	set_action(SIGUSR1, alt_look, SA_ONSTACK);
	hogs_start(4);
	for (int i = 0; i < 3; i++)
		join(spawn(alt_thread, NULL));
	alt_thread(NULL);
	hogs_stop();
}

/* siglongjmp out of a handler that found its thread in each kind of wait; the thread goes on as any other. */
enum {
	JUMP_MUTEX,
	JUMP_TIMEDLOCK,
	JUMP_COND,
	JUMP_SEM,
	JUMP_BARRIER,
	JUMP_RDLOCK,
	JUMP_WRLOCK,
	JUMP_JOIN,
	JUMP_SLEEP,
	JUMP_READ,
	JUMP_POLL,
	JUMP_FUTEX,
	JUMP_SIGWAIT,
	JUMP_KINDS
};

static _Thread_local sigjmp_buf leave;
static _Thread_local volatile sig_atomic_t leaving;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER, common = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t held_rw = PTHREAD_RWLOCK_INITIALIZER;
static atomic_int left[JUMP_KINDS], in_wait[JUMP_KINDS], rest;
static pthread_t sleeper;
static int quiet[2];

static void leave_handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	if (leaving) {
		leaving = 0;
		siglongjmp(leave, 1);
	}
}

static void wait_in(intptr_t what)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	struct timespec ts = {.tv_sec = 100}, abs = after(CLOCK_REALTIME, 100 * SEC);
	sigset_t set;
	pthread_barrier_t barrier;
	uint32_t word = 0;
	sem_t sem;
	char c;

	switch (what) {
	case JUMP_MUTEX:
		pthread_mutex_lock(&held);
		break;
	case JUMP_TIMEDLOCK:
		pthread_mutex_timedlock(&held, &abs);
		break;
	case JUMP_COND:
		pthread_mutex_lock(&m);
		for (;;)
			pthread_cond_wait(&cond, &m);
	case JUMP_SEM:
		sem_init(&sem, 0, 0);
		sem_wait(&sem);
		break;
	case JUMP_BARRIER:
		pthread_barrier_init(&barrier, NULL, 2);
		pthread_barrier_wait(&barrier);
		break;
	case JUMP_RDLOCK:
		pthread_rwlock_rdlock(&held_rw);
		break;
	case JUMP_WRLOCK:
		pthread_rwlock_wrlock(&held_rw);
		break;
	case JUMP_JOIN:
		pthread_join(sleeper, NULL);
		break;
	case JUMP_SLEEP:
		nanosleep(&ts, NULL);
		break;
	case JUMP_READ:
		if (read(quiet[0], &c, 1) < 0)
			break;
		break;
	case JUMP_POLL:
		poll(NULL, 0, -1);
		break;
	case JUMP_FUTEX:
		syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		break;
	default:
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		sigwaitinfo(&set, NULL);
	}
	fail(__FILE__, __LINE__, "came back from wait %d", (int)what);
}

static void *jumper(void *arg)
{
	sigset_t set;

	if (!sigsetjmp(leave, 1)) {
		leaving = 1;
		atomic_store(&in_wait[(intptr_t)arg], 1);
		wait_in((intptr_t)arg);
	}
	atomic_store(&left[(intptr_t)arg], 1);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &set), 0);
	for (int i = 1; i <= 64; i++)
		CHECK_EQ(sigismember(&set, i) == 1, false);
	for (int i = 0; i < 20; i++) {
		CHECK_EQ(pthread_mutex_lock(&common), 0);
		sched_yield();
		CHECK_EQ(pthread_mutex_unlock(&common), 0);
	}
	spin(200000);
	return arg;
}

static void *resting(void *arg)
{
	while (!atomic_load(&rest))
		sleep_ns(200000);
	return arg;
}

CASE_STRESS(jump_out_of_each_wait)
{
	pthread_t t[JUMP_KINDS];

	set_action(SIGUSR1, leave_handler, SA_RESTART);
	CHECK_EQ(pipe(quiet), 0);
	hogs_start(2);
	sleeper = spawn(resting, NULL);
	CHECK_EQ(pthread_mutex_lock(&held), 0);
	CHECK_EQ(pthread_rwlock_wrlock(&held_rw), 0);
	for (intptr_t i = 0; i < JUMP_KINDS; i++)
		t[i] = spawn(jumper, (void *)i);
	for (int i = 0; i < JUMP_KINDS; i++)
		AWAIT(&in_wait[i], 1);
	sleep_ns(5 * MS);
	for (int i = 0; i < JUMP_KINDS; i++) {
		CHECK_EQ(pthread_kill(t[i], SIGUSR1), 0);
		AWAIT(&left[i], 1);
	}
	for (intptr_t i = 0; i < JUMP_KINDS; i++)
		CHECK(join(t[i]) == (void *)i);
	CHECK_EQ(pthread_mutex_unlock(&held), 0);
	CHECK_EQ(pthread_rwlock_unlock(&held_rw), 0);
	atomic_store(&rest, 1);
	join(sleeper);
	hogs_stop();
}

/* A stack that overflows, with the handler on an alternate stack: it sees the fault, and jumps out of it. */
static _Thread_local sigjmp_buf overflow;
static _Thread_local volatile uintptr_t fault_at;

static void overflow_handler(int sig, siginfo_t *info, void *context)
{
	CHECK_EQ(sig, SIGSEGV);
	CHECK(context && info->si_code > 0);
	fault_at = (uintptr_t)info->si_addr;
	siglongjmp(overflow, 1);
}

__attribute__((noinline)) static int recurse(volatile char *up)
{
	volatile char room[4096];

	room[0] = up ? up[0] : 1;
	return room[0] ? recurse(room) + room[0] : 0;
}

static void *overflow_main(void *arg)
{
	stack_t ss = {.ss_size = 1 << 16}, off = {.ss_flags = SS_DISABLE};
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	ss.ss_sp =
		mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(ss.ss_sp != MAP_FAILED);
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	for (int i = 0; i < 3; i++) {
		fault_at = 0;
		if (!sigsetjmp(overflow, 1))
			recurse(NULL);
		CHECK(fault_at < here && here - fault_at < (64 << 20));
		spin(10000);
	}
	CHECK_EQ(sigaltstack(&off, NULL), 0);
	return arg;
}

CASE_STRESS(stack_overflow_handled)
{
	pthread_t t[3];

	set_action(SIGSEGV, overflow_handler, SA_ONSTACK);
	hogs_start(2);
	for (int i = 0; i < 3; i++)
		t[i] = spawn_small(overflow_main, NULL);
	for (int i = 0; i < 3; i++)
		join(t[i]);
	overflow_main(NULL);
	hogs_stop();
}

/*
 * How a program dies is told as before: the signal, and whether there is a core. What a process with one thread shows
 * is what one with many shows.
 */
enum {
	DIE_SEGV,
	DIE_OVERFLOW,
	DIE_NO_STACK,
	DIE_ABORT,
	DIE_FPE,
	DIE_ILL,
	DIE_RETURN,
	DIE_RESET,
	DIE_QUIT,
	DIE_TERM,
	DIE_KINDS
};

struct death {
	int how;
	bool threads;
};

static void return_handler(int sig, siginfo_t *info, void *context)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};

	(void)info;
	(void)context;
	sigaction(sig, &dfl, NULL);
}

static void nothing_handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
}

static void *die(void *arg)
{
	int how = (int)(intptr_t)arg;
	volatile int zero = 0;
	stack_t ss = {.ss_size = 1 << 16};

	ss.ss_sp = malloc(ss.ss_size);
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	signal(SIGQUIT, SIG_DFL); /* ignored where jobs run in the background */
	switch (how) {
	case DIE_RETURN:
		set_action(SIGSEGV, return_handler, SA_ONSTACK);
		*(volatile int *)(uintptr_t)zero = 1;
		break;
	case DIE_RESET:
		set_action(SIGSEGV, nothing_handler, SA_ONSTACK | (int)SA_RESETHAND);
		*(volatile int *)(uintptr_t)zero = 1;
		break;
	case DIE_SEGV:
		*(volatile int *)(uintptr_t)zero = 1;
		break;
	case DIE_OVERFLOW:
		recurse(NULL);
		break;
	case DIE_NO_STACK: /* a handler that wants another stack, but there is none */
		ss.ss_flags = SS_DISABLE;
		CHECK_EQ(sigaltstack(&ss, NULL), 0);
		set_action(SIGSEGV, overflow_handler, SA_ONSTACK);
		recurse(NULL);
		break;
	case DIE_ABORT:
		set_action(SIGABRT, nothing_handler, 0);
		abort();
	case DIE_FPE:
		zero = 7 / zero;
		break;
	case DIE_ILL:
		__builtin_trap();
	case DIE_QUIT:
		kill(getpid(), SIGQUIT);
		break;
	default:
		kill(getpid(), SIGTERM);
	}
	for (;;)
		pause();
}

static void run_death(void *arg)
{
	const struct death *d = arg;
	struct rlimit core = {0, 0};
	int fd = open("/proc/self/coredump_filter", O_WRONLY);

	/* Headers only: the flag is what matters. */
	if (fd >= 0 && write(fd, "0", 1) == 1 && getrlimit(RLIMIT_CORE, &core) == 0)
		core.rlim_cur = core.rlim_max < 1 << 26 ? core.rlim_max : 1 << 26;
	setrlimit(RLIMIT_CORE, &core);
	if (d->threads) {
		hogs_start(2);
		sleep_ns(MS);
	}
	if (d->threads && (d->how % 2 || d->how == DIE_NO_STACK))
		join(spawn(die, (void *)(intptr_t)d->how));
	die((void *)(intptr_t)d->how);
}

CASE(deaths_told)
{
	const int want[] = {SIGSEGV, SIGSEGV, SIGSEGV, SIGABRT, SIGFPE,
			    SIGILL,  SIGSEGV, SIGSEGV, SIGQUIT, SIGTERM};
	char dir[] = "/tmp/progs.XXXXXX", cmd[64];
	int home = open(".", O_PATH);

	CHECK(home >= 0);
	CHECK(mkdtemp(dir));
	CHECK_EQ(chdir(dir), 0);
	for (int how = 0; how < DIE_KINDS; how++) {
		struct death one = {how, false}, many = {how, true};
		int a = in_child(run_death, &one), b = in_child(run_death, &many);

		CHECK(WIFSIGNALED(a));
		CHECK_EQ(WTERMSIG(a), want[how]);
		if (a != b)
			fail(__FILE__, __LINE__, "death %d: status %#x with threads, %#x without",
			     how, (unsigned int)b, (unsigned int)a);
	}
	CHECK_EQ(fchdir(home), 0); /* the library may be preloaded by a relative path */
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	CHECK_EQ(system(cmd), 0);
}

/*
 * A handler with SA_ONSTACK on a thread without an alternate stack has all of the thread's own stack. So has one for the
 * preemption signal, when the user chose that (settings.py).
 */
static sigjmp_buf deep_jump;
static atomic_int deep_jumps;

static void deep_handler(int sig, siginfo_t *info, void *context)
{
	volatile char room[1 << 20];

	(void)info;
	(void)context;
	for (size_t i = 0; i < sizeof(room); i += 1024)
		room[i] = (char)i;
	spin(10000);
	for (size_t i = 0; i < sizeof(room); i += 1024)
		CHECK_EQ(room[i], (char)i);
	if (atomic_fetch_add(&hits, 1) % 2 == 0)
		raise(sig);
	if (atomic_load(&deep_jumps))
		siglongjmp(deep_jump, 1);
}

static void *deep_main(void *arg)
{
	const int sigs[] = {SIGUSR1, SIGRTMIN + 7};

	for (volatile int i = 0; i < 20; i++) {
		atomic_store(&hits, 0);
		atomic_store(&deep_jumps, i & 1);
		if (!sigsetjmp(deep_jump, 1)) {
			CHECK_EQ(raise(sigs[i / 2 % 2]), 0);
			CHECK(!(i & 1));
		}
		CHECK_EQ(atomic_load(&hits), 2);
	}
	return arg;
}

CASE_STRESS(onstack_without_stack)
{
	set_action(SIGUSR1, deep_handler, SA_ONSTACK | SA_NODEFER);
	set_action(SIGRTMIN + 7, deep_handler, SA_NODEFER);
	hogs_start(2);
	join(spawn(deep_main, NULL));
	deep_main(NULL);
	hogs_stop();
}

/* It leaves by pthread_exit, which unwinds from there through the thread's own frames. */
static atomic_int cleaned;

static void clean(void *arg)
{
	atomic_fetch_add(&cleaned, (int)(intptr_t)arg);
}

static void exit_handler(int sig, siginfo_t *info, void *context)
{
	volatile char room[1 << 18];

	(void)sig;
	(void)info;
	(void)context;
	memset((char *)room, 1, sizeof(room));
	pthread_cleanup_push(clean, (void *)1);
	pthread_exit((void *)(intptr_t)room[5]);
	pthread_cleanup_pop(0);
}

static void *exit_main(void *arg)
{
	pthread_cleanup_push(clean, (void *)10);
	spin(10000);
	raise(SIGUSR1);
	pthread_cleanup_pop(0);
	return arg;
}

CASE_STRESS(onstack_exit)
{
	set_action(SIGUSR1, exit_handler, SA_ONSTACK);
	hogs_start(2);
	for (int i = 1; i <= 10; i++) {
		CHECK(join(spawn(exit_main, NULL)) == (void *)1);
		CHECK_EQ(atomic_load(&cleaned), 11 * i);
	}
	hogs_stop();
}
