/*
 * process.c - processes of a program with many threads: atfork handlers, daemon, death signals, core dumps, tracers.
 * life.c has fork, vfork, exec and spawn themselves, clone.c has clone.
 */
#include "prog.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* --- atfork handlers ------------------------------------------------------------------------------------ */

/* Of three sets, prepare runs last set first, parent and child first set first, each once a fork and in the
 * thread that forks, while threads that fork, too, and that use the same lock are at work. */
static char order[64];
static int order_len;
static pthread_t order_owner;

static void note(char c)
{
	/* From prepare of the last set, which locks, to parent and child of the last, which unlock. */
	CHECK(pthread_equal(order_owner, pthread_self()));
	CHECK(order_len < (int)sizeof(order) - 1);
	order[order_len++] = c;
	sched_yield();
}

static void prepare_1(void)
{
	note('1');
}

static void prepare_2(void)
{
	note('2');
}

static void prepare_3(void)
{
	CHECK_EQ(pthread_mutex_lock(&lock), 0);
	order_owner = pthread_self();
	order_len = 0;
	note('3');
}

static void parent_1(void)
{
	note('a');
}

static void parent_2(void)
{
	note('b');
}

static void order_is(const char *want)
{
	order[order_len] = 0;
	if (strcmp(order, want) != 0)
		fail(__FILE__, __LINE__, "the handlers ran as %s, not %s", order, want);
	CHECK_EQ(pthread_mutex_unlock(&lock), 0);
}

static void parent_3(void)
{
	note('c');
	order_is("321abc");
}

static void child_1(void)
{
	note('x');
}

static void child_2(void)
{
	note('y');
}

static void child_3(void)
{
	note('z');
	order_is("321xyz");
}

static atomic_int order_end;

static void *order_worker(void *arg)
{
	while (!atomic_load(&order_end)) {
		CHECK_EQ(pthread_mutex_lock(&lock), 0);
		spin(1000);
		CHECK_EQ(pthread_mutex_unlock(&lock), 0);
		spin(1000);
	}
	return arg;
}

static void order_child(void *arg)
{
	(void)arg;
	lives();
}

static void *order_forker(void *arg)
{
	for (int i = 0; i < 4; i++)
		CHECK_EQ(in_child(order_child, NULL), 0);
	return arg;
}

CASE_STRESS(atfork_order)
{
	pthread_t worker[16], forker[4];

	CHECK_EQ(pthread_atfork(prepare_1, parent_1, child_1), 0);
	CHECK_EQ(pthread_atfork(prepare_2, parent_2, child_2), 0);
	CHECK_EQ(pthread_atfork(prepare_3, parent_3, child_3), 0);
	for (int i = 0; i < 16; i++)
		worker[i] = spawn(order_worker, NULL);
	for (int i = 0; i < 4; i++)
		forker[i] = spawn(order_forker, NULL);
	for (int i = 0; i < 4; i++)
		join(forker[i]);
	atomic_store(&order_end, 1);
	for (int i = 0; i < 16; i++)
		join(worker[i]);
}

/* --- daemon ----------------------------------------------------------------------------------------------------- */

static int daemon_pipe[2];

static void becomes_daemon(void *arg)
{
	pid_t before = getpid();
	char c = 'd';

	(void)arg;
	hogs_start(8);
	CHECK_EQ(daemon(1, 1), 0); /* the process that called it ends here */
	alarm(20); /* not the watchdog: that would have it die with who called daemon() */
	CHECK(getpid() != before);
	CHECK_EQ(getsid(0), getpid());
	lives();
	CHECK_EQ(write(daemon_pipe[1], &c, 1), 1);
	_exit(0);
}

/* daemon() forks inside libc; the daemon has a life of its own. */
CASE_STRESS(daemon_threads)
{
	char c;

	CHECK_EQ(pipe(daemon_pipe), 0);
	hogs_start(2);
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(in_child(becomes_daemon, NULL), 0);
		CHECK_EQ(read(daemon_pipe[0], &c, 1), 1);
		CHECK_EQ(c, 'd');
	}
	hogs_stop();
	close(daemon_pipe[1]);
	CHECK_EQ(read(daemon_pipe[0], &c, 1), 0);
}

/* --- PR_SET_PDEATHSIG -------------------------------------------------------------------------------------------- */

/* The signal comes when the thread that forked ends, not its process; and only then. */
struct death {
	int ready[2]; /* the child to its parent */
	pid_t pid;
	sem_t leave;
};

static void *death_thread(void *arg)
{
	struct death *d = arg;

	d->pid = fork();
	CHECK(d->pid >= 0);
	if (d->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGUSR1);
		signal(SIGUSR1, SIG_DFL);
		lives();
		spawn(order_worker, NULL);
		CHECK_EQ(write(d->ready[1], "r", 1), 1);
		for (;;)
			pause();
	}
	while (sem_wait(&d->leave))
		CHECK_EQ(errno, EINTR);
	return arg;
}

CASE_STRESS(death_signal)
{
	struct death d[2];
	pthread_t t[2];
	char c;

	hogs_start(4);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(pipe(d[i].ready), 0);
		CHECK_EQ(sem_init(&d[i].leave, 0, 0), 0);
		t[i] = spawn(death_thread, &d[i]);
	}
	for (int i = 0; i < 2; i++)
		CHECK_EQ(read(d[i].ready[0], &c, 1), 1);
	/* Other threads end, and the tables are built meanwhile: nothing happens to the children. */
	lives();
	hogs_stop();
	sleep_ns(20 * MS);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(waitpid(d[i].pid, NULL, WNOHANG), 0);
	CHECK_EQ(sem_post(&d[0].leave), 0);
	join(t[0]);
	CHECK_EQ(wait_child(d[0].pid), SIGUSR1);
	sleep_ns(5 * MS);
	CHECK_EQ(waitpid(d[1].pid, NULL, WNOHANG), 0);
	CHECK_EQ(sem_post(&d[1].leave), 0);
	join(t[1]);
	CHECK_EQ(wait_child(d[1].pid), SIGUSR1);
}

/* --- core dumps ------------------------------------------------------------------------------------------------ */

/* A process with busy threads dies by the same signal, and dumps core or not, as one without threads. */
static void *dies(void *arg)
{
	int sig = (int)(intptr_t)arg;
	volatile int *volatile bad = (volatile int *)(uintptr_t)16;

	switch (sig) {
	case SIGABRT:
		abort();
	case SIGSEGV:
		*bad = 0;
		break;
	case SIGFPE: {
		volatile int zero = 0;

		zero = 1000 / zero;
		break;
	}
	case SIGILL:
		__asm__ volatile("ud2");
		break;
	default:
		raise(sig);
	}
	return arg;
}

static void dies_alone(void *arg)
{
	dies(arg);
}

static void dies_in_crowd(void *arg)
{
	hogs_start(4);
	join(spawn(dies, arg));
}

CASE(core_flag)
{
	const int sigs[] = {SIGABRT, SIGSEGV, SIGFPE, SIGILL, SIGQUIT, SIGTERM, SIGBUS};
	char dir[] = "/tmp/progs-core-XXXXXX";
	char command[64];

	/* Core files, if the system makes any, go to a place of their own; short ones. */
	CHECK(mkdtemp(dir) != NULL);
	CHECK_EQ(chdir(dir), 0);
	setrlimit(RLIMIT_CORE, &(struct rlimit){65536, 65536});
	signal(SIGQUIT, SIG_DFL);
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++) {
		void *sig = (void *)(intptr_t)sigs[i];
		int alone = in_child(dies_alone, sig);

		CHECK_EQ(WTERMSIG(alone), sigs[i]);
		CHECK_EQ(in_child(dies_in_crowd, sig), alone);
	}
	CHECK_EQ(chdir("/"), 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	CHECK_EQ(system(command), 0);
}

/* --- ptrace ---------------------------------------------------------------------------------------------------- */

/* A tracer that stops all threads of a busy process again and again, and lets go of it: it works on, and ends with
 * its own status. The tracer forwards every signal, as strace does. */
static void *traced_thread(void *arg)
{
	for (int i = 0; i < 200; i++) {
		CHECK_EQ(pthread_mutex_lock(&lock), 0);
		spin(1000);
		CHECK_EQ(pthread_mutex_unlock(&lock), 0);
		if (i % 20 == 0)
			sleep_ns(MS);
	}
	return arg;
}

static int traced_ready[2], traced_stops;

static pid_t traced_start(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		pthread_t t[6];

		watchdog();
		prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
		hogs_start(2);
		for (int i = 0; i < 6; i++)
			t[i] = spawn(traced_thread, NULL);
		CHECK_EQ(write(traced_ready[1], "r", 1), 1);
		for (int i = 0; i < 6; i++)
			join(t[i]);
		burn(50 * MS);
		hogs_stop();
		_exit(33);
	}
	return pid;
}

/* The next one of the threads that stops or ends, beginning with the one at i. Threads that have ended must be waited for
 * before the first one of their process, which is told last. */
static pid_t wait_for(const int *tids, int n, int i, int *ret_status)
{
	for (;;) {
		for (int k = 0; k < n; k++) {
			pid_t got = waitpid(tids[(i + k) % n], ret_status, __WALL | WNOHANG);

			if (got > 0 || (got < 0 && k == 0))
				return got;
		}
		sleep_ns(MS / 10);
	}
}

/* Seize the threads that are there, interrupt them some times, detach. False: the process has ended. */
static bool trace_once(pid_t pid, int *ret_status)
{
	char path[64], c;
	int tids[64], n = 0, stops = 0;
	FILE *f;

	/* There are 9 or 10 threads, numbered near the first one's: no need for a directory's reading. */
	for (int tid = pid; tid < pid + 200 && n < 64; tid++) {
		snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", pid, tid);
		f = fopen(path, "r");
		if (!f)
			continue;
		c = (char)fgetc(f);
		(void)c;
		fclose(f);
		if (ptrace(PTRACE_SEIZE, tid, 0, 0) == 0)
			tids[n++] = tid;
	}
	for (int round = 0; round < 5; round++)
		for (int i = 0; i < n; i++) {
			ptrace(PTRACE_INTERRUPT, tids[i], 0, 0);
			for (;;) {
				int status;
				pid_t got = wait_for(tids, n, i, &status);

				if (got < 0)
					break;
				if (WIFEXITED(status) || WIFSIGNALED(status)) {
					if (got == pid) {
						*ret_status = status;
						return false;
					}
					if (got == tids[i])
						break;
					continue;
				}
				CHECK(WIFSTOPPED(status));
				if (got == tids[i] && status >> 16 == PTRACE_EVENT_STOP) {
					stops++;
					traced_stops++;
					if (round == 4)
						ptrace(PTRACE_DETACH, tids[i], 0, 0);
					else
						ptrace(PTRACE_CONT, tids[i], 0, 0);
					break;
				}
				ptrace(PTRACE_CONT, got, 0,
				       status >> 16 == PTRACE_EVENT_STOP ? 0 : WSTOPSIG(status));
			}
		}
	if (stops == 0) { /* too late */
		CHECK_EQ(waitpid(pid, ret_status, __WALL), pid);
		return false;
	}
	return true;
}

CASE_STRESS(traced)
{
	int status = -1;
	char c;
	pid_t pid;

	CHECK_EQ(pipe(traced_ready), 0);
	pid = traced_start();
	CHECK_EQ(read(traced_ready[0], &c, 1), 1);
	for (int i = 0; i < 3; i++)
		if (!trace_once(pid, &status))
			break;
	if (status < 0)
		status = wait_child(pid);
	CHECK(traced_stops > 0);
	CHECK_EQ(status, 33 << 8);
}
