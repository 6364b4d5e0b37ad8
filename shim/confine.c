// confine.c: what a seccomp filter lets us do.
//
// Problem. A filter answers a call that it does not expect with an error, which we bear everywhere, or with death, and nobody without
// CAP_SYS_ADMIN can ask it. So under a filter the library did without everything that not every program does. But all containers and many
// services have one, there from the start, whose answer is an error at most.
// Approach. A filter that was there at the start allowed the exec. What else it allows is tried once, when the library becomes active,
// in a process of our own, the *trial*: each call that we may make later (calls.c) is made there in such a way that it does nothing (a bad address, no
// descriptor). The trial's memory is a copy, so its death is its own. Who survives writes so into its name, which we read in /proc.
//
// A filter that comes later, as the process confines itself, is judged by its program before it is put up (interpose/seccomp.c, filter.c), as the
// next call of another thread may be deadly then: the sandbox of a browser, which knows all that the browser calls, kills for the question
// whether there is a filter. Where one of our calls would not be harmless the library is *sealed*: what is to be written at the end is so now, the scheduler
// ends, or does not begin, and no thread becomes a G any more. Where all are harmless it goes on, and does what it does as if the trial had failed. So it
// does under one put up by an inline system call, which is told by the number of filters, if it tells at all.
//
// The trial is made and awaited by a thread of ours, as a filter that kills threads must not take sysmon. Its exit signal is 0, so no wait
// without __WALL and no SIGCHLD tells of it; it lasts for a millisecond or two. It leaves the program's descriptors before anything else, and does not dump core.
// What is risked is a filter that allows threads and kills for the creation of a process, in a program that has threads.
//
// Rejected: a trial that shares our memory (before Linux 5.16 a death that dumps core took all who share it, dump or not); reading the filter
// (PTRACE_SECCOMP_GET_FILTER needs CAP_SYS_ADMIN); trusting known names of containers (profiles are replaced); asking in the constructor (most
// processes never have a thread).
//
// Delicate: the copy of a huge memory takes long, and the program's first writes afterwards fault. So beyond MOST_MEMORY nothing is tried.

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "shim.h"

static const int64_t MS = 1000000;
enum {
	ALL = CONFINE_FILES | CONFINE_VM | CONFINE_TEXT | CONFINE_WAIT | CONFINE_TABLES,
	PATIENCE = 5000,	   // ms for a trial; a supervisor may answer calls by hand
	MOST_MEMORY = 1024 * 1024, // KiB that would be copied
	NOBODY = 0x7ffffff0,	   // no pid is so high
	PAGE = 4096,
};

enum { NEW, STARTING, RUNNING, DONE };

static int at_start;		// filters then; -1: unknown
static uint32_t phase;		// of the trial; futex
static uint32_t proven, deadly; // CONFINE_; written before phase is DONE
static int tid;			// of the thread
static bool leaving;
static int self_pid;	      // of this process
static uint32_t tightened;    // filters put up since the start, by prctl or syscall, or about to be
static uint32_t sealer;	      // the thread that seals, or has
static uint32_t sealing_done; // futex

// --- filters ----------------------------------------------------------------------------------------------

// The number behind key in the calling thread's status, or -1. 3 KiB of stack.
static int status_number(const char *key)
{
	char buf[3072];
	int n = os_read_file("/proc/thread-self/status", buf, sizeof buf), len = (int)str_len(key);

	for (int i = 0; i + len <= n; i++) {
		int count = 0;

		if (memcmp(buf + i, key, (size_t)len) != 0)
			continue;
		for (i += len; buf[i] == ' ' || buf[i] == '\t'; i++)
			;
		for (; buf[i] >= '0' && buf[i] <= '9' && count < 100000000; i++)
			count = count * 10 + buf[i] - '0';
		return count;
	}
	return -1;
}

// Seccomp filters of this thread. The line of /proc is new in Linux 5.9.
static int count_filters(void)
{
	if (sys5(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER)
		return 0;
	return status_number("\nSeccomp_filters:");
}

void confine_init(void)
{
	confine_forked();
	if (!load_relaxed(&tightened))
		at_start = count_filters();
}

void confine_forked(void)
{
	if (!load_relaxed(&sched.sealed))
		self_pid = (int)sys0(SYS_getpid);
}

static bool is_vfork_child(void)
{
	return self_pid && sys0(SYS_getpid) != self_pid;
}

// What is to be written or removed at the end is so now, and then the scheduler ends, for good.
static void end_scheduler(void)
{
	log_line(LOG_WARN, "seccomp: a filter is put up that may answer our calls with death: "
			   "running without the scheduler from here on");
	stats_report();
	process_leaves();
	store_relaxed(&trace_on, false); // threads would ask for their names
	store_relaxed(&sched.sealed, true);
	sysmon_sealed();
}

// Once, then true. Who comes meanwhile waits until it is done: its own filter would be up too soon.
static bool seal(void)
{
	uint32_t self, by;

	if (load_acquire(
		    &sealing_done)) // pairs with the store below; not even gettid may be called any more
		return false;
	self = (uint32_t)os_gettid();
	if (!cas(&sealer, 0, self)) { // pairs with itself in another thread
		by = load_relaxed(&sealer);
		while (by != self && !load_acquire(&sealing_done)) // pairs with the store below
			os_futex_wait(&sealing_done, 0, NULL);
		return false;
	}
	if (load_relaxed(&sched.active) == PHASE_ACTIVE) {
		end_scheduler();
	} else {
		if (load_relaxed(&sched.active) == PHASE_DORMANT)
			log_line(LOG_INFO, "seccomp: a filter is put up before the first thread: "
					   "threads run without the scheduler");
		store_relaxed(&sched.sealed, true);
	}
	store_release(&sealing_done, 1); // pairs with the loads above
	os_futex_wake(&sealing_done, INT32_MAX);
	return true;
}

static void unseal(void)
{
	sealer = sealing_done = 0;
	store_relaxed(&sched.sealed, false);
}

enum confine_note confine_tightens(const struct sock_fprog *prog)
{
	bool was = load_relaxed(&sched.sealed);

	// Once sealed nothing is asked, as that may be deadly. A vfork child's filter is its own.
	if (!was && is_vfork_child())
		return CONFINE_UNNOTED;
	if (!was && prog && !filter_readable(prog)) // EFAULT
		return CONFINE_UNNOTED;
	fetch_add(&tightened, 1); // a count only
	if (!was && prog && calls_harmless(prog))
		return CONFINE_NOTED;
	return seal() ? CONFINE_SEALED : CONFINE_NOTED;
}

// A scheduler that has ended does not begin again.
void confine_failed(enum confine_note note)
{
	if (note == CONFINE_UNNOTED)
		return;
	fetch_sub(&tightened, 1); // a count only
	if (note == CONFINE_SEALED && load_relaxed(&sched.active) == PHASE_DORMANT)
		unseal();
}

bool confine_unexpected(void)
{
	return load_relaxed(&sched.sealed) ||
	       (at_start == 0 && !load_relaxed(&tightened) && confined_somehow());
}

bool confined_somehow(void)
{
	return load_relaxed(&tightened) || sys5(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0) != 0;
}

bool confined(uint32_t wanted)
{
	long mode;

	if (load_relaxed(&tightened))
		return true;
	mode = sys5(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0);
	if (likely(mode == 0))
		return false;
	// acquire: pairs with try_all
	return mode != SECCOMP_MODE_FILTER || at_start <= 0 || load_acquire(&phase) != DONE ||
	       (proven & wanted) != wanted || count_filters() != at_start;
}

// --- the trial: raw system calls only -----------------------------------------------------------------------

__attribute__((noreturn)) static void leave(int status)
{
	for (;;)
		sys1(SYS_exit_group, status);
}

// What the table does not have: these do something.
static void try_processes(void)
{
	int status;
	long pid;

	sys3(SYS_setpriority, PRIO_PROCESS, 0, 20 - sys2(SYS_getpriority, PRIO_PROCESS, 0));
	sys5(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	// As helper.c starts its processes, whose like this one is.
	pid = sys5(SYS_clone, CLONE_VM | CLONE_VFORK | CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		leave(0);
	sys4(SYS_wait4, -1, &status, WNOHANG | __WALL, 0);
}

static void name_thread(const char *name)
{
	sys5(SYS_prctl, PR_SET_NAME, name, 0, 0, 0);
}

__attribute__((noreturn)) static void end_as(const char *name)
{
	sys5(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); // so that /proc has it also under hidepid
	name_thread(name);
	leave(0);
}

__attribute__((noreturn)) static void trial(uint32_t what, bool shared)
{
	long closed;

	if (sys5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		leave(0);
	sys5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	closed = sys3(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE);
	if (shared && closed < 0) { // the descriptors are still the program's
		end_as("shared");
	}
	calls_make(what);
	if (what & CONFINE_FILES)
		try_processes();
	end_as("proven");
}

// --- the thread that makes it -------------------------------------------------------------------------------

static bool starts_with(const char *s, const char *start)
{
	while (*start && *s == *start)
		s++, start++;
	return *start == 0;
}

// How it ended. Nothing is asked for that only a parent does, as that may be deadly, too.
static const char *await(long pid, char buf[256])
{
	struct deadline until = os_deadline_in(PATIENCE * MS);
	struct deadline last = os_deadline_in(2 * PATIENCE * MS);
	char path[64];
	struct text t = {path, 0, sizeof path};
	uint32_t word = 0;

	text_printf(&t, "/proc/%ld/stat", pid);
	for (;;) {
		struct deadline d = os_deadline_in(MS / 10);
		int n, at = 0;

		if (load_relaxed(&leaving) || os_deadline_passed(&until))
			sys3(SYS_tgkill, pid, pid, SIGKILL);
		n = os_read_file(path, buf, 256);
		while (at < n && buf[at] != '(')
			at++;
		if (at >= n) // it is hidden: no word of its end either, but by the signal
			buf[at = 0] = 0;
		if (starts_with(buf + at, "(proven) Z") || starts_with(buf + at, "(shared) Z"))
			return buf + at + 1;
		for (int i = n - 1; i > at; i--)
			if (buf[i] == ')') {
				if (starts_with(buf + i, ") Z") || starts_with(buf + i, ") X"))
					return "";
				break;
			}
		if (at == 0 && sys3(SYS_tgkill, pid, pid, 0) < 0)
			return "";
		if (os_deadline_passed(at ? &last : &until))
			return "";
		os_futex_wait(&word, 0, &d);
	}
}

enum { EACH = 5 };

static struct {
	long pids[2 + 2 * EACH]; // to be reaped
	int n;
} made;

// 1: all of it may be called. 0: somebody died. -1: nothing is known.
static int survives(uint32_t what)
{
	char buf[256];
	const char *end = "";

	for (int shared = 1; shared >= 0; shared--) {
		long pid = load_relaxed(&leaving)
				   ? -EBUSY
				   : sys5(SYS_clone, CLONE_UNTRACED | (shared ? CLONE_FILES : 0), 0,
					  0, 0, 0);

		if (pid == 0)
			trial(what, shared);
		if (pid < 0)
			return -1;
		made.pids[made.n++] = pid;
		end = await(pid, buf);
		if (!starts_with(end, "shared"))
			break;
	}
	return starts_with(end, "proven");
}

static void try_each(void)
{
	static const char *const names[EACH] = {"files", "process_vm", "text", "waitid", "tables"};

	for (uint32_t i = 0; i < EACH; i++) {
		int r = survives(1u << i);

		if (r > 0)
			proven |= 1u << i;
		if (r != 0)
			continue;
		deadly |= 1u << i;
		log_line(LOG_INFO, "seccomp: the filter may answer with death (%s): doing without",
			 names[i]);
	}
}

static void try_all(void *arg)
{
	siginfo_t info;
	int memory;

	(void)arg;
	name_thread("trial");
	memory = status_number("\nRssAnon:");
	if (memory < 0 || memory > MOST_MEMORY) {
		log_line(LOG_INFO, "seccomp: the process has become too large to find out what "
				   "the filter allows");
	} else if (!helper_clones()) {
		log_line(LOG_INFO, "seccomp: no process can be made to find out what the filter "
				   "allows");
	} else {
		int r = survives(ALL);

		if (r > 0)
			proven = ALL;
		else if (r == 0)
			try_each();
		else
			log_line(LOG_INFO, "seccomp: nothing is known of the filter: doing "
					   "without what it may forbid");
	}
	while (made.n > 0 && proven & CONFINE_WAIT)
		sys5(SYS_waitid, P_PID, made.pids[--made.n], &info, WEXITED | WNOHANG | __WCLONE,
		     0);
	store_release(&phase, DONE); // pairs with confined
	os_futex_wake(&phase, INT32_MAX);
	sysmon_notice();
	sys1(SYS_exit, 0);
}

// --- beginning and end ---------------------------------------------------------------------------------------

// Where there is no filter, or one that came later, there is nothing to be found out.
void confine_start(void)
{
	int r;

	if (at_start <= 0 || !cas(&phase, NEW, STARTING)) // pairs with confine_leave
		return;
	r = load_relaxed(&leaving) ? -EBUSY : os_spawn(try_all, NULL);
	tid = r;
	if (r < 0)
		store_release(&phase, DONE); // with nothing proven; pairs with confined
	else
		(void)cas(&phase, STARTING, RUNNING); // publishes tid; pairs with confine_known
}

// A filter may have killed the thread.
bool confine_known(void)
{
	uint32_t now = load_acquire(&phase); // pairs with try_all, confine_start

	if (now == RUNNING && os_tgkill(tid, 0) == -ESRCH)
		(void)cas(&phase, RUNNING, DONE); // with nothing proven; pairs with confined
	return now != STARTING && now != RUNNING;
}

static void settle(void)
{
	while (!confine_known()) {
		struct deadline d = os_deadline_in(10 * MS);

		os_futex_wait(&phase, RUNNING, &d);
	}
}

bool confine_deadly(uint32_t wanted)
{
	return load_acquire(&phase) == DONE && deadly & wanted; // pairs with try_all
}

bool confined_wait(uint32_t wanted)
{
	confine_start();
	settle();
	return confined(wanted);
}

void confine_leave(void)
{
	(void)xchg(&leaving, true); // pairs with the cas in confine_start
	settle();
}

void confine_stay(void)
{
	store_relaxed(&leaving, false);
}

// What is known holds for the child, too.
void confine_reset_in_child(void)
{
	leaving = false;
	made.n = 0;
	if (phase != DONE)
		phase = NEW;
}
