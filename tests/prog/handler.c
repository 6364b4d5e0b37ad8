/*
 * handler.c - handlers of the program that do on top of a wait what only just works: jump and lock.
 */
#include "prog.h"

#include <setjmp.h>

/* ualarm is obsolete, and still a function the program may call. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static atomic_int count;

static void handle(int sig, void (*fn)(int), int flags)
{
	struct sigaction sa = {.sa_handler = fn, .sa_flags = flags};

	CHECK_EQ(sigaction(sig, &sa, NULL), 0);
}

/* A jump from one place in a handler to another does not disturb the wait below: nobody comes through a barrier
 * before the last one has. On the thread's own stack and on an alternate one. */
static pthread_barrier_t bar;
static atomic_int passed;

__attribute__((noinline)) static void jump(sigjmp_buf env)
{
	siglongjmp(env, 1);
}

static void jump_inside(int sig)
{
	sigjmp_buf env;

	(void)sig;
	if (sigsetjmp(env, 1) == 0)
		jump(env);
	atomic_fetch_add(&count, 1);
}

static void *bar_main(void *arg)
{
	static _Alignas(16) char alt[65536];
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};

	if (arg)
		CHECK_EQ(sigaltstack(&ss, NULL), 0);
	int r = pthread_barrier_wait(&bar);

	CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
	atomic_store(&passed, 1);
	return NULL;
}

CASE_STRESS(jump_inside_handler)
{
	hogs_start(2);
	CHECK_EQ(pthread_barrier_init(&bar, NULL, 2), 0);
	for (int i = 0; i < 6; i++) {
		pthread_t t;

		handle(SIGUSR1, jump_inside, i & 1 ? SA_ONSTACK : 0);
		atomic_store(&passed, 0);
		atomic_store(&count, 0);
		t = spawn(bar_main, i & 1 ? &bar : NULL);
		for (int k = 1; k <= 3; k++) {
			sleep_ns(5 * MS);
			CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
			AWAIT(&count, k);
		}
		sleep_ns(2 * MS);
		CHECK_EQ(atomic_load(&passed), 0);
		pthread_barrier_wait(&bar);
		join(t);
	}
	hogs_stop();
}

/* A jump out of pclose, which waits for a process: the thread is a thread as any other afterwards. (settings.py
 * looks at the figures to see that it still takes turns with the others.) */
static sigjmp_buf out;
static pthread_t out_thread;
static sem_t turn[2];

static void jump_out(int sig)
{
	(void)sig;
	if (pthread_equal(pthread_self(), out_thread))
		siglongjmp(out, 1);
	pthread_kill(out_thread, SIGALRM);
}

static void *turns(void *arg)
{
	for (int i = 0; i < 1000; i++) {
		CHECK_EQ(sem_wait(&turn[1]), 0);
		CHECK_EQ(sem_post(&turn[0]), 0);
	}
	return arg;
}

CASE_STRESS(jump_out_of_pclose)
{
	pthread_t t;

	out_thread = pthread_self();
	handle(SIGALRM, jump_out, 0);
	CHECK_EQ(sem_init(&turn[0], 0, 0), 0);
	CHECK_EQ(sem_init(&turn[1], 0, 0), 0);
	t = spawn(turns, NULL);
	for (int i = 0; i < 3; i++) {
		/* It does not end by itself, however late the alarm comes. */
		FILE *volatile f = popen("echo $$; exec sleep 100", "r");
		volatile int pid = 0;

		CHECK(f != NULL);
		CHECK_EQ(fscanf(f, "%d", (int *)&pid), 1);
		if (sigsetjmp(out, 1) == 0) {
			ualarm(20000, 0);
			pclose(f);
			fail(__FILE__, __LINE__, "pclose came back");
		}
		CHECK_EQ(kill(pid, SIGKILL), 0);
	}
	for (int i = 0; i < 1000; i++) {
		CHECK_EQ(sem_post(&turn[1]), 0);
		CHECK_EQ(sem_wait(&turn[0]), 0);
	}
	join(t);
}

/* Handlers that take a mutex others contend for, on threads that contend for another one. Nothing in POSIX
 * promises it, and with two normal mutexes it works. */
static pthread_mutex_t low = PTHREAD_MUTEX_INITIALIZER, high = PTHREAD_MUTEX_INITIALIZER;
static long low_n, high_n;
static atomic_int done;

static void lock_high(int sig)
{
	(void)sig;
	CHECK_EQ(pthread_mutex_lock(&high), 0);
	high_n++;
	spin(100);
	CHECK_EQ(pthread_mutex_unlock(&high), 0);
	atomic_fetch_add(&count, 1);
}

static void *lock_low(void *arg)
{
	while (!atomic_load(&done)) {
		CHECK_EQ(pthread_mutex_lock(&low), 0);
		low_n++;
		spin(100);
		CHECK_EQ(pthread_mutex_unlock(&low), 0);
	}
	return arg;
}

CASE_STRESS(handler_locks)
{
	pthread_t t[6];
	int sent = 0;

	handle(SIGUSR1, lock_high, SA_RESTART);
	for (int i = 0; i < 6; i++)
		t[i] = spawn(lock_low, NULL);
	for (int k = 0; k < 300; k++) {
		int before = atomic_load(&count);

		for (int i = 0; i < 6; i++, sent++)
			CHECK_EQ(pthread_kill(t[i], SIGUSR1), 0);
		AWAIT(&count, before + 6); /* two pending would be one */
	}
	atomic_store(&done, 1);
	for (int i = 0; i < 6; i++)
		join(t[i]);
	CHECK_EQ(high_n, sent);
}

/* A handler on a small alternate stack forks: the child returns from it too, and goes on. */
static volatile pid_t forked;

static void fork_in_handler(int sig)
{
	(void)sig;
	forked = fork();
}

CASE(fork_on_altstack)
{
	static _Alignas(16) char alt[32768];
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};

	hogs_start(2);
	CHECK_EQ(sigaltstack(&ss, NULL), 0);
	handle(SIGUSR1, fork_in_handler, SA_ONSTACK);
	CHECK_EQ(raise(SIGUSR1), 0);
	CHECK(forked >= 0);
	if (forked == 0)
		_exit(7);
	CHECK_EQ(wait_child(forked), 7 << 8);
	hogs_stop();
}

/* A collector of garbage stops all threads in handlers that block every signal but one, wherever they are, and lets
 * them go on. A thread that queued for a P is granted one while it sleeps there, and it can be asked for it in no way: the
 * collector must be given it all the same. */
static sem_t stopped;
static atomic_int stops, goes;

static void stop_here(int sig)
{
	int err = errno, stop = atomic_load(&stops);
	sigset_t mask;

	(void)sig;
	sigfillset(&mask);
	sigdelset(&mask, SIGUSR2);
	sem_post(&stopped);
	while (atomic_load(&goes) < stop)
		sigsuspend(&mask);
	errno = err;
}

static void go_on(int sig)
{
	(void)sig;
}

static void *stoppable(void *arg)
{
	while (!atomic_load(&done))
		spin(1000);
	return arg;
}

CASE_STRESS(stop_the_world)
{
	struct sigaction sa = {.sa_handler = stop_here, .sa_flags = SA_RESTART};
	pthread_t t[6];

	CHECK_EQ(sem_init(&stopped, 0, 0), 0);
	sigfillset(&sa.sa_mask);
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	sa.sa_handler = go_on;
	CHECK_EQ(sigaction(SIGUSR2, &sa, NULL), 0);
	for (int i = 0; i < 6; i++)
		t[i] = spawn(stoppable, NULL);
	for (int k = 0; k < 100; k++) {
		atomic_fetch_add(&stops, 1);
		for (int i = 0; i < 6; i++)
			CHECK_EQ(pthread_kill(t[i], SIGUSR1), 0);
		for (int i = 0; i < 6; i++) {
			struct timespec until = after(CLOCK_REALTIME, 20 * SEC);

			CHECK_EQ(sem_timedwait(&stopped, &until), 0);
		}
		atomic_fetch_add(&goes, 1);
		for (int i = 0; i < 6; i++)
			CHECK_EQ(pthread_kill(t[i], SIGUSR2), 0);
	}
	atomic_store(&done, 1);
	for (int i = 0; i < 6; i++)
		join(t[i]);
}
