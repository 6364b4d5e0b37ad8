// fork.c: fork, vfork, exec and _exit.
//
// fork: the child rebuilds all state of the shim from nothing and is dormant, so no lock of ours is held
// across the fork. Rejected: taking our locks in a prepare handler. The program's atfork handlers run between
// prepare and fork, take mutexes, and would wait for a thread that waits for our lock. While they
// run, in parent and child, this thread passes through (tls.g is NULL).
//
// vfork (trampolines/x86_64/vfork.S): the child shares our memory, also tls. It passes through until the
// parent is back; the parent's P is given up meanwhile.

#include <pthread.h>
#include <stdarg.h>
#include <unistd.h>

#include "objects.h"

REAL_FN(fork);
REAL_FN(_Fork);
REAL_FN(execve);
REAL_FN(execvp);
REAL_FN(execvpe);
REAL_FN(fexecve);
REAL_FN(execveat);

// Counts them: when fork returns, a child handler of the program may have begun anew with threads already.
static unsigned resets;

// In the child of a fork. Signal-safe (_Fork).
void shim_child_after_fork(void)
{
	resets++;
	confine_forked();
	stw_reset_in_child();
	if (load_relaxed(&sched.active) != PHASE_ACTIVE)
		return;
	signal_reset_in_child();
	lot_reset_in_child();
	sysmon_reset_in_child();
	strays_reset_in_child();
	modules_reset_in_child();
	sites_reset_in_child();
	dump_reset_in_child();
	snapshot_reset_in_child();
	deadlock_reset_in_child();
	futexhash_reset_in_child();
	weigh_reset_in_child();
	trace_reset_in_child();
	stats_reset_in_child();
	sched_reset_in_child();
}

// For forks that libc makes without our wrapper: forkpty, daemon.
__attribute__((constructor(102))) static void register_child(void)
{
	pthread_atfork(NULL, NULL, shim_child_after_fork);
}

static pid_t do_fork(pid_t (*real)(void))
{
	struct g *gp = getg();
	unsigned before = resets;
	pid_t pid;

	if (!gp) {
		pid = real();
		if (pid == 0 && resets == before)
			shim_child_after_fork();
		return pid;
	}
	// In a call: a preemption signal would make the kernel start a long fork anew.
	deep_enter(gp, __builtin_frame_address(0));
	pid = real();
	if (pid == 0) {
		if (resets == before)
			shim_child_after_fork();
		return 0;
	}
	deep_leave(gp);
	return pid;
}

EXPORT pid_t fork(void)
{
	return do_fork(REAL(fork));
}
ALIAS(__fork, fork);

EXPORT pid_t _Fork(void)
{
	return do_fork(REAL(_Fork));
}

// --- vfork ------------------------------------------------------------------------------------------

void vfork_prepare(void)
{
	struct g *gp = getg();

	if (load_relaxed(&sched.active) != PHASE_ACTIVE || tls.vforked++)
		return;
	tls.vfork_g = gp;
	if (gp) {
		entersyscallblock(gp);
		gp->at.pc = 0; // this frame is gone soon
		tls.g = NULL;
		tls.no_adopt++;
	}
	signal_child_mask(true);
}

// The parent's side is back, or vfork failed. ret: of the system call. Returns what vfork returns.
long vfork_parent(long ret)
{
	if (tls.vforked && --tls.vforked == 0) {
		signal_child_mask(false);
		if (tls.vfork_g) {
			tls.no_adopt--;
			tls.g = tls.vfork_g;
			exitsyscall(tls.g);
		}
	}
	if (ret < 0) {
		errno = (int)-ret;
		return -1;
	}
	return ret;
}

// --- exec: the new image inherits what the program set ----------------------------------------------

// entersyscall also keeps preemption signals away: one that arrives after the kernel has put the default
// action back would end the new program.
static inline __attribute__((always_inline)) struct g *exec_begins(void)
{
	struct g *gp = getg();

	if (gp)
		entersyscall(gp);
	if (load_relaxed(&sched.active) == PHASE_ACTIVE) {
		if (!tls.vforked)
			process_leaves();
		signal_prepare_exec();
	}
	return gp;
}

static int exec_failed(struct g *gp)
{
	int saved = errno;

	if (load_relaxed(&sched.active) == PHASE_ACTIVE) {
		signal_exec_failed();
		if (!tls.vforked) {
			snapshot_stay();
			helper_stay();
		}
	}
	if (gp)
		exitsyscall(gp);
	errno = saved;
	return -1;
}

#define EXEC(call)                                                                                 \
	__extension__({                                                                            \
		struct g *gp_ = exec_begins();                                                     \
		(void)(call);                                                                      \
		exec_failed(gp_);                                                                  \
	})

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	return EXEC(REAL(execve)(path, argv, envp));
}

EXPORT int execv(const char *path, char *const argv[])
{
	return EXEC(REAL(execve)(path, argv, environ));
}

EXPORT int execvp(const char *file, char *const argv[])
{
	return EXEC(REAL(execvp)(file, argv));
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	return EXEC(REAL(execvpe)(file, argv, envp));
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	return EXEC(REAL(fexecve)(fd, argv, envp));
}

EXPORT int execveat(int dirfd, const char *path, char *const argv[], char *const envp[], int flags)
{
	return EXEC(REAL(execveat)(dirfd, path, argv, envp, flags));
}

static size_t count_args(va_list ap)
{
	size_t n = 0;

	while (va_arg(ap, char *))
		n++;
	return n;
}

// The list forms: arguments into a vector on the stack (they may be called after vfork: no heap).
#define LIST(arg, ap, argv, envp, with_env)                                                        \
	va_list ap;                                                                                \
	char **argv, *const *envp = environ;                                                       \
	size_t n_;                                                                                 \
	va_start(ap, arg);                                                                         \
	n_ = count_args(ap) + 1;                                                                   \
	va_end(ap);                                                                                \
	argv = __builtin_alloca((n_ + 1) * sizeof *argv);                                          \
	argv[0] = (char *)(uintptr_t)arg;                                                          \
	va_start(ap, arg);                                                                         \
	for (size_t i_ = 1; i_ <= n_; i_++)                                                        \
		argv[i_] = va_arg(ap, char *);                                                     \
	if (with_env)                                                                              \
		envp = va_arg(ap, char **);                                                        \
	va_end(ap)

EXPORT int execl(const char *path, const char *arg, ...)
{
	LIST(arg, ap, argv, envp, false);
	return EXEC(REAL(execve)(path, argv, envp));
}

EXPORT int execlp(const char *file, const char *arg, ...)
{
	LIST(arg, ap, argv, envp, false);
	return EXEC(REAL(execvpe)(file, argv, envp));
}

EXPORT int execle(const char *path, const char *arg, ...)
{
	LIST(arg, ap, argv, envp, true);
	return EXEC(REAL(execve)(path, argv, envp));
}

// --- _exit: no destructor of ours runs --------------------------------------------------------------

REAL_FN(_exit);

EXPORT void _exit(int status)
{
	if (!tls.vforked)
		process_leaves();
	REAL(_exit)(status);
	__builtin_unreachable();
}

ALIAS(_Exit, _exit);
