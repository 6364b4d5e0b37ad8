/*
 * clone.c - clone, of all kinds that a program may call itself. The C library promises little in such children, but what
 * works without the shim works with it.
 */
#include "prog.h"

#include <linux/sched.h>
#include <sys/syscall.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define STACK (256 * 1024)

static char *clone_stack(void)
{
	char *stack = malloc(STACK);

	CHECK(stack != NULL);
	return stack + STACK;
}

static void clone_gone(char *top)
{
	free(top - STACK);
}

static int cloned_copy(void *arg)
{
	CHECK_EQ(*(int *)arg, 5);
	*(int *)arg = 6;
	watchdog();
	lives();
	return 7;
}

/* clone without CLONE_VM is a fork without atfork handlers: the child may do all that a fork's may. */
static void *clone_copies(void *arg)
{
	char *top = clone_stack();

	for (int i = 0; i < 5; i++) {
		int number = 5;
		pid_t pid = clone(cloned_copy, top, SIGCHLD, &number);

		CHECK(pid > 0);
		CHECK_EQ(wait_child(pid), 7 << 8);
		CHECK_EQ(number, 5);
	}
	clone_gone(top);
	return arg;
}

/* Without atfork handlers nobody takes libc's locks for the child: no thread may be about to start or to end, where
 * libc holds some, while another one clones. */
static void *(*in_4_fn)(void *);
static pthread_barrier_t in_4_gate;

static void *in_4_main(void *arg)
{
	void *r;

	pthread_barrier_wait(&in_4_gate);
	r = in_4_fn(arg);
	pthread_barrier_wait(&in_4_gate);
	return r;
}

static void in_4_threads(void *(*fn)(void *))
{
	pthread_t t[4];

	in_4_fn = fn;
	CHECK_EQ(pthread_barrier_init(&in_4_gate, NULL, 4), 0);
	hogs_start(4);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(in_4_main, NULL);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	hogs_stop();
	CHECK_EQ(pthread_barrier_destroy(&in_4_gate), 0);
	lives();
}

CASE_STRESS(clone_copy)
{
	in_4_threads(clone_copies);
}

/* The same by syscall(2), on the caller's stack: clone and clone3. */
static void *clone_by_number(void *arg)
{
	for (int i = 0; i < 6; i++) {
		struct clone_args args = {.exit_signal = SIGCHLD};
		long pid;

		if (i & 1)
			pid = syscall(SYS_clone3, &args, sizeof(args));
		else
			pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0L);
		if (pid < 0 && errno == ENOSYS)
			continue; /* a sandbox without clone3 */
		CHECK(pid >= 0);
		if (pid == 0) {
			watchdog();
			lives();
			_exit(8);
		}
		CHECK_EQ(wait_child((pid_t)pid), 8 << 8);
	}
	return arg;
}

CASE_STRESS(clone_syscall)
{
	in_4_threads(clone_by_number);
}

/* With CLONE_VM and CLONE_VFORK it is vfork with a stack of its own. The child waits before exec. */
static int cloned_vfork(void *arg)
{
	struct timespec ts = {.tv_nsec = 100000};

	*(int *)arg += 1;
	nanosleep(&ts, NULL);
	if (*(int *)arg == 3)
		return 9;
	execl("/bin/true", "true", (char *)NULL);
	return 127;
}

static void *clone_vforks(void *arg)
{
	char *top = clone_stack();

	for (int i = 0; i < 4; i++) {
		int number = i;
		pid_t pid = clone(cloned_vfork, top, CLONE_VM | CLONE_VFORK | SIGCHLD, &number);

		CHECK(pid > 0);
		CHECK_EQ(number, i + 1);
		CHECK_EQ(wait_child(pid), i == 2 ? 9 << 8 : 0);
		CHECK_EQ(pthread_mutex_lock(&lock), 0);
		CHECK_EQ(pthread_mutex_unlock(&lock), 0);
	}
	clone_gone(top);
	return arg;
}

CASE_STRESS(clone_vfork)
{
	in_4_threads(clone_vforks);
}

/* With CLONE_VM alone, two processes run in one memory and with one thread pointer. Both wait and yield at the same time;
 * what one does must not make the other's P, or the whole program, stop. */
struct shared {
	atomic_int turns;
	char *top;
};

static int cloned_shared(void *arg)
{
	struct shared *s = arg;
	struct timespec ts = {.tv_nsec = 50000};

	for (int i = 0; i < 100; i++) {
		atomic_fetch_add(&s->turns, 1);
		nanosleep(&ts, NULL);
		sched_yield();
		spin(1000);
	}
	return 11;
}

static void *clone_shares(void *arg)
{
	struct shared s = {.top = clone_stack()};
	pid_t pid = clone(cloned_shared, s.top, CLONE_VM | SIGCHLD, &s);

	CHECK(pid > 0);
	for (int i = 0; i < 100; i++) {
		sleep_ns(50000);
		sched_yield();
		CHECK_EQ(pthread_mutex_lock(&lock), 0);
		spin(1000);
		CHECK_EQ(pthread_mutex_unlock(&lock), 0);
	}
	CHECK_EQ(wait_child(pid), 11 << 8);
	CHECK_EQ(atomic_load(&s.turns), 100);
	clone_gone(s.top);
	return arg;
}

CASE_STRESS(clone_shared)
{
	in_4_threads(clone_shares);
}

/* The system call exit ends one thread, and with the last one the process. */
static void *last_thread(void *arg)
{
	hogs_start(2);
	lives();
	hogs_stop();
	if (arg)
		syscall(SYS_exit, 12);
	return arg;
}

static void exits_by_number(void *arg)
{
	if (arg) { /* the first thread goes before the last */
		CHECK_EQ(pthread_detach(spawn(last_thread, arg)), 0);
		syscall(SYS_exit, 13);
	}
	join(spawn(last_thread, NULL));
	syscall(SYS_exit, 13);
}

CASE_STRESS(exit_syscall)
{
	for (int i = 0; i < 3; i++) {
		int status = in_child(exits_by_number, (void *)1);

		/* The last one's on newer kernels, else the first one's. */
		CHECK(status == 12 << 8 || status == 13 << 8);
		CHECK_EQ(in_child(exits_by_number, NULL), 13 << 8);
	}
}
