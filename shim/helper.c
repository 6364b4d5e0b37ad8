// helper.c: a process that builds missing tables, of which the program notices nothing.
//
// Problem. Parsing DWARF takes seconds, memory and trust, so another process does it: the command `preempt`. But a child of a
// program is not private: SIGCHLD comes, wait(-1) returns it, an inherited descriptor keeps a pipe open, and fork
// copies the page tables of a huge process.
// Approach. sysmon clones a *keeper* with exit signal 0, which no wait sees without __WCLONE or __WALL and whose end sends
// nothing. execve would reset that signal to SIGCHLD, so the keeper never calls it: it makes a second child that does, and
// waits for it. The keeper shares our memory (CLONE_VM), so nothing is copied, but has at once a table of descriptors of its
// own, which is empty, its own directory and signal table. Both die with sysmon (PR_SET_PDEATHSIG), that is with the process or at its
// exec. The command dies first, and the keeper waits for it and for its children: an orphan would be seen by the process that inherits it (a container's init,
// a child subreaper), and so would the keeper, for the kernel gives orphans SIGCHLD as exit signal. So a process that ends by exit
// or _exit waits for its keeper, too (helper_leave). One that is killed leaves an orphan.
//
// The process group is a new one: ^C or a kill of the program's group, which the program may survive, does not hit
// the helper, and ^Z does not stop it. Not a new session: with autogroups that would be a scheduling group of its
// own, with as much CPU time as the whole program; in the program's session its nice value counts.
//
// Rejected: fork twice and let init reap (a program that is pid 1 or a child subreaper would get it); a thread (the
// address space is the program's); posix_spawn (libc; SIGCHLD); oom_score_adj for the helper (it would hold for all that
// share the memory).
//
// No helper where it could do harm: with other effective than real ids; under a seccomp filter that may answer with death
// (confine.c); if new children go to another pid namespace, where the keeper would be
// its init; under valgrind, which ends the program at a clone of this kind.
//
// helper_call is the same without a command: a function of ours, which may wait for files that are slow or never come (a home
// directory on a dead server), in a process that shares our memory and nothing else. In sysmon it would stop all preemption.
//
// exec: a child that ends when its parent has become another program tells that one by SIGCHLD, whatever its exit signal, and
// wait finds it. sysmon's end would end ours too late, so whoever calls exec ends them first.
//
// Delicate: the keeper runs in our memory on a stack of its own, with sysmon's TLS, which it must not touch. The stack is
// freed when waitid says that the keeper is gone.

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "shim.h"

enum {
	STACK = 64 * 1024, // of the keeper; what it does not use is its child's
	FILES = 128,
	NICE = 5,
	LEAVE_LOOKS = 5000, // 1 s: a killed process needs a CPU to die on
	ENV_SIZE = 8 * 1024,
};

struct job {
	int parent; // pid of the program
	int keeper; // pid of the keeper, written by itself
	int error;  // of execve
	bool share; // the keeper begins with the program's descriptors, not with a copy of them
	char *argv[FILES + 5];
	char *envp[8];
};

static char command[512], environment[ENV_SIZE];
static size_t environment_used;
static bool allowed, library_known, valgrind;
static int running;  // pid of the keeper, 0: none
static int calling;  // pid of the process of helper_call, 0: none
static bool leaving; // no more of either
static bool cloning; // sysmon is about to make one, and has not seen leaving
static char *memory; // of struct job and the keeper's stack

// --- what is known from the start -------------------------------------------------------------------

static void keep_variable(const char *text)
{
	size_t size = str_len(text) + 1;

	if (size > sizeof environment - environment_used)
		return;
	memcpy(environment + environment_used, text, size);
	environment_used += size;
}

static void keep_setting(const char *name, const char *value)
{
	char buf[1200];
	struct text t = {buf, 0, sizeof buf};

	if (!*value)
		return;
	text_printf(&t, "%s=%s", name, value);
	keep_variable(buf);
}

static bool begins_with(const char *s, const char *start)
{
	while (*start && *s == *start)
		s++, start++;
	return *start == 0;
}

// Does valgrind run the program? It preloads libraries of its own.
static bool names_valgrind(const char *text)
{
	if (!begins_with(text, "LD_PRELOAD="))
		return false;
	for (; *text; text++)
		if (begins_with(text, "/vgpreload_"))
			return true;
	return false;
}

// The program may overwrite its environment (to change its title), so what is needed is copied.
void helper_environment(char *const envp[])
{
	static const char *const names[] = {"HOME=", "XDG_CACHE_HOME=", "PATH="};

	allowed = envp != NULL;
	environment_used = 0;
	for (; envp && *envp; envp++) {
		valgrind |= names_valgrind(*envp);
		for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
			if (begins_with(*envp, names[i]))
				keep_variable(*envp);
	}
	keep_setting("PREEMPT_CACHE_DIR", config.cache_dir);
	keep_setting("PREEMPT_CRITICAL", config.critical);
}

// A command that can be trusted as much as the library: whoever may change it could change that as well.
static bool trusted(const char *path, const struct stat *library)
{
	uid_t self = (uid_t)sys0(SYS_geteuid);
	struct stat st;

	return sys2(SYS_stat, path, &st) == 0 && S_ISREG(st.st_mode) &&
	       (st.st_uid == 0 || st.st_uid == self || st.st_uid == library->st_uid) &&
	       (st.st_mode & 022 & ~library->st_mode) == 0 &&
	       sys2(SYS_access, path, 1 /* X_OK */) == 0;
}

// The command lies beside the library: in the build tree, or in bindir for libdir = lib and lib/x86_64-linux-gnu.
void helper_library(const char *path)
{
	static const char *const places[] = {"../tools/preempt", "../bin/preempt",
					     "../../bin/preempt", PREEMPT_BINDIR "/preempt"};
	size_t dir = 0;
	struct stat library;

	if (library_known)
		return;
	library_known = true;
	if (sys2(SYS_stat, path, &library) < 0)
		return;
	for (size_t i = 0; path[i]; i++)
		if (path[i] == '/')
			dir = i + 1;
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		struct text t = {command, 0, sizeof command};

		if (places[i][0] == '/') {
			text_printf(&t, "%s", places[i]);
		} else if (dir + 32 < sizeof command) {
			memcpy(command, path, dir);
			t.len = dir;
			text_printf(&t, "%s", places[i]);
		}
		if (t.len && trusted(command, &library))
			return;
	}
	command[0] = 0;
}

// --- in the keeper and its child: raw system calls only ----------------------------------------------

// Start fn on a stack, in a process that shares our memory. Returns its pid or -errno.
static long clone_on(unsigned long flags, char *stack, void (*fn)(void *), void *j)
{
	long ret = os_fault(SYS_clone, 0, 0);

	if (ret)
		return ret;
	register long r10 __asm__("r10") = 0; // child tid, parent tid, TLS: none
	register long r8 __asm__("r8") = 0;
	register void *rbx __asm__("rbx") = j;
	register void (*r12)(void *) __asm__("r12") = fn;

	// fn must not return: below it there is nothing.
	__asm__ volatile("syscall\n\t"
			 "test %%eax, %%eax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%rbx, %%rdi\n\t"
			 "call *%%r12\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((long)SYS_clone), "D"(flags), "S"((uintptr_t)stack & ~(uintptr_t)15),
			   "d"(0L), "r"(r10), "r"(r8), "r"(rbx), "r"(r12)
			 : "rcx", "r11", "memory");
	return ret;
}

__attribute__((noreturn)) static void leave(int status)
{
	for (;;)
		sys1(SYS_exit_group, status);
}

static void die_with(int parent, int sig)
{
	sys5(SYS_prctl, PR_SET_PDEATHSIG, sig, 0, 0, 0);
	if (sys0(SYS_getppid) != parent) // it was too late
		leave(127);
}

// A table of descriptors of the keeper's own, without any. A copy would hold the program's files open for as long as it takes
// the keeper to run (no end of file at a pipe, ETXTBSY, locks kept), and would take sysmon 0.1 us for each.
// Without close_range (Linux 5.9) there is no other way; then as /proc lists them, else all that are likely.
static void close_all(bool share)
{
	struct entry {
		uint64_t ino, off;
		uint16_t len;
		uint8_t type;
		char name[];
	};
	char buf[4096] __attribute__((aligned(8)));
	long dir, n;
	bool found;

	if (share) { // never close what is the program's
		if (sys3(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE) != 0)
			leave(126);
		return;
	}
	for (int fd = 0; fd < 256; fd++)
		sys1(SYS_close, fd);
	dir = sys3(SYS_open, "/proc/self/fd", O_RDONLY | O_DIRECTORY, 0);
	do {
		found = false;
		sys3(SYS_lseek, dir, 0, 0);
		while (dir >= 0 && (n = sys3(SYS_getdents64, dir, buf, sizeof buf)) > 0) {
			for (long at = 0; at < n; at += ((struct entry *)(buf + at))->len) {
				const char *p = ((struct entry *)(buf + at))->name;
				long fd = 0;

				for (; *p >= '0' && *p <= '9'; p++)
					fd = fd * 10 + *p - '0';
				if (*p == 0 && fd != dir && sys1(SYS_close, fd) == 0)
					found = true;
			}
		}
	} while (found);
	if (dir >= 0)
		sys1(SYS_close, dir);
	else
		for (int fd = 256; fd < 65536; fd++)
			sys1(SYS_close, fd);
}

static void run_command(void *arg)
{
	struct job *j = arg;
	uint64_t none = 0;
	const uint64_t dfl[4] = {0}; // the kernel's struct sigaction

	die_with(j->keeper, SIGKILL);
	for (int sig = 1; sig <= 64; sig++) // ignored ones would stay so
		sys4(SYS_rt_sigaction, sig, dfl, 0, sizeof none);
	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
	j->error = (int)sys3(SYS_execve, command, j->argv, j->envp);
	leave(127);
}

static void keep(void *arg)
{
	struct job *j = arg;
	const uint64_t dfl[4] = {0}, all = ~(uint64_t)0;
	const uint64_t wanted = (uint64_t)1 << (SIGCHLD - 1) | (uint64_t)1 << (SIGTERM - 1);
	struct timespec patience = {3600, 0};
	int status = 0, last;
	long pid, got;

	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, 0, sizeof all);
	sys5(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	die_with(j->parent, SIGTERM);
	sys4(SYS_rt_sigaction, SIGCHLD, dfl, 0,
	     sizeof(uint64_t)); // ignored, there would be no status
	close_all(j->share);
	j->keeper = os_getpid();
	sys2(SYS_setpgid, 0, 0);
	// The kernel's getpriority returns 20 - nice; values above 19 are cut.
	// Compared with the program: sysmon, which started us, may be in more haste.
	sys3(SYS_setpriority, PRIO_PROCESS, 0,
	     20 - sys2(SYS_getpriority, PRIO_PROCESS, j->parent) + NICE);
	sys1(SYS_chdir, "/");
	if (sys3(SYS_open, "/dev/null", O_RDWR, 0) == 0) {
		sys1(SYS_dup, 0);
		sys1(SYS_dup, 0);
	}
	// With CLONE_VFORK we stand still until it is in its own memory, so that it may have a part of our stack.
	pid = clone_on(CLONE_VM | CLONE_VFORK | CLONE_UNTRACED | SIGCHLD,
		       (char *)__builtin_frame_address(0) - 16 * 1024, run_command, j);
	if (pid < 0)
		leave(126);
	// And for its children, which come to us when it is killed.
	while ((got = sys4(SYS_wait4, -1, &last, WNOHANG | __WALL, 0)) >= 0) {
		long sig;

		if (got == pid)
			status = last;
		if (got > 0)
			continue;
		sig = sys4(SYS_rt_sigtimedwait, &wanted, 0, &patience, sizeof wanted);
		if (sig == SIGTERM) { // from helper_end, or sysmon is gone
			sys2(SYS_kill, pid, SIGKILL);
			patience = (struct timespec){10, 0}; // our memory is the program's
		} else if (sig == -EAGAIN && patience.tv_sec == 10) {
			leave(126); // stuck in the kernel
		}
	}
	leave(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// --- sysmon's side ------------------------------------------------------------------------------------

static int refuse(int error, const char *why)
{
	log_line(LOG_INFO, "no safe-point tables are built: %s", why);
	return error;
}

// Do new processes go to another pid namespace? The second link is there once it has a process.
static bool other_namespace(void)
{
	char own[64], theirs[64];
	long n = sys3(SYS_readlink, "/proc/thread-self/ns/pid", own, sizeof own);
	long m = sys3(SYS_readlink, "/proc/thread-self/ns/pid_for_children", theirs, sizeof theirs);

	return n > 0 && (n != m || memcmp(own, theirs, (size_t)n) != 0);
}

bool helper_valgrind(void)
{
	return valgrind;
}

bool helper_clones(void)
{
	return !valgrind && !other_namespace();
}

static bool ids_differ(void)
{
	uint32_t u[3], g[3];

	sys3(SYS_getresuid, &u[0], &u[1], &u[2]);
	sys3(SYS_getresgid, &g[0], &g[1], &g[2]);
	return u[0] != u[1] || g[0] != g[1];
}

// Clone with exit signal 0; *ret_pid is set, unless the process is about to end.
static long clone_private(int *ret_pid, unsigned long flags, char *stack, void (*fn)(void *),
			  void *arg)
{
	long pid = -EBUSY;

	(void)xchg(&cloning, true); // pairs with the xchg in helper_leave
	if (!load_relaxed(&leaving)) {
		pid = clone_on(CLONE_VM | CLONE_UNTRACED | flags, stack, fn, arg);
		if (pid > 0)
			store_relaxed(ret_pid, (int)pid);
	}
	store_release(&cloning, false); // pairs with the loop in helper_leave
	return pid;
}

int helper_start(const char *const *paths, int n)
{
	struct job *j;
	char *env;
	long pid;
	int i = 0;

	if (running)
		return -EBUSY;
	if (!command[0])
		return refuse(-ENOENT, "the command is not where it should be");
	if (!allowed || ids_differ())
		return refuse(-EPERM, "this process has other rights than its user");
	if (valgrind)
		return refuse(-EPERM, "valgrind ends programs that do so");
	if (confined(CONFINE_FILES | CONFINE_WAIT))
		return refuse(-EPERM, "a seccomp filter may forbid it");
	if (other_namespace())
		return refuse(-EPERM, "new processes go to another pid namespace");
	memory = os_mmap(sizeof *j + STACK);
	if (!memory)
		return refuse(-ENOMEM, "no memory");
	j = (struct job *)memory;
	j->parent = os_getpid();
	j->argv[i++] = command;
	j->argv[i++] = (char *)"tables";
	j->argv[i++] = (char *)"build";
	j->argv[i++] = (char *)"--helper";
	for (int k = 0; k < n && k < FILES; k++)
		j->argv[i++] = (char *)paths[k];
	i = 0;
	for (env = environment; env < environment + environment_used; env += str_len(env) + 1)
		if (i < 7)
			j->envp[i++] = env;
	j->share = sys3(SYS_close_range, ~0u, ~0u, 0) == 0; // is it there?
	pid = clone_private(&running, j->share ? CLONE_FILES : 0, memory + sizeof *j + STACK, keep,
			    j);
	if (pid < 0) {
		os_munmap(memory, sizeof *j + STACK);
		memory = NULL;
		if (pid != -EBUSY)
			log_line(LOG_INFO,
				 "no safe-point tables are built: clone failed (error %d)",
				 (int)-pid);
		return (int)pid;
	}
	return 0;
}

bool helper_running(void)
{
	return running != 0;
}

void helper_end(void)
{
	if (running)
		sys2(SYS_kill, running, SIGTERM);
}

static bool gone(int pid)
{
	siginfo_t info;

	memset(&info, 0, sizeof info);
	return !pid || sys5(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | __WCLONE, 0) != 0 ||
	       info.si_pid != 0;
}

static void look_later(void)
{
	struct deadline d = os_deadline_in(200 * 1000);
	uint32_t word = 0;

	os_futex_wait(&word, 0, &d);
}

// Any thread. sysmon may wait for the same ones; one of us gets ECHILD. A child that shares our memory, or has a copy of
// it, and leaves is not the parent of these.
void helper_leave(void)
{
	int keeper, caller;

	if (!sched.pid || os_getpid() != sched.pid)
		return;
	confine_leave();
	(void)xchg(&leaving, true); // pairs with the xchg in clone_private
	for (int i = 0; i < LEAVE_LOOKS && load_acquire(&cloning); i++) // as there
		look_later();
	keeper = load_relaxed(&running);
	caller = load_relaxed(&calling);
	if (keeper)
		sys2(SYS_kill, keeper, SIGTERM);
	if (caller)
		sys2(SYS_kill, caller, SIGKILL);
	for (int i = 0; i < LEAVE_LOOKS && (keeper || caller); i++) {
		if (keeper && gone(keeper))
			keeper = 0;
		if (caller && gone(caller))
			caller = 0;
		if (keeper || caller)
			look_later();
	}
	if (!caller)
		sites_abandoned();
}

// The exec has failed.
void helper_stay(void)
{
	if (os_getpid() != sched.pid)
		return;
	confine_stay();
	store_relaxed(&leaving, false);
}

int helper_poll(void)
{
	siginfo_t info;
	int error;
	long r;

	if (!running)
		return -ECHILD;
	memset(&info, 0, sizeof info);
	r = sys5(SYS_waitid, P_PID, running, &info, WEXITED | WNOHANG | __WCLONE, 0);
	if (r == -EINTR || (r == 0 && info.si_pid == 0))
		return -EAGAIN;
	// ECHILD: the program waits with __WALL and was faster.
	error = ((struct job *)memory)->error;
	os_munmap(memory, sizeof(struct job) + STACK);
	memory = NULL;
	running = 0;
	if (error)
		log_line(LOG_INFO, "%s cannot be started (error %d)", command, -error);
	if (r < 0)
		return 0;
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

// --- a function in a process of its own -------------------------------------------------------------------

static struct {
	void (*fn)(void *);
	void *arg;
	int parent;
	char *stack; // stays for the next call
} call;

static void make_call(void *arg)
{
	(void)arg;
	die_with(call.parent, SIGKILL);
	// Only what log lines go to.
	if (sys3(SYS_close_range, 3, ~0u, CLOSE_RANGE_UNSHARE) != 0)
		leave(126);
	sys3(SYS_close_range, 0, 1, 0);
	call.fn(call.arg);
	leave(0);
}

// Where a clone or the descriptors could do harm, the caller does it itself.
int helper_call(void (*fn)(void *), void *arg)
{
	long pid;

	if (calling)
		return -EBUSY;
	if (confined(CONFINE_FILES | CONFINE_WAIT) || !helper_clones() ||
	    sys3(SYS_close_range, ~0u, ~0u, 0) != 0)
		return -EPERM;
	if (!call.stack)
		call.stack = os_mmap(STACK);
	if (!call.stack)
		return -ENOMEM;
	call.fn = fn;
	call.arg = arg;
	call.parent = os_getpid();
	pid = clone_private(&calling, CLONE_FILES, call.stack + STACK, make_call, NULL);
	return pid < 0 ? (int)pid : 0;
}

bool helper_calling(void)
{
	siginfo_t info;
	long r;

	if (!calling)
		return false;
	memset(&info, 0, sizeof info);
	r = sys5(SYS_waitid, P_PID, calling, &info, WEXITED | WNOHANG | __WCLONE, 0);
	if (r == -EINTR || (r == 0 && info.si_pid == 0))
		return true;
	calling = 0; // or the program waits with __WALL and was faster
	return false;
}

// It is the parent's, and so is the memory, of which we have a copy.
void helper_reset_in_child(void)
{
	calling = 0;
	leaving = false;
	cloning = false;
	if (memory)
		os_munmap(memory, sizeof(struct job) + STACK);
	memory = NULL;
	running = 0;
}
