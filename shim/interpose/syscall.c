// syscall.c: syscall(2), the door through which runtimes with their own locks come.
//
// The exported entry is trampolines/x86_64/syscall.S. Calls after which the caller's frames may be
// used twice, or not at all (vfork, threads, exit, sigreturn), go from there to the real function,
// with no frame of ours in between; the others come to syscall_slow.

#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "interpose.h"

// Not REAL_FN: the assembly reads this pointer, so it cannot be static.
extern __typeof__(syscall) *real_syscall __attribute__((visibility("hidden")));
__typeof__(syscall) *real_syscall;
static const struct real_fn real_fn_syscall IN_REAL_FNS = {"syscall", NULL, (void **)&real_syscall};

long syscall_slow(long nr, long a, long b, long c, long d, long e, long f);
extern void shim_child_after_fork(void);

// Calls that are over in less time than entersyscall is worth.
static bool is_cheap(long nr)
{
	switch (nr) {
	case SYS_gettid:
	case SYS_getpid:
	case SYS_getppid:
	case SYS_getuid:
	case SYS_geteuid:
	case SYS_getgid:
	case SYS_getegid:
	case SYS_getcpu:
	case SYS_clock_gettime:
	case SYS_clock_getres:
	case SYS_gettimeofday:
	case SYS_time:
	case SYS_membarrier:
	case SYS_kill:
	case SYS_tkill:
	case SYS_tgkill:
	case SYS_sched_getaffinity:
	case SYS_sched_setaffinity:
	case SYS_sched_getparam:
	case SYS_sched_getscheduler:
	case SYS_rt_sigaction:
	case SYS_rt_sigprocmask:
	case SYS_rt_sigpending:
	case SYS_rt_sigqueueinfo:
	case SYS_rt_tgsigqueueinfo:
	case SYS_set_robust_list:
	case SYS_get_robust_list:
	case SYS_set_tid_address:
	case SYS_rseq:
	case SYS_arch_prctl:
	case SYS_close:
		return true;
	default:
		return false;
	}
}

long syscall_slow(long nr, long a, long b, long c, long d, long e, long f)
{
	if (!real_syscall)
		real_resolve();
	if (is_cheap(nr))
		return real_syscall(nr, a, b, c, d, e, f);

	switch (nr) {
	case SYS_prctl:
		if (a == PR_SET_SECCOMP)
			return prctl(PR_SET_SECCOMP, b, c, d, e);
		return real_syscall(nr, a, b, c, d, e, f);
	case SYS_futex:
		if (!futex_waits((const uint32_t *)a, (int)b, (uint32_t)c))
			return real_syscall(nr, a, b, c, d, e, f);
		return WILL_BLOCK_IF(true, real_syscall(nr, a, b, c, d, e, f));
	case SYS_seccomp:
		return seccomp_call((unsigned)a, (unsigned)b, (const void *)c);
	case SYS_sched_yield:
		return sched_yield();
	case SYS_execve: // the new image must not see our signal mask
		return execve((const char *)a, (char *const *)b, (char *const *)c);
	case SYS_execveat:
		return execveat((int)a, (const char *)b, (char *const *)c, (char *const *)d,
				(int)e);
	case SYS_fork:
	case SYS_clone:
	case SYS_clone3: { // without CLONE_VM, on the same stack: a fork
		struct g *gp = getg();
		long pid;

		if (gp)
			entersyscall(gp);
		pid = real_syscall(nr, a, b, c, d, e, f);
		if (pid == 0)
			shim_child_after_fork();
		else if (gp)
			exitsyscall(gp);
		return pid;
	}
	default:
		return MAY_BLOCK(real_syscall(nr, a, b, c, d, e, f));
	}
}
