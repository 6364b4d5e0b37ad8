/*
 * forks.c - fork and vfork in programs with threads: the child works, also with threads of its own, and the parent goes on.
 */
#include "prog.h"

#include <sys/syscall.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* What a worker of a many-threaded program does while others fork: locks, malloc, waits. */
static atomic_int work_end;
static long work_n;

static void *worker(void *arg)
{
	while (!atomic_load(&work_end)) {
		CHECK_EQ(pthread_mutex_lock(&lock), 0);
		work_n++;
		CHECK_EQ(pthread_mutex_unlock(&lock), 0);
		free(malloc(100));
		spin(100);
	}
	return arg;
}

static void child_with_threads(void *arg)
{
	(void)arg;
	lives();
}

/* fork in a many-threaded program, and threads created in the child. */
CASE_STRESS(fork_many)
{
	pthread_t t[8];

	for (int i = 0; i < 8; i++)
		t[i] = spawn(worker, NULL);
	for (int i = 0; i < 10; i++)
		CHECK_EQ(in_child(child_with_threads, NULL), 0);
	atomic_store(&work_end, 1);
	for (int i = 0; i < 8; i++)
		join(t[i]);
}

/* fork from several threads at once. */
static void *forker(void *arg)
{
	for (int i = 0; i < 5; i++)
		CHECK_EQ(in_child(child_with_threads, NULL), 0);
	return arg;
}

CASE_STRESS(fork_parallel)
{
	pthread_t t[4];

	hogs_start(2);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(forker, NULL);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	hogs_stop();
}

/* atfork handlers that take a mutex the workers fight for; it is usable on both sides. */
static atomic_int atforks;

static void fork_prepare(void)
{
	CHECK_EQ(pthread_mutex_lock(&lock), 0);
	atomic_fetch_add(&atforks, 1);
}

static void fork_release(void)
{
	CHECK_EQ(pthread_mutex_unlock(&lock), 0);
}

static void child_uses_lock(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(&lock), 0);
	CHECK_EQ(pthread_mutex_unlock(&lock), 0);
	child_with_threads(arg);
}

CASE_STRESS(fork_atfork)
{
	pthread_t t[8];

	CHECK_EQ(pthread_atfork(fork_prepare, fork_release, fork_release), 0);
	for (int i = 0; i < 8; i++)
		t[i] = spawn(worker, NULL);
	for (int i = 0; i < 10; i++)
		CHECK_EQ(in_child(child_uses_lock, NULL), 0);
	atomic_store(&work_end, 1);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&atforks), 10);
}

/* A once routine that another thread of the parent is in during the fork is run again by the child, also by its
 * threads; who comes in the parent meanwhile waits. */
static pthread_once_t half_once = PTHREAD_ONCE_INIT;
static atomic_int half_runs;
static sem_t half_go;

static void half_init(void)
{
	if (atomic_fetch_add(&half_runs, 1) == 0)
		while (sem_wait(&half_go))
			CHECK_EQ(errno, EINTR);
}

static void *half_main(void *arg)
{
	CHECK_EQ(pthread_once(&half_once, half_init), 0);
	return arg;
}

static void half_child(void *arg)
{
	pthread_t t[4];

	(void)arg;
	for (int i = 0; i < 4; i++)
		t[i] = spawn(half_main, NULL);
	half_main(NULL);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&half_runs), 2);
}

CASE_STRESS(fork_once_in_progress)
{
	pthread_t t[2];

	CHECK_EQ(sem_init(&half_go, 0, 0), 0);
	t[0] = spawn(half_main, NULL);
	AWAIT(&half_runs, 1);
	t[1] = spawn(half_main, NULL);
	for (int i = 0; i < 3; i++)
		CHECK_EQ(in_child(half_child, NULL), 0);
	CHECK_EQ(sem_post(&half_go), 0);
	join(t[0]);
	join(t[1]);
	CHECK_EQ(atomic_load(&half_runs), 1);
}

/* An atfork handler of the child may already create and join threads. */
static int fork_child_made;

static void fork_child_handler(void)
{
	watchdog();
	CHECK(join(spawn(locks_own, &fork_child_made)) == &fork_child_made);
	fork_child_made++;
}

static void fork_child_check(void *arg)
{
	CHECK_EQ(fork_child_made, 1);
	child_with_threads(arg);
}

CASE_STRESS(fork_child_threads)
{
	pthread_t t[4];

	CHECK_EQ(pthread_atfork(NULL, NULL, fork_child_handler), 0);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(worker, NULL);
	for (int i = 0; i < 10; i++)
		CHECK_EQ(in_child(fork_child_check, NULL), 0);
	CHECK_EQ(fork_child_made, 0);
	atomic_store(&work_end, 1);
	for (int i = 0; i < 4; i++)
		join(t[i]);
}

/* A handler forks in a thread that is in read: both processes return from it, and read on or see
 * EINTR, as SA_RESTART has it. */
static int fork_pipe[2];
static atomic_int fork_reading, fork_pid;

static void fork_handler(int sig)
{
	int e = errno;
	pid_t pid = fork();

	(void)sig;
	CHECK(pid >= 0);
	if (pid == 0)
		watchdog();
	atomic_store(&fork_pid, pid);
	errno = e;
}

static void *fork_reader(void *arg)
{
	bool restart = arg != NULL;
	char c = 0;
	ssize_t r;

	atomic_store(&fork_reading, 1);
	while ((r = read(fork_pipe[0], &c, 1)) < 0) {
		CHECK_EQ(errno, EINTR);
		CHECK(!restart);
	}
	CHECK_EQ(r, 1);
	CHECK_EQ(c, 'x');
	if (atomic_load(&fork_pid) == 0) {
		child_with_threads(NULL);
		_exit(23);
	}
	/* Here, as the child's watchdog kills it when the thread that forked it ends. */
	CHECK_EQ(wait_child(atomic_load(&fork_pid)), 23 << 8);
	return arg;
}

CASE_STRESS(fork_in_handler)
{
	struct sigaction sa = {.sa_handler = fork_handler};

	hogs_start(2);
	for (intptr_t i = 0; i < 20; i++) {
		pthread_t t;

		sa.sa_flags = i & 1 ? SA_RESTART : 0;
		CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
		CHECK_EQ(pipe(fork_pipe), 0);
		atomic_store(&fork_reading, 0);
		atomic_store(&fork_pid, -1);
		t = spawn(fork_reader, (void *)(i & 1));
		AWAIT(&fork_reading, 1);
		sleep_ns(MS);
		CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
		while (atomic_load(&fork_pid) < 0)
			sleep_ns(100000);
		CHECK_EQ(write(fork_pipe[1], "xx", 2), 2); /* one for each */
		CHECK(join(t) == (void *)(i & 1));
		CHECK_EQ(close(fork_pipe[0]), 0);
		CHECK_EQ(close(fork_pipe[1]), 0);
	}
	hogs_stop();
}

/* A child of a child, each with threads. */
static void grandchild(void *arg)
{
	intptr_t depth = (intptr_t)arg;

	child_with_threads(NULL);
	hogs_start(2);
	if (depth)
		CHECK_EQ(in_child(grandchild, (void *)(depth - 1)), 0);
	hogs_stop();
}

CASE_STRESS(fork_nested)
{
	grandchild((void *)3);
}

/* vfork and exec in threads under load. */
static void *vforker(void *arg)
{
	for (int i = 0; i < 5; i++) {
		pid_t pid = vfork();

		CHECK(pid >= 0);
		if (pid == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		CHECK_EQ(wait_child(pid), 0);
		pid = vfork();
		CHECK(pid >= 0);
		if (pid == 0)
			_exit(9);
		CHECK_EQ(wait_child(pid), 9 << 8);
	}
	return arg;
}

CASE_STRESS(vfork_exec)
{
	pthread_t t[4];

	hogs_start(4);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(vforker, NULL);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	hogs_stop();
}

/* A vfork child resets its signals (as Python's subprocess does): the parent's handler, mask and
 * alternate stack stay, though the two share their memory. */
static volatile sig_atomic_t vfork_signals_seen;

static void vfork_signals_handler(int sig)
{
	(void)sig;
	vfork_signals_seen++;
}

CASE(vfork_signals)
{
	sigset_t all, old, now;
	pid_t pid;

	CHECK(signal(SIGUSR1, vfork_signals_handler) != SIG_ERR);
	hogs_start(1);
	sigfillset(&all);
	for (int i = 0; i < 5; i++) {
		CHECK_EQ(pthread_sigmask(SIG_BLOCK, &all, &old), 0);
		pid = vfork();
		CHECK(pid >= 0);
		if (pid == 0) {
			signal(SIGUSR1, SIG_DFL);
			signal(SIGURG, SIG_DFL);
			pthread_sigmask(SIG_SETMASK, &old, NULL);
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &now), 0);
		CHECK(sigismember(&now, SIGUSR1) && sigismember(&now, SIGURG));
		CHECK_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
		CHECK_EQ(wait_child(pid), 0);
		CHECK_EQ(raise(SIGUSR1), 0);
		CHECK_EQ(vfork_signals_seen, i + 1);
	}
	hogs_stop();
}
