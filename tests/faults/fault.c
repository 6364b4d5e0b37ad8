// fault.c: system calls of the library that fail when a test wants them to. Part of libpreempt_faults.so only.
//
// LIBPREEMPT_FAULT=FILE names a file that holds a struct faults (faults.py writes it). It is mapped shared, so a fork, an
// exec and the helper's processes count on, and the test reads afterwards what was called and whether a fault was met.
// All system calls of the core and the interposers come by os_fault, except those whose failure the kernel does not know: exit,
// and a futex wake of a word that is there (it may come late).

#include <fcntl.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "shim.h"

enum {
	CALLS = 600,
	// Numbers of their own for what futex does besides waiting.
	FUTEX_LOOK = 590, // os_readable
	FUTEX_WAKES = 591,
	// And for a question that has an answer always.
	SIGALTSTACK_IS = 592,
};

struct faults {
	uint32_t nr, from, count; // calls from, from + 1, ... of that number fail, count of them
	int32_t error;
	uint32_t met;
	uint32_t made[CALLS];
	uint32_t storm;	  // change the number of Ps all the time
	uint32_t resized; // so often
	uint32_t late;	  // us by which every wake of a futex is, as if the kernel ran others first
};

static struct faults *faults;
static bool looked;

// Not sys6, which asks here.
static long raw(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = 0;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

// The first call is made by the constructor, or before: there is one thread. libc's environ may not be there yet.
static void look(void)
{
	static const char key[] = "LIBPREEMPT_FAULT=";
	static char environment[65536];
	long fd = raw(SYS_open, (long)"/proc/self/environ", O_RDONLY | O_CLOEXEC, 0, 0, 0), n,
	     got = 0;

	looked = true;
	while (fd >= 0 && got < (long)sizeof environment - 1 &&
	       (n = raw(SYS_read, fd, (long)environment + got, (long)sizeof environment - 1 - got,
			0, 0)) > 0)
		got += n;
	raw(SYS_close, fd, 0, 0, 0, 0);
	for (char *s = environment; s < environment + got; s += str_len(s) + 1) {
		if (memcmp(s, key, sizeof key - 1) != 0)
			continue;
		fd = raw(SYS_open, (long)(s + sizeof key - 1), O_RDWR | O_CLOEXEC, 0, 0, 0);
		n = raw(SYS_mmap, 0, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
		if (fd < 0 || n < 0)
			throw("LIBPREEMPT_FAULT: no such file");
		raw(SYS_close, fd, 0, 0, 0, 0);
		faults = (struct faults *)n;
	}
}

// A thread of our own: sysmon, whose work it is, has no time to do it so often.
static void storm(void *arg)
{
	uint32_t random = 1;

	(void)arg;
	while (load_relaxed(&sched.active) == PHASE_ACTIVE) {
		struct deadline d = os_deadline_in(1000000);
		uint32_t word = 0;

		random = random * 1103515245 + 12345;
		procresize(1 + (int)(random >> 16) % 8);
		fetch_add(&faults->resized, 1); // a count only
		os_futex_wait(&word, 0, &d);
	}
}

static void start_storm(void)
{
	static int pid; // of the process that has it

	if (load_relaxed(&sched.active) != PHASE_ACTIVE || load_relaxed(&pid) == sched.pid)
		return;
	if (xchg(&pid, sched.pid) != sched.pid) // once in each process
		os_spawn(storm, NULL);
}

// Not asleep: it would run if the kernel let it.
static void be_late(void)
{
	struct timespec now, end;

	if (!faults->late)
		return;
	raw(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&end, 0, 0, 0);
	end.tv_nsec += 1000L * faults->late;
	end.tv_sec += end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	do {
		raw(SYS_sched_yield, 0, 0, 0, 0, 0);
		raw(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0, 0);
	} while (now.tv_sec < end.tv_sec ||
		 (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
}

long os_fault(long nr, long a, long b)
{
	uint32_t n;

	if (!looked)
		look();
	if (!faults || nr < 0 || nr >= CALLS)
		return 0;
	if (faults->storm)
		start_storm();
	if (nr == SYS_futex) {
		int op = (int)b & FUTEX_CMD_MASK;

		if (op != FUTEX_WAIT && op != FUTEX_WAIT_BITSET)
			nr = op == FUTEX_CMP_REQUEUE ? FUTEX_LOOK : FUTEX_WAKES;
		if (nr == FUTEX_WAKES)
			be_late();
	} else if (nr == SYS_sigaltstack && !a) {
		nr = SIGALTSTACK_IS;
	}
	n = fetch_add(&faults->made[nr], 1); // a count only
	if (nr != faults->nr || n < faults->from || n - faults->from >= faults->count)
		return 0;
	fetch_add(&faults->met, 1); // a count only
	return -faults->error;
}
