// os.h: what the core asks of the kernel, by raw system calls that never touch errno.
//
// Every function here is async-signal-safe and returns a value >= 0 or -errno.

#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "atomic.h"

// The library that the tests of faults preload (tests/faults) asks here whether a call is to fail: -errno, else 0.
#ifdef PREEMPT_FAULTS
long os_fault(long nr, long a, long b);
#else
#define os_fault(nr, a, b) 0L
#endif

static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	long ret = os_fault(nr, a, b);

	if (ret)
		return ret;
	// After the call above, which may change them.
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#define sys0(nr) sys6((nr), 0, 0, 0, 0, 0, 0)
#define sys1(nr, a) sys6((nr), (long)(a), 0, 0, 0, 0, 0)
#define sys2(nr, a, b) sys6((nr), (long)(a), (long)(b), 0, 0, 0, 0)
#define sys3(nr, a, b, c) sys6((nr), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define sys4(nr, a, b, c, d) sys6((nr), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define sys5(nr, a, b, c, d, e) sys6((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

// A mutual-exclusion lock between threads of this process: 0 free, 1 held, 2 held and waited for
// (Drepper, "Futexes Are Tricky", mutex 3). The holder must have critical > 0 (see shim.h), so that
// no signal handler of the program runs on top of it.
struct lock {
	uint32_t word;
};
void lock_acquire(struct lock *l);
void lock_release(struct lock *l);

// An absolute point in time on a clock. clock is CLOCK_MONOTONIC or CLOCK_REALTIME.
struct deadline {
	clockid_t clock;
	struct timespec at;
};

// Sleep while *word == val, until woken or until the deadline (NULL: none). Returns 0, -EAGAIN
// (value differs), -EINTR or -ETIMEDOUT.
int os_futex_wait(uint32_t *word, uint32_t val, const struct deadline *until);
int os_futex_wake(uint32_t *word, int n);

int64_t os_nanotime(void);	    // CLOCK_MONOTONIC in ns; through the vDSO when there is one
int64_t os_clock(clockid_t clock);  // any clock in ns, or -errno
int64_t os_thread_cputime(int tid); // CPU time used by a thread of this process in ns, or -errno
bool os_deadline_passed(const struct deadline *d);
struct deadline os_deadline_in(int64_t ns); // CLOCK_MONOTONIC, ns from now

void *os_mmap(size_t len); // zeroed private memory, or NULL
void os_munmap(void *p, size_t len);
bool os_readable(
	uintptr_t
		p); // can the aligned word at p be read? Signal-safe, 0.1 us; no promise for later
int os_tgkill(int tid, int sig);
unsigned os_getcpu(void); // the CPU that this thread runs on, or did a moment ago
int os_gettid(void);
void os_thread_name(char name[16]); // of the calling thread, "" if the kernel does not tell
int os_getpid(void);
char os_thread_state(int tid); // 'R', 'S', 'D', ... from /proc, 0 if it cannot be read
int64_t
os_thread_waits(int tid); // how often it has blocked in the kernel; -1 if that cannot be read
int os_read_file(const char *path, char *buf,
		 size_t len);  // whole small file, NUL-ended; bytes or -errno
int os_affinity_cpus(int tid); // CPUs in a thread's affinity mask (0: own), or -errno

// Around writes to files that may be full, or pipes that nobody reads: the program does not get the signal for it.
struct quiet {
	uint64_t mask, pending;
};
struct quiet os_quiet_begin(void);
void os_quiet_end(const struct quiet *q);

// Start a kernel thread that the C library does not know: all signals blocked, own zeroed TLS,
// stack from os_mmap, exits with the process. Returns its tid or -errno (-EAGAIN: RLIMIT_NPROC).
int os_spawn(void (*fn)(void *), void *arg);

// The vDSO's clock_gettime; set once by init.c before any thread exists, else raw system calls.
typedef int os_clock_gettime_fn(clockid_t, struct timespec *);
extern os_clock_gettime_fn *os_vdso_clock_gettime;
typedef long os_getcpu_fn(unsigned *cpu, unsigned *node, void *unused);
extern os_getcpu_fn *os_vdso_getcpu;

// A bounded text buffer, for log lines and reports without stdio. Overlong text is cut.
struct text {
	char *buf;
	size_t len, cap;
};
void text_vprintf(struct text *t, const char *fmt, va_list ap); // %s %c %d %u %x %ld %lu %lx %%
void text_printf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool text_write_fd(const struct text *t, int fd);

bool str_eq(const char *a, const char *b);
size_t str_len(const char *s);
