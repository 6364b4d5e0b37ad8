/*
 * prog.h - what every case of progs uses.
 *
 * progs is one binary of registered cases. `progs NAME` runs one, prints OK and exits 0 only if
 * everything the case claims was true. A case knows nothing of the shim: it states what the C
 * library and the kernel promise, so it passes without the shim too, and any difference is the
 * shim's. Verdicts never depend on speed; bounds on time are there to turn a hang into a failure.
 */
#ifndef PROG_H
#define PROG_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000LL /* in ns */
#define SEC 1000000000LL
#define EXIT_SKIP 77
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

enum case_kind {
	CASE_PLAIN,  /* one behaviour */
	CASE_CONC,   /* also worth repeating under load: stress.sh takes these */
	CASE_HELPER, /* second half of another case, entered by exec; not listed */
};

void register_case(const char *name, void (*fn)(void), enum case_kind kind);

#define CASE_KIND(name, kind)                                                                      \
	static void case_##name(void);                                                             \
	__attribute__((constructor)) static void register_##name(void)                             \
	{                                                                                          \
		register_case(#name, case_##name, kind);                                           \
	}                                                                                          \
	static void case_##name(void)
/* tests/prog/meson.build finds the cases by lines that begin with one of the first two. */
#define CASE(name) CASE_KIND(name, CASE_PLAIN)
#define CASE_STRESS(name) CASE_KIND(name, CASE_CONC)
#define HELPER(name) CASE_KIND(name, CASE_HELPER)

_Noreturn void fail(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
_Noreturn void skip(const char *why);

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			fail(__FILE__, __LINE__, "%s (errno %d)", #cond, errno);                   \
	} while (0)
#define CHECK_EQ(a, b)                                                                             \
	do {                                                                                       \
		long long check_a = (long long)(a), check_b = (long long)(b);                      \
		if (check_a != check_b)                                                            \
			fail(__FILE__, __LINE__, "%s is %lld, not %s = %lld (errno %d)", #a,       \
			     check_a, #b, check_b, errno);                                         \
	} while (0)
/* For calls that return -1 and set errno. */
#define CHECK_ERRNO(call, err)                                                                     \
	do {                                                                                       \
		errno = 0;                                                                         \
		long long check_r = (long long)(call);                                             \
		if (check_r != -1 || errno != (err))                                               \
			fail(__FILE__, __LINE__, "%s is %lld, errno %d, not -1 with %s", #call,    \
			     check_r, errno, #err);                                                \
	} while (0)

extern char **prog_argv; /* what main got */

void watchdog(void);		/* again after fork or exec */
long long now(clockid_t clock); /* ns */
struct timespec after(clockid_t clock, long long ns);
void sleep_ns(long long ns); /* fails on EINTR or an early return */
void spin(long loops);	     /* busy, no calls */
void burn(long long ns);     /* busy by the thread's own CPU clock */
bool wait_until(atomic_int *word, int value, long long ns);
#define AWAIT(word, value)                                                                         \
	do {                                                                                       \
		if (!wait_until((word), (value), 20 * SEC))                                        \
			fail(__FILE__, __LINE__, "%s stays %d, not %s = %d", #word,                \
			     atomic_load(word), #value, (int)(value));                             \
	} while (0)

pthread_t spawn(void *(*fn)(void *), void *arg);
pthread_t spawn_small(void *(*fn)(void *), void *arg); /* 64 KB stack */
void *join(pthread_t t);
void *locks_own(void *arg);		     /* a thread with little to do: a mutex and memory */
int in_child(void (*fn)(void *), void *arg); /* fork, run, _exit(0); the wait status */
int wait_child(pid_t pid);
void lives(void); /* what any process may do: wait, yield, and have threads */
_Noreturn void exec_self(const char *name, const char *arg);

/* Busy threads without calls, beside what is tested. */
void hogs_start(int n);
void hogs_stop(void);
long hogs_work(int i);

#endif
