/*
 * yields.c - a thread that makes nothing but short calls of one kind makes room for others.
 *
 * For settings.py, with one P and no forced parks: signals find such a thread in the kernel, in libc or in the library nearly always. So
 * interposed calls must be cooperative safe points, and there must be tables of the others' code.
 */
#include "prog.h"

#include <semaphore.h>
#include <sys/stat.h>
#include <sys/time.h>

enum { TURNS = 50 }; /* that another thread gets during each kind of call */

static atomic_long turns_had;
static atomic_int end_turns;

/* Always wants to run, and never for long. */
static void *takes_turns(void *arg)
{
	while (!atomic_load(&end_turns)) {
		atomic_fetch_add(&turns_had, 1);
		sched_yield();
	}
	return arg;
}

static void each_yields(void (*const calls[])(void), size_t n)
{
	pthread_t t = spawn(takes_turns, NULL);

	for (size_t i = 0; i < n; i++) {
		time_t end = time(NULL) + 10;

		for (int turns = 0; turns < TURNS; turns++) {
			long was = atomic_load(&turns_had);

			while (atomic_load(&turns_had) == was) {
				for (int k = 0; k < 10000; k++)
					calls[i]();
				if (time(NULL) > end)
					fail(__FILE__, __LINE__, "call %zu goes on", i);
			}
		}
	}
	atomic_store(&end_turns, 1);
	join(t);
}

/* --- handlers, masks and stacks for signals ------------------------------------------------------------ */

static void sets_handler(void)
{
	CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
}

static void asks_for_handler(void)
{
	struct sigaction sa;

	CHECK_EQ(sigaction(SIGUSR1, NULL, &sa), 0);
}

static void sets_mask(void)
{
	sigset_t set;

	sigemptyset(&set);
	CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
}

static void sets_thread_mask(void)
{
	sigset_t set;

	sigemptyset(&set);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
}

static void asks_for_stack(void)
{
	stack_t stack;

	CHECK_EQ(sigaltstack(NULL, &stack), 0);
}

HELPER(signal_calls_yield)
{
	static void (*const calls[])(void) = {sets_handler, asks_for_handler, sets_mask,
					      sets_thread_mask, asks_for_stack};

	each_yields(calls, ARRAY_SIZE(calls));
}

/* --- calls that wake others ------------------------------------------------------------------------------ */

static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t sem;

static void signals(void)
{
	CHECK_EQ(pthread_cond_signal(&cond), 0);
}

static void broadcasts(void)
{
	CHECK_EQ(pthread_cond_broadcast(&cond), 0);
}

static void posts(void)
{
	CHECK_EQ(sem_post(&sem), 0);
	CHECK_EQ(sem_trywait(&sem), 0);
}

HELPER(wake_calls_yield)
{
	static void (*const calls[])(void) = {signals, broadcasts, posts};

	CHECK_EQ(sem_init(&sem, 0, 0), 0);
	each_yields(calls, ARRAY_SIZE(calls));
}

/* --- calls that the library does not see ---------------------------------------------------------------- */

static void asks_monotonic(void)
{
	struct timespec ts;

	CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &ts), 0);
}

static void asks_realtime(void)
{
	struct timeval tv;

	CHECK_EQ(gettimeofday(&tv, NULL), 0);
}

static void asks_coarse(void)
{
	struct timespec ts;

	CHECK_EQ(clock_gettime(CLOCK_REALTIME_COARSE, &ts), 0);
}

static void asks_time(void)
{
	CHECK(time(NULL) > 0);
}

/* These two are critical where libc's symbols are installed, were it for critical.c's rule 4 alone. */
static void seeks(void)
{
	CHECK_EQ(lseek(-1, 0, SEEK_CUR), -1);
}

static void asks_file(void)
{
	struct stat st;

	CHECK_EQ(stat("/", &st), 0);
}

HELPER(short_calls_yield)
{
	static void (*const calls[])(void) = {asks_monotonic, asks_realtime, asks_coarse,
					      asks_time,      seeks,	     asks_file};

	each_yields(calls, ARRAY_SIZE(calls));
}
