// What a system call costs that is an instruction of the program: as it is; rewritten (under the shim, shim/sites.c); and with
// Syscall User Dispatch, the kernel's way to have such calls handled by SIGSYS. With the latter also what each call of libc's own costs
// more, although libc's text is exempt.
//
// Under the shim it first makes two threads compete until the instruction is rewritten, which needs its table in the cache:
//
//	preempt tables build build/tests/bench/inlinecall
//	PREEMPT_PROCS=1 LD_PRELOAD=build/shim/libpreempt.so build/tests/bench/inlinecall
#include "bench.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { DISPATCH = 59, ON = 1, BLOCK = 1 }; // of prctl, and of the selector

extern const volatile unsigned char inline_site[];
static char selector;
static uint32_t word;

// One place: not inlined, not cloned.
__attribute__((noinline)) static long call(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long r;

	__asm__ volatile("inline_site: syscall"
			 : "=a"(r)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return r;
}

// The call that was caught, made by libc, whose text is exempt; so is the return from here.
static void caught(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	long ret = syscall(info->si_syscall, r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10],
			   r[REG_R8], r[REG_R9]);

	(void)sig;
	r[REG_RAX] = ret < 0 ? -errno : ret;
}

static bool dispatch(void)
{
	struct sigaction act = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
	unsigned long start = 0, end = 0, lo, hi;
	char line[512], perm[8];
	FILE *maps = fopen("/proc/self/maps", "r");

	while (maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx %7s", &lo, &hi, perm) == 3 && strcmp(perm, "r-xp") == 0 &&
		    strstr(line, "/libc.so.6")) {
			start = lo;
			end = hi;
		}
	if (maps)
		fclose(maps);
	sigaction(SIGSYS, &act, NULL);
	if (!start || prctl(DISPATCH, ON, start, end - start, &selector) < 0)
		return false;
	selector = BLOCK;
	return true;
}

static long from_libc(long nr, long a, long b, long c, long d)
{
	return syscall(nr, a, b, c, d);
}

static void measure(const char *how, const char *what, long fn(long, long, long, long, long),
		    long nr, long a, long b, long c, long calls)
{
	uint64_t best =
		UINT64_MAX; // of many short rounds: other guests of the machine take whole ms

	for (int round = 0; round < 2000; round++) {
		uint64_t start = now_ns();

		for (long i = 0; i < calls; i++)
			fn(nr, a, b, c, 0);
		start = now_ns() - start;
		best = start < best ? start : best;
	}
	printf("METRIC %s_%s %.1f ns lower\n", how, what, (double)best / (double)calls);
}

static void measure_all(const char *how, long calls)
{
	char name[64];

	measure(how, "getppid", call, SYS_getppid, 0, 0, 0, calls);
	measure(how, "futex_wake", call, SYS_futex, (long)&word, FUTEX_WAKE_PRIVATE, 1, calls);
	measure(how, "futex_changed", call, SYS_futex, (long)&word, FUTEX_WAIT_PRIVATE, 1, calls);
	measure(how, "read", call, SYS_read, -1, 0, 0, calls);
	snprintf(name, sizeof name, "%s_libc", how);
	measure(name, "getppid", from_libc, SYS_getppid, 0, 0, 0, calls);
}

static void busy(struct worker *w)
{
	while (!stopped(w))
		w->ops++;
}

int main(void)
{
	bool shim = getenv("LD_PRELOAD") != NULL;
	struct team team;

	if (shim) {
		team_init(&team, 4, busy, NULL);
		team_start(&team);
		for (int i = 0; i < 1000 && inline_site[0] == 0x0f; i++) {
			call(SYS_sched_yield, 0, 0, 0, 0);
			usleep(10000);
		}
		team_stop(&team);
		team_join(&team);
		team_fini(&team);
		if (inline_site[0] == 0x0f) {
			fprintf(stderr, "inlinecall: the instruction was not rewritten\n");
			return 1;
		}
	}
	measure_all(shim ? "rewritten" : "plain", 500);
	if (!shim && dispatch())
		measure_all("dispatch", 50);
	return 0;
}
