/*
 * sites.c - threads that wait by instructions of their own: PAUSE in a loop, and `syscall` that is no call of libc.
 *
 * With safe-point tables the library rewrites those while the cases run; what they do stays the same. tables.py runs them
 * so, and looks at what it did. PROGS_SITES=MS makes the cases last longer than a moment.
 */
#include "prog.h"

#include <linux/futex.h>
#include <sys/syscall.h>

static long long lasting(void)
{
	const char *s = getenv("PROGS_SITES");

	return (s ? atoi(s) : 60) * MS;
}

static void pause_(void)
{
	__asm__ volatile("pause" ::: "memory");
}

/* Not inlined: one place for all of them, so the number is not constant. */
#if __has_attribute(noipa)
#define NOT_CLONED __attribute__((noipa))
#else
#define NOT_CLONED __attribute__((noinline))
#endif
extern const volatile unsigned char raw_site[];
NOT_CLONED static long raw(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long r;

	__asm__ volatile("raw_site: syscall"
			 : "=a"(r)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return r;
}

/* The same. Without safe-point tables the library's signal may interrupt such a call; once it is rewritten, never. */
static long calm(long nr, long a, long b, long c, long d)
{
	for (;;) {
		bool seen = raw_site[0] != 0x0f;
		long r = raw(nr, a, b, c, d);

		if (r != -EINTR || seen)
			return r;
	}
}

/* --- a barrier that spins ------------------------------------------------------------------------------- */

enum { TEAM = 16 };

static struct {
	atomic_int arrived, round;
	atomic_bool last;
	long long end;
	atomic_long sum;
} bar;

static void *member(void *arg)
{
	bool last = false;

	for (int i = 0; !last; i++) {
		int round = atomic_load(&bar.round);

		spin(500);
		atomic_fetch_add(&bar.sum, 1);
		if (atomic_fetch_add(&bar.arrived, 1) == TEAM - 1) {
			CHECK_EQ(atomic_load(&bar.sum),
				 (long)TEAM * (i + 1)); /* nobody is a round ahead or behind */
			atomic_store(&bar.arrived, 0);
			atomic_store(&bar.last, now(CLOCK_MONOTONIC) > bar.end);
			atomic_store(&bar.round, round + 1);
		} else {
			while (atomic_load(&bar.round) == round)
				pause_();
		}
		last = atomic_load(&bar.last);
	}
	return arg;
}

CASE_STRESS(sites_barrier)
{
	pthread_t t[TEAM];

	bar.end = now(CLOCK_MONOTONIC) + lasting();
	for (int i = 0; i < TEAM; i++)
		t[i] = spawn(member, NULL);
	for (int i = 0; i < TEAM; i++)
		join(t[i]);
}

/* --- waits in the kernel ---------------------------------------------------------------------------------- */

static _Atomic(int) word;
static atomic_bool futex_end;
static atomic_long futex_rounds, futex_interrupted;

static void *ping_pong(void *arg)
{
	int mine = arg != NULL;
	const struct timespec second = {1, 0};

	while (!atomic_load(&futex_end)) {
		int value = atomic_load(&word);

		if (value % 2 == mine) {
			atomic_store(&word, value + 1);
			raw(SYS_futex, (long)&word, FUTEX_WAKE_PRIVATE, 1, 0);
			atomic_fetch_add(&futex_rounds, 1);
		} else {
			long r = raw(SYS_futex, (long)&word, FUTEX_WAIT_PRIVATE, value,
				     (long)&second);

			CHECK(r == 0 || r == -EAGAIN || r == -ETIMEDOUT || r == -EINTR);
			if (r == -EINTR)
				atomic_fetch_add(&futex_interrupted, 1);
		}
	}
	return NULL;
}

CASE_STRESS(sites_futex)
{
	long long end = now(CLOCK_MONOTONIC) + lasting();
	pthread_t t[2];

	hogs_start(6);
	for (int i = 0; i < 2; i++)
		t[i] = spawn(ping_pong, i ? &word : NULL);
	while (now(CLOCK_MONOTONIC) < end || atomic_load(&futex_rounds) < 20) {
		long round = atomic_load(&futex_rounds), interrupted;

		sleep_ns(MS);
		if (raw_site[0] == 0x0f || atomic_load(&futex_rounds) < round + 4)
			continue; /* the library does not see these calls, or a wait from before goes on */
		interrupted = atomic_load(&futex_interrupted);
		sleep_ns(10 * MS);
		CHECK_EQ(atomic_load(&futex_interrupted), interrupted);
	}
	atomic_store(&futex_end, true);
	/* Who has not seen the end yet does not wait for this value. */
	atomic_fetch_add(&word, 2);
	raw(SYS_futex, (long)&word, FUTEX_WAKE_PRIVATE, 2, 0);
	join(t[0]);
	join(t[1]);
	hogs_stop();
}

/* Results, errors and times of calls that are instructions of the program; and those that come back twice or never. */
CASE_STRESS(sites_calls)
{
	const struct timespec ms = {0, MS};
	long long end = now(CLOCK_MONOTONIC) + lasting();
	int p[2];

	CHECK_EQ(pipe(p), 0);
	hogs_start(6);
	do {
		long long before = now(CLOCK_MONOTONIC);
		char c = 0;
		long pid;
		int status = 0;

		CHECK_EQ(calm(SYS_nanosleep, (long)&ms, 0, 0, 0), 0);
		CHECK(now(CLOCK_MONOTONIC) - before >= MS);
		errno = 77;
		CHECK_EQ(raw(SYS_write, p[1], (long)"x", 1, 0), 1);
		CHECK_EQ(raw(SYS_read, p[0], (long)&c, 1, 0), 1);
		CHECK_EQ(c, 'x');
		CHECK_EQ(raw(SYS_read, -1, (long)&c, 1, 0), -EBADF);
		CHECK_EQ(raw(SYS_sched_yield, 0, 0, 0, 0), 0);
		CHECK_EQ(raw(SYS_getppid, 0, 0, 0, 0), getppid());
		CHECK_EQ(raw(100000, 0, 0, 0, 0), -ENOSYS);
		CHECK_EQ(errno, 77);
		pid = raw(SYS_fork, 0, 0, 0, 0);
		if (pid == 0)
			raw(SYS_exit_group, 7, 0, 0, 0);
		CHECK(pid > 0);
		CHECK_EQ(calm(SYS_wait4, pid, (long)&status, 0, 0), pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	} while (now(CLOCK_MONOTONIC) < end);
	hogs_stop();
}

/* --- leaving a wait ------------------------------------------------------------------------------------------ */

static atomic_int waiting, cleaned;

static void clean(void *arg)
{
	(void)arg;
	atomic_fetch_add(&cleaned, 1);
}

static void *waits_for_ever(void *arg)
{
	pthread_cleanup_push(clean, NULL);
	CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL), 0);
	atomic_fetch_add(&waiting, 1);
	if (arg) {
		while (atomic_load(&waiting) >= 0)
			pause_();
	} else {
		int never = 0;

		for (;;)
			raw(SYS_futex, (long)&never, FUTEX_WAIT_PRIVATE, 0, 0);
	}
	pthread_cleanup_pop(0);
	return NULL;
}

/* A thread that spins or waits in the kernel is cancelled wherever it is, with its cleanup handler. */
CASE_STRESS(sites_cancel)
{
	long long end = now(CLOCK_MONOTONIC) + lasting();
	int n = 0;

	hogs_start(6);
	do {
		pthread_t t[4];

		for (int i = 0; i < 4; i++)
			t[i] = spawn(waits_for_ever, i % 2 ? &n : NULL);
		n += 4;
		AWAIT(&waiting, n);
		sleep_ns(MS / 4);
		for (int i = 0; i < 4; i++)
			CHECK_EQ(pthread_cancel(t[i]), 0);
		for (int i = 0; i < 4; i++)
			CHECK(join(t[i]) == PTHREAD_CANCELED);
		CHECK_EQ(atomic_load(&cleaned), n);
	} while (now(CLOCK_MONOTONIC) < end);
	hogs_stop();
}

/* A child of a fork spins and waits as the parent did, alone and with threads of its own. */
static void in_the_child(void *arg)
{
	(void)arg;
	memset(&bar, 0, sizeof bar);
	bar.end = now(CLOCK_MONOTONIC) + 10 * MS;
	for (int i = 0; i < 100; i++)
		pause_();
	case_sites_barrier();
}

CASE(sites_fork)
{
	case_sites_barrier();
	for (int i = 0; i < 3; i++)
		CHECK_EQ(in_child(in_the_child, NULL), 0);
}

/* A child made by an instruction: nobody has told the library, and its threads are not there. Before it ends it waits as others do. */
CASE_STRESS(sites_raw_fork)
{
	long long end = now(CLOCK_MONOTONIC) + lasting();

	hogs_start(6);
	do {
		const struct timespec us = {0, 1000};
		int status = 0, never = 0;
		long pid = raw(SYS_fork, 0, 0, 0, 0);

		if (pid == 0) {
			raw(SYS_alarm, 20, 0, 0, 0);
			for (int i = 0; i < 1000; i++)
				pause_();
			raw(SYS_sched_yield, 0, 0, 0, 0);
			raw(SYS_nanosleep, (long)&us, 0, 0, 0);
			raw(SYS_futex, (long)&never, FUTEX_WAIT_PRIVATE, 0, (long)&us);
			raw(SYS_exit_group, 7, 0, 0, 0);
		}
		CHECK(pid > 0);
		CHECK_EQ(calm(SYS_wait4, pid, (long)&status, 0, 0), pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	} while (now(CLOCK_MONOTONIC) < end);
	hogs_stop();
}
