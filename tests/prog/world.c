/*
 * world.c - preempt.h: the world stops and goes on, whatever its threads do.
 *
 * progs is linked without the library, so the functions are weak: without it the cases that need them say no more than that
 * such a program runs. Under the library they must be there.
 */
#include "prog.h"

#include <sys/syscall.h>
#include <sys/time.h>

#include "preempt.h"

static bool alone(void)
{
	const char *s = getenv("LD_PRELOAD");

	if (s && strstr(s, "libpreempt"))
		CHECK(preempt_stop_the_world && preempt_start_the_world && preempt_yield &&
		      preempt_version);
	return !preempt_stop_the_world;
}

enum { WORKERS = 12 };

static struct {
	_Alignas(64) atomic_long n;
} work[WORKERS];
static atomic_int ending;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t sem;
static int pipes[2];

static void did(int i)
{
	atomic_fetch_add_explicit(&work[i].n, 1, memory_order_relaxed);
}

/* All ways of running and waiting, one for each worker. */
static void *worker(void *arg)
{
	int i = (int)(intptr_t)arg;
	struct timespec ts = {.tv_nsec = 200000};
	char c = 0;

	while (!atomic_load_explicit(&ending, memory_order_relaxed)) {
		switch (i % 6) {
		case 0:
			break;
		case 1:
			CHECK_EQ(pthread_mutex_lock(&mutex), 0);
			did(i);
			CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
			break;
		case 2:
			CHECK_EQ(nanosleep(&ts, NULL), 0);
			break;
		case 3:
			CHECK_EQ(write(pipes[1], &c, 1), 1);
			did(i);
			CHECK_EQ(read(pipes[0], &c, 1), 1);
			break;
		case 4:
			ts = after(CLOCK_REALTIME, 300000);
			CHECK_EQ(pthread_mutex_lock(&mutex), 0);
			pthread_cond_timedwait(&cond, &mutex, &ts);
			CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
			break;
		default:
			CHECK_EQ(sem_post(&sem), 0);
			did(i);
			while (sem_wait(&sem) != 0)
				CHECK_EQ(errno, EINTR);
			sched_yield();
			break;
		}
		did(i);
	}
	return NULL;
}

static pthread_t threads[WORKERS];

static void workers_start(void)
{
	atomic_store(&ending, 0);
	CHECK_EQ(pipe(pipes), 0);
	CHECK_EQ(sem_init(&sem, 0, 0), 0);
	for (int i = 0; i < WORKERS; i++)
		threads[i] = spawn(worker, (void *)(intptr_t)i);
}

static void workers_stop(void)
{
	atomic_store(&ending, 1);
	for (int i = 0; i < WORKERS; i++)
		join(threads[i]);
}

/* Is the world as still as it is said to be? */
static void stands_still(void)
{
	struct timespec ts = {.tv_nsec = 2000000};
	long was[WORKERS];

	for (int i = 0; i < WORKERS; i++)
		was[i] = atomic_load(&work[i].n);
	nanosleep(&ts, NULL);
	for (int i = 0; i < WORKERS; i++)
		if (atomic_load(&work[i].n) != was[i])
			fail(__FILE__, __LINE__, "worker %d did %ld more", i,
			     atomic_load(&work[i].n) - was[i]);
}

static bool moves(int i)
{
	long was = atomic_load(&work[i].n);
	long long end = now(CLOCK_MONOTONIC) + 20 * SEC;

	while (atomic_load(&work[i].n) == was)
		if (now(CLOCK_MONOTONIC) > end)
			return false;
	return true;
}

static void stop(void)
{
	struct preempt_stopped s;
	int r = preempt_stop_the_world(20 * SEC, &s);

	if (r)
		fail(__FILE__, __LINE__, "%d after %lld us: %u stand still, %u do not (%d, %d)", r,
		     s.ns / 1000, s.threads, s.stragglers, s.straggler[0], s.straggler[1]);
	CHECK(s.ns > 0 && s.threads > 0);
}

static void start(void)
{
	CHECK_EQ(preempt_start_the_world(), 0);
}

CASE_STRESS(world_stops)
{
	if (alone())
		return;
	workers_start();
	for (int i = 0; i < 40; i++) {
		sleep_ns(1000000);
		stop();
		stands_still();
		start();
	}
	for (int i = 0; i < WORKERS; i++)
		CHECK(moves(i));
	workers_stop();
}

/* One after the other, from threads with and without something else to do. */
static atomic_int inside, stops;

static void *stopper(void *arg)
{
	for (int i = 0; i < 15; i++) {
		stop();
		CHECK_EQ(atomic_fetch_add(&inside, 1), 0);
		CHECK_EQ(preempt_stop_the_world(SEC, NULL), EDEADLK);
		stands_still();
		CHECK_EQ(atomic_fetch_sub(&inside, 1), 1);
		start();
		atomic_fetch_add(&stops, 1);
		CHECK_EQ(preempt_start_the_world(), EPERM);
	}
	return arg;
}

CASE_STRESS(world_stoppers)
{
	pthread_t t[3];

	if (alone())
		return;
	workers_start();
	for (int i = 0; i < 3; i++)
		t[i] = spawn(stopper, NULL);
	for (int i = 0; i < 3; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&stops), 45);
	workers_stop();
}

/* Before there is a second thread, and after the last one is gone. */
CASE(world_alone)
{
	struct preempt_stopped s;

	if (alone())
		return;
	CHECK_EQ(preempt_start_the_world(), EPERM);
	CHECK_EQ(preempt_stop_the_world(SEC, &s), 0);
	CHECK_EQ(s.threads, 0);
	CHECK_EQ(preempt_start_the_world(), 0);
	CHECK_EQ(preempt_stop_the_world(SEC, NULL), 0);
	lives();
	CHECK_EQ(preempt_start_the_world(), 0);
	stop();
	start();
	lives();
}

/* Who has no time is refused at once or gets what it wants, and nothing is left behind of either. */
CASE_STRESS(world_timeout)
{
	if (alone())
		return;
	workers_start();
	for (int i = 0; i < 200; i++) {
		int r = preempt_stop_the_world(i * 5000, NULL);

		if (r == 0)
			start();
		else
			CHECK_EQ(r, ETIMEDOUT);
		CHECK_EQ(preempt_start_the_world(), EPERM);
	}
	for (int i = 0; i < WORKERS; i++)
		CHECK(moves(i));
	workers_stop();
}

/* The owner forks, and the child is a process like any other. */
static void child_lives(void *arg)
{
	(void)arg;
	CHECK_EQ(preempt_start_the_world(), EPERM);
	lives();
	stop();
	start();
}

CASE_STRESS(world_fork)
{
	if (alone())
		return;
	workers_start();
	for (int i = 0; i < 5; i++) {
		int status;

		stop();
		status = in_child(child_lives, NULL);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		stands_still();
		start();
	}
	workers_stop();
}

/* Other threads fork, and the world stops in the middle of it. */
static void *forker(void *arg)
{
	while (!atomic_load(&ending)) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid == 0)
			_exit(3);
		CHECK_EQ(WEXITSTATUS(wait_child(pid)), 3);
	}
	return arg;
}

CASE_STRESS(world_forkers)
{
	pthread_t t[2];

	if (alone())
		return;
	workers_start();
	for (int i = 0; i < 2; i++)
		t[i] = spawn(forker, NULL);
	for (int i = 0; i < 20; i++) {
		sleep_ns(500000);
		stop();
		stands_still();
		start();
	}
	workers_stop();
	for (int i = 0; i < 2; i++)
		join(t[i]);
}

/* The owner ends without a word: the world goes on. */
static void *leaves(void *arg)
{
	stop();
	stands_still();
	if (arg)
		syscall(SYS_exit, 0);
	pthread_exit(NULL);
}

CASE_STRESS(world_owner_ends)
{
	if (alone())
		return;
	workers_start();
	for (int i = 0; i < 4; i++) {
		join(spawn(leaves, (void *)(intptr_t)(i & 1)));
		CHECK(moves(0));
		CHECK(moves(3));
	}
	workers_stop();
}

/* exit, _exit and exec with a world that stands still. */
static void ends_stopped(void *how)
{
	workers_start();
	stop();
	switch ((intptr_t)how) {
	case 0:
		exit(5);
	case 1:
		_exit(5);
	case 2:
		execl("/bin/sh", "sh", "-c", "exit 5", (char *)NULL);
		fail(__FILE__, __LINE__, "exec");
	default:
		raise(SIGKILL);
	}
}

CASE_STRESS(world_exit)
{
	if (alone())
		return;
	for (intptr_t how = 0; how < 4; how++) {
		int status = in_child(ends_stopped, (void *)how);

		if (how == 3)
			CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		else
			CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
	}
}

/* Handlers on threads that stand still run when the world goes on; the owner's own at once. */
static _Thread_local bool is_owner;
static atomic_int stopped, handled, handled_by_owner, too_early;

static void on_signal(int sig)
{
	(void)sig;
	if (is_owner) {
		atomic_fetch_add(&handled_by_owner, 1);
	} else {
		if (atomic_load(&stopped))
			atomic_fetch_add(&too_early, 1);
		atomic_fetch_add(&handled, 1);
	}
}

static void *waits(void *arg)
{
	struct timespec ts;

	while (!atomic_load(&ending)) {
		ts = after(CLOCK_REALTIME, 5 * MS);
		if (arg)
			sem_timedwait(&sem, &ts);
		else
			nanosleep(&(struct timespec){.tv_nsec = 5 * MS}, NULL);
	}
	return NULL;
}

CASE_STRESS(world_handlers)
{
	struct sigaction sa = {.sa_handler = on_signal};
	struct itimerval it = {.it_interval.tv_usec = 500, .it_value.tv_usec = 500};
	pthread_t t[3];

	if (alone())
		return;
	CHECK_EQ(sem_init(&sem, 0, 0), 0);
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	CHECK_EQ(sigaction(SIGALRM, &sa, NULL), 0);
	is_owner = true;
	t[0] = spawn(waits, NULL);
	t[1] = spawn(waits, t);
	hogs_start(2);
	CHECK_EQ(setitimer(ITIMER_REAL, &it, NULL), 0);
	for (int i = 0; i < 20; i++) {
		int was, own;

		stop();
		atomic_store(&stopped, 1);
		was = atomic_load(&handled);
		own = atomic_load(&handled_by_owner);
		CHECK_EQ(pthread_kill(t[0], SIGUSR1), 0);
		CHECK_EQ(pthread_kill(t[1], SIGUSR1), 0);
		CHECK_EQ(raise(SIGUSR1), 0);
		CHECK(atomic_load(&handled_by_owner) > own);
		nanosleep(&(struct timespec){.tv_nsec = 2 * MS}, NULL);
		CHECK_EQ(atomic_load(&too_early), 0);
		CHECK_EQ(atomic_load(&handled), was);
		atomic_store(&stopped, 0);
		start();
		for (int k = 0; atomic_load(&handled) < was + 2; k++) {
			CHECK(k < 20000);
			nanosleep(&(struct timespec){.tv_nsec = MS}, NULL);
		}
	}
	it = (struct itimerval){0};
	CHECK_EQ(setitimer(ITIMER_REAL, &it, NULL), 0);
	atomic_store(&ending, 1);
	hogs_stop();
	join(t[0]);
	join(t[1]);
}

/* Threads that come and go while the world stops and goes on. */
static void *nothing(void *arg)
{
	return arg;
}

static void *comes_and_goes(void *arg)
{
	while (!atomic_load(&ending))
		join(spawn_small(nothing, NULL));
	return arg;
}

CASE_STRESS(world_births)
{
	pthread_t t[3];

	if (alone())
		return;
	workers_start();
	for (int i = 0; i < 3; i++)
		t[i] = spawn(comes_and_goes, NULL);
	for (int i = 0; i < 40; i++) {
		stop();
		stands_still();
		start();
	}
	workers_stop();
	for (int i = 0; i < 3; i++)
		join(t[i]);
}

/* The owner's own calls pass through: it locks, waits and makes threads, and keeps what it had locked before. */
static atomic_int born;

static void *is_born(void *arg)
{
	atomic_store(&born, 1);
	return arg;
}

CASE_STRESS(world_owner_calls)
{
	pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER, before = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;

	if (alone())
		return;
	workers_start();
	for (int i = 0; i < 10; i++) {
		struct timespec ts;
		pthread_t t;

		CHECK_EQ(pthread_mutex_lock(&before), 0);
		stop();
		CHECK_EQ(pthread_mutex_lock(&own), 0);
		ts = after(CLOCK_REALTIME, MS);
		CHECK_EQ(pthread_cond_timedwait(&c, &own, &ts), ETIMEDOUT);
		CHECK_EQ(pthread_mutex_unlock(&own), 0);
		CHECK_EQ(pthread_mutex_unlock(&before), 0);
		sched_yield();
		preempt_yield();
		atomic_store(&born, 0);
		t = spawn_small(is_born, NULL);
		stands_still();
		CHECK_EQ(atomic_load(&born), 0);
		start();
		join(t);
		CHECK_EQ(atomic_load(&born), 1);
	}
	workers_stop();
}

/* --- the other functions ------------------------------------------------------------------------ */

static atomic_int home_made;
static long guarded;

static void *locks(void *arg)
{
	int rounds = (int)(intptr_t)arg;

	for (int i = 0; i < rounds; i++) {
		int zero = 0;

		preempt_lock_begin(&home_made);
		while (!atomic_compare_exchange_weak(&home_made, &zero, 1)) {
			preempt_lock_wait(&home_made);
			zero = 0;
		}
		guarded++;
		if (i % 64 == 0)
			spin(1000);
		atomic_store(&home_made, 0);
		preempt_lock_end(&home_made);
	}
	return NULL;
}

CASE_STRESS(world_lock_hints)
{
	pthread_t t[8];

	if (alone())
		return;
	for (int i = 0; i < 8; i++)
		t[i] = spawn(locks, (void *)(intptr_t)5000);
	for (int i = 0; i < 8; i++)
		join(t[i]);
	CHECK_EQ(guarded, 8 * 5000);
}

/* Nested, unbalanced, in threads that others want to stop: nobody is kept from running for ever. */
static void *disables(void *arg)
{
	for (int i = 0; i < 200; i++) {
		preempt_disable();
		preempt_disable();
		spin(5000);
		preempt_enable();
		sched_yield();
		preempt_enable();
		preempt_enable();
	}
	preempt_disable(); /* and ends so */
	return arg;
}

CASE_STRESS(world_disable)
{
	pthread_t t[4];

	if (alone())
		return;
	errno = 77;
	preempt_enable();
	preempt_disable();
	preempt_enable();
	preempt_yield();
	preempt_lock_end(&guarded);
	CHECK_EQ(errno, 77);
	CHECK(strlen(preempt_version()) >= 3);
	CHECK_EQ(preempt_set_weight(-1), EINVAL);
	CHECK_EQ(preempt_set_weight(10001), EINVAL);
	CHECK_EQ(preempt_set_weight(10000), 0);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(disables, NULL);
	CHECK_EQ(preempt_set_weight(0), 0);
	for (int i = 0; i < 5; i++) {
		stop();
		start();
	}
	for (int i = 0; i < 4; i++)
		join(t[i]);
}

/*
 * For settings.py, with one P and no forced parks: nobody else runs while preemption is disabled, and others do
 * as soon as it is enabled.
 */
HELPER(world_disabled)
{
	long was;

	CHECK(preempt_disable);
	hogs_start(2);
	while (!hogs_work(0) || !hogs_work(1))
		sched_yield();
	sched_yield();
	preempt_disable();
	was = hogs_work(0) + hogs_work(1);
	burn(100 * MS);
	CHECK_EQ(hogs_work(0) + hogs_work(1), was);
	preempt_enable();
	burn(20 * MS);
	CHECK(hogs_work(0) + hogs_work(1) > was);
	hogs_stop();
}
