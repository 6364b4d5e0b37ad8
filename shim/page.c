// page.c: the counters in a file, so that they outlive a process that is killed.
//
// Problem: PREEMPT_STATS is written by the destructor. A server that is stopped by ^C, a process that ends by _exit, and one that still
// runs have nothing to show. Approach: the pages that the counters lie in are replaced by pages of a file, which is mapped shared
// at the same address. Counting costs what it did, nobody has to write anything at the end, and the kernel keeps the file. The reader
// has the same structures, copies the file over its own counters, and reports them (page_load).
// Rejected: writing the file now and then (sysmon sleeps while there is nothing to do), and catching fatal signals (SIGKILL; and they
// are the program's).
//
// Delicate: a shared page whose file has no room is a SIGBUS in the program, so all of it is allocated before it is mapped. The
// child of a fork shares the pages until it puts its own there, which is the first thing it does; what it counts until then
// goes to its parent.

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "shim.h"

#ifndef PREEMPT_VERSION
#define PREEMPT_VERSION "unknown"
#endif

#define PAGE_MAGIC "preempt\2"

// Behind the counters; written once.
struct head {
	char magic[8];
	char version[32];
	uint32_t size; // of the file
	int32_t pid;
	uint32_t procs;
	uint32_t policy; // policies.c
	int64_t quantum, start;
};
enum {
	AT_HISTOGRAMS = sizeof(struct stats),
	AT_HEAD = AT_HISTOGRAMS + sizeof(struct histograms),
	FILE_SIZE = AT_HEAD + 4096,
};
_Static_assert(sizeof(struct stats) == 4096 && sizeof(struct histograms) == 8192, "whole pages");

static bool mapped;

static void copy(char *to, const char *from, size_t size)
{
	for (size_t i = 0; i < size - 1 && from[i]; i++)
		to[i] = from[i];
}

static bool write_at(int fd, const void *from, size_t size, long at)
{
	return sys4(SYS_pwrite64, fd, from, size, at) == (long)size;
}

static bool map(int fd, void *at, size_t size, long offset)
{
	return sys6(SYS_mmap, (long)at, (long)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		    fd, offset) == (long)at;
}

static bool fill(int fd)
{
	struct quiet q = os_quiet_begin();
	bool filled;
	struct head head = {.magic = PAGE_MAGIC,
			    .size = FILE_SIZE,
			    .pid = os_getpid(),
			    .procs = load_relaxed(&sched.nprocs),
			    .policy = policy_number(sched.policy),
			    .quantum = config.quantum,
			    .start = sched.start_time};

	copy(head.version, PREEMPT_VERSION, sizeof head.version);
	filled = sys4(SYS_fallocate, fd, 0, 0, FILE_SIZE) == 0 &&
		 write_at(fd, &stats, sizeof stats, 0) &&
		 write_at(fd, &histograms, sizeof histograms, AT_HISTOGRAMS) &&
		 write_at(fd, &head, sizeof head, AT_HEAD);
	os_quiet_end(&q);
	return filled;
}

void page_open(void)
{
	char path[512];
	struct text t = {.buf = path, .len = 0, .cap = sizeof path};
	struct stat st;
	long fd;

	if (!config.stats_page[0] || mapped)
		return;
	stats_path(config.stats_page, &t);
	if (confined_wait(CONFINE_FILES)) {
		log_line(LOG_WARN, "PREEMPT_STATS_PAGE: a seccomp filter may forbid %s", path);
		return;
	}
	if (str_eq(config.stats,
		   config.stats_page)) { // cutting a file that is mapped ends the program
		log_line(LOG_WARN, "PREEMPT_STATS_PAGE: %s is PREEMPT_STATS already", path);
		return;
	}
	if (sys4(SYS_newfstatat, AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    S_ISREG(st.st_mode))
		sys1(SYS_unlink, path); // of the program that this process was before
	fd = sys4(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		  0600);
	if (fd < 0) {
		log_line(LOG_WARN, "PREEMPT_STATS_PAGE: cannot make %s: error %d", path, (int)-fd);
		return;
	}
	// The second may only fail for lack of memory; then the histograms stay private, and their file says nothing.
	if (fill((int)fd) && map((int)fd, &stats, sizeof stats, 0)) {
		mapped = true;
		(void)map((int)fd, &histograms, sizeof histograms, AT_HISTOGRAMS);
	} else {
		log_line(LOG_WARN, "PREEMPT_STATS_PAGE: cannot fill or map %s", path);
		sys1(SYS_unlink, path);
	}
	sys1(SYS_close, fd);
}

void page_leave(void)
{
	const long flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

	if (!mapped)
		return;
	mapped = false;
	(void)sys6(SYS_mmap, (long)&stats, sizeof stats, PROT_READ | PROT_WRITE, flags, -1, 0);
	(void)sys6(SYS_mmap, (long)&histograms, sizeof histograms, PROT_READ | PROT_WRITE, flags,
		   -1, 0);
}

int page_load(int fd, int *ret_pid)
{
	struct head head;

	if (sys4(SYS_pread64, fd, &head, sizeof head, AT_HEAD) != (long)sizeof head)
		return -EBADMSG;
	head.version[sizeof head.version - 1] = 0;
	for (int i = 0; i < 8; i++) {
		if (head.magic[i] != PAGE_MAGIC[i])
			return -EBADMSG;
	}
	if (head.size != FILE_SIZE || !str_eq(head.version, PREEMPT_VERSION) || head.procs < 1 ||
	    head.procs > MAX_PROCS || !policy_numbered(head.policy))
		return -EBADMSG;
	if (head.pid < 1 || head.quantum < 1 || head.start < 0)
		return -EBADMSG;
	if (sys4(SYS_pread64, fd, &stats, sizeof stats, 0) != (long)sizeof stats ||
	    sys4(SYS_pread64, fd, &histograms, sizeof histograms, AT_HISTOGRAMS) !=
		    (long)sizeof histograms)
		return -EBADMSG;
	sched.nprocs = head.procs;
	sched.policy = policy_numbered(head.policy);
	// By another clock (a time namespace) it may be later than now: for how long it ran is not known then.
	sched.start_time = head.start <= os_nanotime() ? head.start : 0;
	config.quantum = head.quantum;
	*ret_pid = head.pid;
	return 0;
}
