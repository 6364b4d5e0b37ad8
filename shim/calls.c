// calls.c: the system calls of ours that a seccomp filter may not expect.
//
// Two ask: confine.c, which makes those of a group in a process of its own, under a filter that was there at the start; and before a filter
// is put up, what its program says to each (filter.c). So all are given with arguments by which they do nothing: addresses that are none, no
// descriptor, nobody's pid. A filter that tells by such an argument, and not by flags, is not foreseen.
//
// Left to confine.c: what needs care when it is made, the making of processes above all. RUN: not to be tried, only to be asked about.

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "shim.h"

enum {
	FILES = CONFINE_FILES,
	VM = CONFINE_VM,
	TEXT = CONFINE_TEXT,
	WAIT = CONFINE_WAIT,
	TABLES = CONFINE_TABLES,
	RUN = 0,

	PAGE = 4096,
	NOBODY = 0x7ffffff0, // no pid is so high
	RW = PROT_READ | PROT_WRITE,
	RX = PROT_READ | PROT_EXEC,
	NO_SYNC = 0x4000, // AT_STATX_DONT_SYNC
	SELF = INT_MIN,	  // this process, or its main thread
	CLOCK,		  // its CPU time
	PREEMPT,	  // the signal
};

static const struct {
	short group;
	short nr;
	int arg[6];
} calls[] = {
	// dump.c, snapshot.c, page.c, trace.c, deadlock.c, statsreport.c, cache.c, helper.c and what it starts.
	{FILES | TABLES, SYS_open, {0, O_RDONLY | O_CLOEXEC}},
	{FILES, SYS_open, {0, O_RDONLY | O_DIRECTORY | O_CLOEXEC}},
	{FILES, SYS_open, {0, O_RDONLY | O_DIRECTORY}},
	{FILES | TABLES, SYS_open, {0, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC}},
	{FILES, SYS_open, {0, O_RDWR}},
	{FILES, SYS_openat, {AT_FDCWD, 0, O_RDONLY | O_CLOEXEC, 0600}},
	{FILES | TABLES,
	 SYS_openat,
	 {-1, 0, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600}},
	{FILES, SYS_openat, {-1, 0, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600}},
	{FILES, SYS_openat, {-1, 0, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600}},
	{FILES, SYS_openat, {-1, 0, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600}},
	{FILES,
	 SYS_openat,
	 {AT_FDCWD, 0, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600}},
	{FILES, SYS_mmap, {0, PAGE, RW, MAP_SHARED, -1}},
	{FILES, SYS_mmap, {0, PAGE, RW, MAP_SHARED | MAP_FIXED, -1}},
	{FILES, SYS_mmap, {0, PAGE, RW, MAP_SHARED | MAP_POPULATE, -1}},
	{FILES | TABLES, SYS_mmap, {0, PAGE, PROT_READ, MAP_PRIVATE | MAP_POPULATE, -1}},
	{FILES, SYS_madvise, {0, 0, MADV_DONTFORK}},
	{FILES, SYS_madvise, {0, 0, MADV_DONTDUMP}},
	{FILES, SYS_read, {-1}},
	{FILES, SYS_write, {-1}},
	{FILES | TABLES, SYS_pread64, {-1}},
	{FILES, SYS_pwrite64, {-1}},
	{FILES, SYS_lseek, {-1}},
	{FILES, SYS_getdents64, {-1}},
	{FILES, SYS_fallocate, {-1, 0, 0, PAGE}},
	{FILES, SYS_ftruncate, {-1, PAGE}},
	{FILES, SYS_flock, {-1, 6 /* LOCK_EX | LOCK_NB */}},
	{FILES | TABLES, SYS_fstat, {-1}},
	{FILES, SYS_stat, {0}},
	{FILES, SYS_newfstatat, {AT_FDCWD, 0, 0, AT_SYMLINK_NOFOLLOW}},
	{FILES, SYS_newfstatat, {-1, 0, 0, AT_EMPTY_PATH}},
	{FILES | TABLES, SYS_statx, {AT_FDCWD, 0, NO_SYNC, STATX_BASIC_STATS}},
	{FILES, SYS_readlink, {0}},
	{FILES, SYS_access, {0, 1 /* X_OK */}},
	{FILES, SYS_mkdir, {0, 0700}},
	{FILES, SYS_unlink, {0}},
	{FILES, SYS_unlinkat, {-1}},
	{FILES, SYS_renameat, {-1, 0, -1}},
	{FILES, SYS_renameat2, {AT_FDCWD, 0, AT_FDCWD}},
	{FILES, SYS_renameat2, {AT_FDCWD, 0, AT_FDCWD, 0, 1 /* RENAME_NOREPLACE */}},
	{FILES, SYS_poll, {0}},
	{FILES, SYS_dup, {-1}},
	{FILES, SYS_chdir, {0}},
	{FILES, SYS_prlimit64, {0, RLIMIT_FSIZE}},
	{FILES, SYS_rt_sigpending, {0}},
	{FILES, SYS_rt_sigtimedwait, {0, 0, 0, 8}},
	{FILES, SYS_getresuid, {0}},
	{FILES, SYS_getresgid, {0}},
	{FILES | TABLES, SYS_geteuid, {0}},
	{FILES, SYS_getppid, {0}},
	{FILES, SYS_sched_getscheduler, {0}},
	{FILES, SYS_getpriority, {PRIO_PROCESS}},
	{FILES, SYS_setpgid, {0}},
	{FILES, SYS_kill, {NOBODY, SIGTERM}},
	{FILES, SYS_kill, {NOBODY, SIGKILL}},
	{FILES, SYS_execve, {0}},
	{FILES, SYS_wait4, {-1, 0, WNOHANG | __WALL}},
	// memory_read, snapshot.c, text.c.
	{VM, SYS_process_vm_readv, {SELF, 0, 1, 0, 1}},
	{VM, SYS_process_vm_writev, {SELF, 0, 1, 0, 1}},
	{VM, SYS_process_vm_writev, {SELF, 0, 4, 0, 4}},
	// sites.c, text.c.
	{TEXT, SYS_mprotect, {0, 0, RX}},
	{TEXT, SYS_mprotect, {0, 0, RW}},
	{TEXT, SYS_mmap, {0, PAGE, RW, MAP_PRIVATE, -1}},
	{TEXT, SYS_mmap, {0, PAGE, RX, MAP_PRIVATE | MAP_FIXED_NOREPLACE, -1}},
	{TEXT, SYS_mmap, {0, 0, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1}},
	{TEXT, SYS_mremap, {1, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 1}},
	{TEXT, SYS_madvise, {0, 0, 20 /* MADV_COLD */}},
	{TEXT, SYS_madvise, {0, 0, MADV_WIPEONFORK}},
	{TEXT, SYS_mlock, {0}},
	// helper.c, confine.c.
	{WAIT, SYS_waitid, {P_PID, NOBODY, 0, WEXITED | WNOHANG | __WCLONE}},

	// Threads with a G, and sysmon's looks at them.
	{RUN, SYS_futex, {0, FUTEX_WAIT_BITSET_PRIVATE, 1, 0, 0, -1}},
	{RUN, SYS_futex, {0, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 1, 0, 0, -1}},
	{RUN, SYS_futex, {0, FUTEX_WAKE_PRIVATE, 1}},
	{RUN, SYS_futex, {0, FUTEX_CMP_REQUEUE_PRIVATE}},
	{RUN, SYS_membarrier, {MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED}},
	{RUN, SYS_membarrier, {MEMBARRIER_CMD_PRIVATE_EXPEDITED}},
	{RUN, SYS_rt_sigprocmask, {SIG_BLOCK, 0, 0, 8}},
	{RUN, SYS_rt_sigprocmask, {SIG_UNBLOCK, 0, 0, 8}},
	{RUN, SYS_rt_sigprocmask, {SIG_SETMASK, 0, 0, 8}},
	{RUN, SYS_rt_sigaction, {SIGURG, 0, 0, 8}},
	{RUN, SYS_rt_sigreturn, {0}},
	{RUN, SYS_rt_tgsigqueueinfo, {SELF, SELF, PREEMPT}},
	{RUN, SYS_rt_sigqueueinfo, {SELF, SIGURG}},
	{RUN, SYS_tgkill, {SELF, SELF, 0}},
	{RUN, SYS_tgkill, {SELF, SELF, SIGURG}},
	{RUN, SYS_sigaltstack, {0}},
	{RUN, SYS_clock_gettime, {CLOCK}},
	{RUN, SYS_clock_gettime, {CLOCK_MONOTONIC}},
	{RUN, SYS_clock_gettime, {CLOCK_REALTIME}},
	{RUN, SYS_getpid, {0}},
	{RUN, SYS_gettid, {0}},
	{RUN, SYS_getcpu, {0}},
	{RUN, SYS_sched_yield, {0}},
	{RUN, SYS_sched_getaffinity, {SELF, 1024}},
	{RUN, SYS_mmap, {0, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1}},
	{RUN, SYS_mprotect, {0, PAGE, PROT_NONE}},
	{RUN, SYS_munmap, {0, PAGE}},
	{RUN, SYS_close, {-1}},
	{RUN, SYS_fcntl, {-1, F_GETFL}},
	{RUN, SYS_prctl, {PR_GET_NAME}},
	{RUN, SYS_prctl, {PR_SET_NAME}},
	{RUN, SYS_prctl, {PR_GET_SECCOMP}},
	{RUN, SYS_prctl, {PR_SET_TIMERSLACK, 1}},
	{RUN, SYS_prctl, {PR_SET_DUMPABLE}},
	{RUN, SYS_prctl, {PR_SET_PDEATHSIG, SIGKILL}},
	{RUN, SYS_prctl, {PR_SET_CHILD_SUBREAPER, 1}},
	{RUN, SYS_prctl, {78 /* PR_FUTEX_HASH */, 1, PAGE}},
	{RUN, SYS_prctl, {78 /* PR_FUTEX_HASH */, 2}},
	{RUN, SYS_setpriority, {PRIO_PROCESS}},
	{RUN, SYS_sched_setattr, {0}},
	{RUN,
	 SYS_clone,
	 {CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
	  CLONE_SETTLS}},
	{RUN, SYS_clone, {CLONE_VM | CLONE_VFORK | CLONE_UNTRACED | SIGCHLD}},
	{RUN, SYS_clone, {CLONE_VM | CLONE_UNTRACED | CLONE_FILES}},
	{RUN, SYS_close_range, {0, -1, 2 /* CLOSE_RANGE_UNSHARE */}},
	{RUN, SYS_exit, {0}},
	{RUN, SYS_exit_group, {0}},
};

static uint64_t value(int arg, int64_t pid)
{
	switch (arg) {
	case SELF:
		return (uint64_t)pid;
	case CLOCK:
		return (uint64_t)(int32_t)(~(uint32_t)pid << 3 | 6);
	case PREEMPT:
		return (uint64_t)config.signal;
	default:
		return (uint64_t)(int64_t)arg;
	}
}

static void values(size_t i, int64_t pid, uint64_t ret[6])
{
	for (int k = 0; k < 6; k++)
		ret[k] = value(calls[i].arg[k], pid);
}

void calls_make(uint32_t group)
{
	int64_t pid = os_getpid();

	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
		uint64_t v[6];

		if (!((uint32_t)calls[i].group & group))
			continue;
		values(i, pid, v);
		sys6(calls[i].nr, (long)v[0], (long)v[1], (long)v[2], (long)v[3], (long)v[4],
		     (long)v[5]);
	}
}

bool calls_harmless(const struct sock_fprog *prog)
{
	int64_t pid = os_getpid();

	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
		uint64_t v[6];

		values(i, pid, v);
		if (!filter_harmless(prog, calls[i].nr, v))
			return false;
	}
	return true;
}
