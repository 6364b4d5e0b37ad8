/*
 * life.c - the life of the process: exit in all forms, exec, spawn, limits. forks.c has fork and vfork.
 */
#include "prog.h"

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

extern char **environ;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static atomic_int in;

static void *park(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(&lock), 0);
	atomic_fetch_add(&in, 1);
	for (;;)
		CHECK_EQ(pthread_cond_wait(&never, &lock), 0);
	return arg;
}

static void crowd_of_64(bool busy)
{
	if (busy) {
		hogs_start(64);
		return;
	}
	for (int i = 0; i < 64; i++)
		spawn(park, NULL);
	AWAIT(&in, 64);
}

enum end { END_EXIT, END__EXIT, END_QUICK, END_ABORT, END_KILL, END_THREAD, END_MAIN_GONE };

struct ending {
	enum end how;
	bool busy;
};

static void *exit_thread(void *arg)
{
	(void)arg;
	exit(42);
}

static void *exit_late(void *arg)
{
	(void)arg;
	sleep_ns(5 * MS);
	exit(42);
}

static void end(void *arg)
{
	struct ending *e = arg;

	crowd_of_64(e->busy);
	switch (e->how) {
	case END_EXIT:
		exit(42);
	case END__EXIT:
		_exit(42);
	case END_QUICK:
		quick_exit(42);
	case END_ABORT:
		setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
		abort();
	case END_KILL:
		kill(getpid(), SIGTERM);
		break;
	case END_THREAD:
		spawn(exit_thread, NULL);
		break;
	case END_MAIN_GONE:
		spawn(exit_late, NULL);
		pthread_exit(NULL);
	}
	for (;;)
		pause();
}

static void ends_with(enum end how, int status)
{
	struct ending e = {how, false};

	CHECK_EQ(in_child(end, &e) & ~0x80, status); /* without the core bit */
	e.busy = true;
	CHECK_EQ(in_child(end, &e) & ~0x80, status);
}

/* exit with 64 threads parked or busy ends at once, with its code. */
CASE_STRESS(exit_64)
{
	ends_with(END_EXIT, 42 << 8);
}

/* So do _exit and quick_exit. */
CASE_STRESS(exit_now_64)
{
	ends_with(END__EXIT, 42 << 8);
	ends_with(END_QUICK, 42 << 8);
}

/* exit from another thread, with main in pause or gone. */
CASE_STRESS(exit_from_thread)
{
	ends_with(END_THREAD, 42 << 8);
	ends_with(END_MAIN_GONE, 42 << 8);
}

/* Threads that compute while main is gone from the start (tables.py looks at how they were stopped). */
static void *burn_and_exit(void *arg)
{
	sleep_ns(5 * MS);
	hogs_start(3);
	burn(200 * MS);
	(void)arg;
	puts("OK");
	exit(0);
}

CASE(main_gone_busy)
{
	spawn(burn_and_exit, NULL);
	pthread_exit(NULL);
}

/* abort and a fatal signal keep their signal. */
CASE_STRESS(die_by_signal)
{
	ends_with(END_ABORT, SIGABRT);
	ends_with(END_KILL, SIGTERM);
}

/* A thread's null pointer is a SIGSEGV, whose handler sees the address and can jump out. */
static __thread sigjmp_buf segv_jump;
static atomic_int segvs;

static void on_segv(int sig, siginfo_t *si, void *uc)
{
	(void)uc;
	CHECK_EQ(sig, SIGSEGV);
	CHECK(si->si_addr == (void *)16);
	siglongjmp(segv_jump, 1);
}

static void *segv_main(void *arg)
{
	volatile int *volatile bad = (volatile int *)(uintptr_t)16;

	for (volatile int i = 0; i < 20; i++) {
		if (!sigsetjmp(segv_jump, 1))
			*bad = 0;
		atomic_fetch_add(&segvs, 1);
		spin(1000);
	}
	return arg;
}

CASE_STRESS(segv_handler)
{
	struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};
	pthread_t t[8];

	CHECK_EQ(sigaction(SIGSEGV, &sa, NULL), 0);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(segv_main, NULL);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&segvs), 160);
}

/* atexit handlers may lock, sleep and join while other threads are busy. */
static pthread_t atexit_target;
static atomic_int atexit_stop;

static void *atexit_peer(void *arg)
{
	while (!atomic_load(&atexit_stop))
		spin(1000);
	return arg;
}

static void at_exit(void)
{
	CHECK_EQ(pthread_mutex_lock(&lock), 0);
	sleep_ns(MS);
	CHECK_EQ(pthread_mutex_unlock(&lock), 0);
	atomic_store(&atexit_stop, 1);
	join(atexit_target);
	hogs_stop();
	_exit(17);
}

static void exit_by_atexit(void *arg)
{
	(void)arg;
	hogs_start(4);
	atexit_target = spawn(atexit_peer, NULL);
	atexit(at_exit);
	exit(1);
}

CASE_STRESS(atexit_joins)
{
	CHECK_EQ(in_child(exit_by_atexit, NULL), 17 << 8);
}

/* exec from a thread among busy ones: the new image has the mask and the dispositions that the
 * program set, SIGURG's too, and nothing else is caught. */
static unsigned long long status_mask(const char *what)
{
	char line[256];
	unsigned long long v = 0;
	FILE *f = fopen("/proc/self/status", "r");

	if (!f)
		skip("no /proc");
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, what, strlen(what)))
			v = strtoull(line + strlen(what) + 1, NULL, 16);
	fclose(f);
	return v;
}

#define BIT(sig) (1ull << ((sig)-1))

HELPER(exec_state_default)
{
	struct sigaction sa;
	sigset_t set;

	CHECK_EQ(status_mask("SigBlk"), BIT(SIGUSR1));
	CHECK_EQ(status_mask("SigIgn") & ~BIT(SIGPIPE), BIT(SIGUSR2));
	CHECK_EQ(status_mask("SigCgt"), 0);
	CHECK_EQ(sigaction(SIGURG, NULL, &sa), 0);
	CHECK(sa.sa_handler == SIG_DFL);
	CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &set), 0);
	CHECK_EQ(sigismember(&set, SIGUSR1), 1);
	CHECK_EQ(sigismember(&set, SIGURG), 0);
}

HELPER(exec_state_urg)
{
	struct sigaction sa;
	sigset_t set;

	CHECK_EQ(sigaction(SIGURG, NULL, &sa), 0);
	CHECK(sa.sa_handler == SIG_IGN);
	CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &set), 0);
	CHECK_EQ(sigismember(&set, SIGURG), 1);
	CHECK_EQ(sigismember(&set, SIGUSR1), 0);
	if (!getenv("LD_PRELOAD")) {
		CHECK_EQ(status_mask("SigBlk"), BIT(SIGURG));
		CHECK(status_mask("SigIgn") & BIT(SIGURG));
	}
}

static void *exec_main(void *arg)
{
	sigset_t set;
	bool urg = (intptr_t)arg & 1;

	sigemptyset(&set);
	sigaddset(&set, urg ? SIGURG : SIGUSR1);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
	signal(urg ? SIGURG : SIGUSR2, SIG_IGN);
	spin(100000);
	exec_self(urg ? "exec_state_urg" : "exec_state_default", NULL);
}

static void exec_child(void *arg)
{
	if ((intptr_t)arg & 2)
		unsetenv("LD_PRELOAD");
	fclose(stdout);
	CHECK(fopen("/dev/null", "w") != NULL);
	signal(SIGINT, SIG_DFL); /* a shell ignores these two for what it runs beside */
	signal(SIGQUIT, SIG_DFL);
	hogs_start(8);
	spawn(exec_main, arg);
	for (;;)
		pause();
}

CASE_STRESS(exec_state)
{
	for (intptr_t i = 0; i < 4; i++)
		CHECK_EQ(in_child(exec_child, (void *)i), 0);
}

/* posix_spawn, system and popen in threads under load. */
static void *spawner(void *arg)
{
	char *argv[] = {(char[]){"sh"}, (char[]){"-c"}, (char[]){"exit 5"}, NULL};

	for (int i = 0; i < 3; i++) {
		char line[16] = "";
		pid_t pid;
		FILE *f;

		CHECK_EQ(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ), 0);
		CHECK_EQ(wait_child(pid), 5 << 8);
		CHECK_EQ(system("exit 6"), 6 << 8);
		f = popen("echo word", "r");
		CHECK(f != NULL);
		CHECK(fgets(line, sizeof(line), f) && !strcmp(line, "word\n"));
		CHECK_EQ(pclose(f), 0);
	}
	return arg;
}

CASE_STRESS(spawn_system_popen)
{
	pthread_t t[4];

	hogs_start(4);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(spawner, NULL);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	hogs_stop();
}

/* RLIMIT_NPROC allows one more process, or none: the program's threads get what they would get
 * alone. Uses a user id of its own, so that others' processes do not count. */
static void nproc_limited(void *arg)
{
	rlim_t n = (rlim_t)(intptr_t)arg;
	pthread_t t[3];
	int made = 0, r = 0;

	CHECK_EQ(setrlimit(RLIMIT_NPROC, &(struct rlimit){n, n}), 0);
	CHECK_EQ(setuid((uid_t)(200000 + getpid())), 0);
	for (; made < 3; made++) {
		r = pthread_create(&t[made], NULL, park, NULL);
		if (r)
			break;
	}
	CHECK_EQ(r, EAGAIN);
	CHECK_EQ(made, (int)n - 1);
	CHECK_EQ(pthread_mutex_lock(&lock), 0);
	CHECK_EQ(pthread_mutex_unlock(&lock), 0);
	sleep_ns(MS);
	AWAIT(&in, made);
}

CASE(rlimit_nproc)
{
	if (geteuid())
		skip("needs root to become another user");
	CHECK_EQ(in_child(nproc_limited, (void *)1), 0);
	CHECK_EQ(in_child(nproc_limited, (void *)2), 0);
	CHECK_EQ(in_child(nproc_limited, (void *)3), 0);
}

/* A seccomp filter refuses one system call with EPERM, before or after the first thread. */
static void refuse(long nr)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {ARRAY_SIZE(code), code};

	CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog))
		skip("no seccomp");
}

static void *finite_hog(void *arg)
{
	spin(3000000);
	return arg;
}

static void refused(void *arg)
{
	bool late = (intptr_t)arg & 1;
	long nr = (intptr_t)arg >> 1;
	pthread_t t[8];

	if (late)
		lives();
	refuse(nr);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(i & 1 ? finite_hog : locks_own, NULL);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	lives();
	exit(0);
}

CASE(seccomp_refuses)
{
	const long nrs[] = {
		SYS_tgkill,	 SYS_sched_setattr,	SYS_prctl,	  SYS_membarrier,
		SYS_sigaltstack, SYS_sched_getaffinity, SYS_timer_create,
	};

	for (size_t i = 0; i < ARRAY_SIZE(nrs); i++)
		for (int late = 0; late < 2; late++) {
			int status;

			status = in_child(refused, (void *)(intptr_t)(nrs[i] << 1 | late));
			if (status == EXIT_SKIP << 8)
				_exit(EXIT_SKIP);
			if (status)
				fail(__FILE__, __LINE__, "call %ld refused %s: status %#x", nrs[i],
				     late ? "late" : "early", status);
		}
}

/* dlopen, dlsym and dlclose while threads run, and in many threads at once. */
static void *dl_main(void *arg)
{
	const char *libs[] = {"libm.so.6", "libresolv.so.2", "libutil.so.1", "libanl.so.1"};

	for (int i = 0; i < 20; i++) {
		void *h = dlopen(libs[(i + (intptr_t)arg) & 3], RTLD_NOW | RTLD_LOCAL);

		CHECK(h != NULL);
		if (((i + (intptr_t)arg) & 3) == 0) {
			double (*fn)(double) = NULL;

			*(void **)&fn = dlsym(h, "cos");
			CHECK(fn && fn(0.0) == 1.0);
		}
		CHECK_EQ(dlclose(h), 0);
	}
	return NULL;
}

CASE_STRESS(dlopen_threads)
{
	pthread_t t[8];

	hogs_start(4);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(dl_main, (void *)(intptr_t)i);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	hogs_stop();
}

static atomic_int chld_seen;

static void on_chld(int sig)
{
	(void)sig;
	atomic_fetch_add(&chld_seen, 1);
}

static void *reads_nothing(void *arg)
{
	char c;

	CHECK_EQ(read(*(int *)arg, &c, 1), 0);
	return NULL;
}

/* A process without children has none, whatever the library runs on its behalf meanwhile: for 2 s of busy
 * threads there is no SIGCHLD, nothing to wait for, and a closed pipe is at its end at once. */
CASE(no_child_appears)
{
	struct sigaction sa = {.sa_handler = on_chld};
	long long end = now(CLOCK_MONOTONIC) + 2 * SEC;
	siginfo_t info;
	int lowest = -1;

	CHECK_EQ(sigaction(SIGCHLD, &sa, NULL), 0);
	hogs_start(8);
	while (now(CLOCK_MONOTONIC) < end) {
		int status, fds[2];
		pthread_t t;

		CHECK_ERRNO(waitpid(-1, &status, WNOHANG), ECHILD);
		CHECK_ERRNO(wait(NULL), ECHILD);
		CHECK_ERRNO(wait3(&status, WNOHANG, NULL), ECHILD);
		CHECK_ERRNO(waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG), ECHILD);
		CHECK_EQ(pipe(fds), 0);
		t = spawn(reads_nothing, &fds[0]);
		sleep_ns(MS);
		CHECK_EQ(close(fds[1]), 0);
		join(t);
		CHECK_EQ(close(fds[0]), 0);
		CHECK(lowest < 0 || fds[0] <= lowest + 1); /* nothing stays open */
		if (lowest < 0)
			lowest = fds[0];
	}
	hogs_stop();
	CHECK_ERRNO(waitpid(-1, NULL, WNOHANG), ECHILD);
	CHECK_EQ(atomic_load(&chld_seen), 0);
}

/* A child that the program has is still the only one it sees, and its end one SIGCHLD. */
CASE(own_child_only)
{
	struct sigaction sa = {.sa_handler = on_chld};
	int status, fds[2];
	pid_t pid;
	char c;

	CHECK_EQ(sigaction(SIGCHLD, &sa, NULL), 0);
	hogs_start(8);
	burn(50 * MS);
	CHECK_EQ(pipe(fds), 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		close(fds[1]);
		CHECK_EQ(read(fds[0], &c, 1),
			 0); /* until the parent has asked, however long that takes */
		sleep_ns(100 * MS);
		_exit(17);
	}
	CHECK_EQ(waitpid(-1, &status, WNOHANG), 0);
	close(fds[1]);
	while ((errno = 0, wait(&status)) != pid)
		CHECK_EQ(errno, EINTR);
	CHECK_EQ(WEXITSTATUS(status), 17);
	CHECK_ERRNO(wait(&status), ECHILD);
	hogs_stop();
	CHECK_EQ(atomic_load(&chld_seen), 1);
}
