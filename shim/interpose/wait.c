// wait.c: waiting for processes and signals, and starting processes.
//
// Waits are class 3. Starting a process is class 2: the kernel suspends the caller until the child
// has called exec. The child runs libc's code only and touches nothing of ours.

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "interpose.h"

// --- processes ----------------------------------------------------------------------------------

#define WAITS(options, call) ((options)&WNOHANG ? (call) : WILL_BLOCK(call))

WRAP(WILL_BLOCK, pid_t, wait, (int *status), (status))
ALIAS(__wait, wait);

REAL_FN(waitpid);
EXPORT pid_t waitpid(pid_t pid, int *status, int options)
{
	return WAITS(options, REAL(waitpid)(pid, status, options));
}
ALIAS(__waitpid, waitpid);

REAL_FN(wait3);
EXPORT pid_t wait3(int *status, int options, struct rusage *usage)
{
	return WAITS(options, REAL(wait3)(status, options, usage));
}

REAL_FN(wait4);
EXPORT pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
	return WAITS(options, REAL(wait4)(pid, status, options, usage));
}

REAL_FN(waitid);
EXPORT int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
	return WAITS(options, REAL(waitid)(type, id, info, options));
}

// The child inherits the mask of its creator. We keep a preemption signal that the user chose unblocked even if the
// program blocked it, so block it for the length of the call; a thread in a call needs no such
// signal.
#define WITH_CHILD_MASK(call)                                                                      \
	__extension__({                                                                            \
		signal_child_mask(true);                                                           \
		__typeof__(call) spawned_ = (call);                                                \
		signal_child_mask(false);                                                          \
		spawned_;                                                                          \
	})
#define SPAWN_WILL_BLOCK(call) WILL_BLOCK(WITH_CHILD_MASK(call))
#define SPAWN_MAY_BLOCK(call) MAY_BLOCK(WITH_CHILD_MASK(call))
#define SPAWN_MAY_BLOCK_DEEP(call) MAY_BLOCK_DEEP(WITH_CHILD_MASK(call))

WRAP(SPAWN_WILL_BLOCK, int, system, (const char *command), (command))

// popen and pclose allocate: the program may have its own malloc.
WRAP(SPAWN_MAY_BLOCK_DEEP, FILE *, popen, (const char *command, const char *type), (command, type))
WRAP(MAY_BLOCK_DEEP, int, pclose, (FILE * f), (f))

// Before version 2.15 a file without a known format was handed to the shell: another function.
#define SPAWN_PARAMS                                                                               \
	(pid_t *restrict pid, const char *restrict path,                                           \
	 const posix_spawn_file_actions_t *restrict actions,                                       \
	 const posix_spawnattr_t *restrict attr, char *const argv[restrict],                       \
	 char *const envp[restrict])
#define SPAWN(name)                                                                                \
	WRAP(SPAWN_MAY_BLOCK, int, name, SPAWN_PARAMS, (pid, path, actions, attr, argv, envp))     \
	REAL_FN_NAMED(name##_2_2_5, name, #name, "GLIBC_2.2.5");                                   \
	EXPORT __typeof__(name) compat_##name##_2_2_5;                                             \
	EXPORT int compat_##name##_2_2_5 SPAWN_PARAMS                                              \
	{                                                                                          \
		return SPAWN_MAY_BLOCK(REAL(name##_2_2_5)(pid, path, actions, attr, argv, envp));  \
	}                                                                                          \
	SYMVER(compat_##name##_2_2_5, name, "GLIBC_2.2.5")
SPAWN(posix_spawn);
SPAWN(posix_spawnp);

// --- signals ------------------------------------------------------------------------------------

WRAP(WILL_BLOCK, int, pause, (void), ())
WRAP(WILL_BLOCK, int, sigsuspend, (const sigset_t *mask), (mask))
ALIAS(__sigsuspend, sigsuspend);
WRAP(WILL_BLOCK, int, sigwait, (const sigset_t *restrict set, int *restrict sig), (set, sig))
WRAP(WILL_BLOCK, int, sigwaitinfo, (const sigset_t *restrict set, siginfo_t *restrict info),
     (set, info))

REAL_FN(sigtimedwait);
EXPORT int sigtimedwait(const sigset_t *restrict set, siginfo_t *restrict info,
			const struct timespec *restrict timeout)
{
	if (timeout && timeout->tv_sec == 0 && timeout->tv_nsec == 0)
		return REAL(sigtimedwait)(set, info, timeout);
	return WILL_BLOCK(REAL(sigtimedwait)(set, info, timeout));
}

// <signal.h> makes sigpause the X/Open function __xpg_sigpause(signal); the symbol sigpause is
// BSD's, of a mask, and __sigpause takes either. So each gets its symbol by hand.
int xpg_sigpause(int sig) __asm__("__xpg_sigpause");
int bsd_sigpause(int mask) __asm__("sigpause");
int any_sigpause(int sig_or_mask, int is_sig) __asm__("__sigpause");

REAL_FN_NAMED(xpg_sigpause, xpg_sigpause, "__xpg_sigpause", NULL);
EXPORT int xpg_sigpause(int sig)
{
	return WILL_BLOCK(REAL(xpg_sigpause)(sig));
}

REAL_FN_NAMED(bsd_sigpause, bsd_sigpause, "sigpause", NULL);
EXPORT int bsd_sigpause(int mask)
{
	return WILL_BLOCK(REAL(bsd_sigpause)(mask));
}

REAL_FN_NAMED(any_sigpause, any_sigpause, "__sigpause", NULL);
EXPORT int any_sigpause(int sig_or_mask, int is_sig)
{
	return WILL_BLOCK(REAL(any_sigpause)(sig_or_mask, is_sig));
}
