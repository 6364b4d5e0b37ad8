// machine.c: what `preempt doctor` asks the kernel, the C library and the control groups of the calling process.
//
// The program will run in the same place: same filters, limits and groups. The last word has a trial: a program of two threads is
// started with the library, and the library's own figures must tell of them.

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "doctor.h"
#include "figures.h"
#include "cgroups.h"

extern char **environ;

enum { TRIAL_SECONDS = 20 };

// --- settings ---------------------------------------------------------------------------------------------

static const char *getenv_quiet(const char *name)
{
	return strcmp(name, "PREEMPT_LOG") == 0 ? "off" : getenv(name);
}

static bool is_setting(const char *entry)
{
	struct setting_info set;

	for (int i = 0; env_setting(i, &set); i++) {
		size_t n = strlen(set.name);

		if (strncmp(entry, set.name, n) == 0 && entry[n] == '=')
			return true;
	}
	return false;
}

static int judge_values(struct doctor *d)
{
	struct setting_info set;
	int bad = 0;

	for (int i = 0; env_setting(i, &set); i++) {
		const char *value = getenv(set.name), *why;

		why = value && *value ? env_check(i, value) : NULL;
		if (!why)
			continue;
		bad++;
		find_that(d, LEVEL_WARN, "setting",
			  "correct or unset it; 'preempt help env' lists all",
			  "%s=%s: %s (%s); the library will use %s", set.name, value, why,
			  set.range, set.def);
	}
	for (char **e = environ; *e; e++) {
		if (strncmp(*e, "PREEMPT_", 8) != 0 || is_setting(*e))
			continue;
		bad++;
		find_that(d, LEVEL_WARN, "setting",
			  "correct or unset it; 'preempt help env' lists all",
			  "%.*s: there is no such setting; the library will ignore it",
			  (int)strcspn(*e, "="), *e);
	}
	return bad;
}

void doctor_settings(struct doctor *d)
{
	int bad;

	d->section = "settings";
	bad = judge_values(d);
	env_read(getenv_quiet, NULL);
	if (bad && config.strict)
		find_that(d, LEVEL_STOP, "strict", "correct the settings, or unset PREEMPT_STRICT",
			  "with PREEMPT_STRICT the program will not start (exit code 127)");
	if (config.off)
		find_that(d, LEVEL_STOP, "off", "unset PREEMPT_OFF",
			  "PREEMPT_OFF is set: the library passes everything through");
	if (config.asyncpreemptoff)
		find_that(d, LEVEL_NOTE, "async", "unset PREEMPT_ASYNCPREEMPTOFF",
			  "PREEMPT_ASYNCPREEMPTOFF is set: threads that make no calls are never "
			  "stopped");
	if (!bad)
		find_that(d, LEVEL_OK, "settings", NULL, "policy %s, quantum %g ms",
			  config.policy->name, (double)config.quantum / 1e6);
	config.log = LOG_OFF; // what there is to say is said here
}

// --- CPUs, memory, threads -----------------------------------------------------------------------------------

static void judge_cpus(struct doctor *d)
{
	int cpus = os_affinity_cpus(0), quota, procs;

	cgroup_init("");
	quota = cgroup_cpus();
	procs = config.procs ? config.procs : quota && quota < cpus ? quota : cpus;
	json_set(d->facts, "cpus", json_integer(cpus));
	json_set(d->facts, "quota_cpus", quota ? json_integer(quota) : json_null());
	json_set(d->facts, "procs", json_integer(procs));
	if (config.procs && config.procs > (quota && quota < cpus ? quota : cpus))
		find_that(
			d, LEVEL_WARN, "cpus", "leave PREEMPT_PROCS at auto",
			"PREEMPT_PROCS=%d is more than the %d CPUs there are: the kernel will stop "
			"threads at any place",
			config.procs, quota && quota < cpus ? quota : cpus);
	else if (quota && quota < cpus)
		find_that(d, LEVEL_OK, "cpus", NULL,
			  "%d CPUs, of which the container's quota allows %d: %d threads run at a "
			  "time",
			  cpus, quota, procs);
	else
		find_that(d, LEVEL_OK, "cpus", NULL, "%d CPUs, no quota: %d threads run at a time",
			  cpus, procs);
}

static json_t *json_limit(int64_t n)
{
	return n < 0 ? json_null() : json_integer(n);
}

static void judge_limits(struct doctor *d)
{
	struct limit memory = limit_of("", "memory"), pids = limit_of("", "pids");
	struct rlimit r;

	json_set(d->facts, "memory_max", json_limit(memory.max));
	json_set(d->facts, "memory_used", json_limit(memory.max < 0 ? -1 : memory.used));
	json_set(d->facts, "pids_max", json_limit(pids.max));
	json_set(d->facts, "pids_used", json_limit(pids.max < 0 ? -1 : pids.used));
	if (memory.max >= 0)
		find_that(d, memory.max - memory.used < 64 << 20 ? LEVEL_WARN : LEVEL_OK, "memory",
			  memory.max - memory.used < 64 << 20
				  ? "build tables beforehand (preempt tables build), or allow more "
				    "memory"
				  : NULL,
			  "the control group allows %lld MiB of memory, %lld are used",
			  (long long)memory.max >> 20, (long long)memory.used >> 20);
	if (pids.max >= 0)
		find_that(
			d, pids.max - pids.used < 4 ? LEVEL_WARN : LEVEL_OK, "pids",
			pids.max - pids.used < 4 ? "allow more (pids.max)" : NULL,
			"the control group allows %lld threads and processes, %lld are there; the "
			"library adds one thread",
			(long long)pids.max, (long long)pids.used);
	if (getuid() != 0 && getrlimit(RLIMIT_NPROC, &r) == 0 && r.rlim_cur < 64)
		find_that(
			d, LEVEL_WARN, "nproc", "raise it: ulimit -u",
			"RLIMIT_NPROC allows %llu threads and processes of this user; the library "
			"adds one thread",
			(unsigned long long)r.rlim_cur);
	if (getrlimit(RLIMIT_AS, &r) == 0 && r.rlim_cur < 256 << 20)
		find_that(d, LEVEL_WARN, "address-space", "raise it: ulimit -v",
			  "RLIMIT_AS allows %llu MiB of address space; the library takes some 10",
			  (unsigned long long)r.rlim_cur >> 20);
}

// --- kernel and C library --------------------------------------------------------------------------------------

static void judge_versions(struct doctor *d)
{
	const char *glibc = gnu_get_libc_version();
	struct utsname u;
	int major, minor;

	uname(&u);
	json_set(d->facts, "kernel", json_text(u.release));
	json_set(d->facts, "glibc", json_text(glibc));
	if (sscanf(u.release, "%d.%d", &major, &minor) == 2 && major * 100 + minor < 414)
		find_that(d, LEVEL_WARN, "kernel", "use Linux 4.14 or later",
			  "Linux %s is old: calls that may block cost more", u.release);
	else
		find_that(d, LEVEL_OK, "kernel", NULL, "Linux %s", u.release);
	if (sscanf(glibc, "%d.%d", &major, &minor) != 2 || major * 100 + minor < 234)
		find_that(d, LEVEL_STOP, "glibc", "use glibc 2.34 or later",
			  "glibc %s: the library needs 2.34", glibc);
	else if (major * 100 + minor < 235)
		find_that(d, LEVEL_WARN, "glibc", "use glibc 2.35 or later",
			  "glibc %s has no _dl_find_object: tables cannot be used, threads are "
			  "stopped "
			  "by PREEMPT_FORCE_AFTER only",
			  glibc);
	else
		find_that(d, LEVEL_OK, "glibc", NULL, "glibc %s", glibc);
}

// The number after a key in /proc/self/status, or -1.
static long status_number(const char *key, int radix)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[512];
	long n = -1;

	while (f && n < 0 && fgets(line, sizeof line, f)) {
		size_t k = strlen(key);

		if (strncmp(line, key, k) == 0 && line[k] == ':')
			n = strtol(line + k + 1, NULL, radix);
	}
	if (f)
		fclose(f);
	return n;
}

static bool status_has(const char *key, const char *word)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[512];
	bool found = false;

	while (f && !found && fgets(line, sizeof line, f))
		found = strncmp(line, key, strlen(key)) == 0 && strstr(line, word);
	if (f)
		fclose(f);
	return found;
}

// The library's own way to find out what the filter of this process lives with, if there is one.
static bool filter_allows(uint32_t wanted)
{
	static bool asked;

	if (!asked)
		confine_init();
	asked = true;
	return !confined_wait(wanted);
}

static bool can_write_self(void)
{
	char from = 1, to = 0;
	struct iovec local = {&from, 1}, remote = {&to, 1};

	return filter_allows(CONFINE_VM) &&
	       process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == 1 && to == 1;
}

static void judge_features(struct doctor *d)
{
	long barriers = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
	bool barrier = barriers > 0 && (barriers & MEMBARRIER_CMD_PRIVATE_EXPEDITED);
	bool writes = can_write_self(), proc = access("/proc/self/maps", R_OK) == 0;
	const unsigned *rseq = dlsym(RTLD_DEFAULT, "__rseq_size"); // glibc 2.35
	json_t *features = must(json_object());

	json_set(features, "membarrier", json_boolean(barrier));
	json_set(features, "process_vm_writev", json_boolean(writes));
	json_set(features, "proc", json_boolean(proc));
	json_set(features, "rseq", json_boolean(rseq && *rseq));
	json_set(features, "avx512", json_boolean(__builtin_cpu_supports("avx512f")));
	json_set(d->facts, "features", features);
	if (!barrier)
		find_that(d, LEVEL_NOTE, "membarrier", NULL,
			  "membarrier(2) is not there: calls that may block cost some 20 ns more");
	if (!writes)
		find_that(d, LEVEL_NOTE, "process_vm_writev", NULL,
			  "process_vm_writev(2) is not allowed: no instructions are rewritten, "
			  "waits by "
			  "spinning are found by sampling");
	if (!proc)
		find_that(d, LEVEL_WARN, "proc", "mount /proc",
			  "/proc is not there: tables cannot be used, threads are stopped by "
			  "PREEMPT_FORCE_AFTER only");
	if (barrier && writes && proc)
		find_that(d, LEVEL_OK, "features", NULL, "membarrier, process_vm_writev, /proc");
}

static void judge_filter(struct doctor *d)
{
	const uint32_t sites = CONFINE_FILES | CONFINE_VM | CONFINE_TEXT | CONFINE_WAIT;
	const char *without;

	if (!filter_allows(CONFINE_FILES))
		without = "no `preempt top`, `dump` and `trace`, and no instructions are rewritten";
	else if (!filter_allows(CONFINE_FILES | CONFINE_VM))
		without = "no `preempt top`, and no instructions are rewritten";
	else if (!filter_allows(sites))
		without = "no instructions are rewritten";
	else
		without = NULL;
	if (without)
		find_that(d, LEVEL_NOTE, "seccomp", NULL,
			  "this process is under a seccomp filter that may kill for what it takes: "
			  "%s",
			  without);
	else
		find_that(
			d, LEVEL_OK, "seccomp", NULL,
			"this process is under a seccomp filter, as in containers; it allows what "
			"the library does");
}

static void judge_confinement(struct doctor *d)
{
	long seccomp = status_number("Seccomp", 10), tracer = status_number("TracerPid", 10);

	json_set(d->facts, "seccomp", json_limit(seccomp));
	if (seccomp == 1)
		find_that(d, LEVEL_STOP, "seccomp", NULL,
			  "this process is under strict seccomp: no program starts at all");
	else if (seccomp > 1)
		judge_filter(d);
	if (tracer > 0)
		find_that(
			d, LEVEL_NOTE, "debugger", NULL,
			"this process is traced by process %ld; programs that are get no rewritten "
			"instructions",
			tracer);
	if (status_has("x86_Thread_features:", "shstk"))
		find_that(d, LEVEL_WARN, "shadow-stack",
			  "GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK turns it off",
			  "shadow stacks are on: threads are stopped by PREEMPT_FORCE_AFTER only");
}

// --- the cache ----------------------------------------------------------------------------------------------------

static void judge_directory(struct doctor *d, const char *dir)
{
	struct statvfs fs;
	struct stat st;
	int fd = cache_dir_open(dir);

	if (fd == -EPERM) {
		if (lstat(dir, &st) == 0 && S_ISDIR(st.st_mode))
			find_that(
				d, LEVEL_WARN, "cache",
				"chown it to this user and chmod go-w it, or set PREEMPT_CACHE_DIR",
				"%s belongs to user %u with mode %03o: not used, for somebody else "
				"may "
				"write to it",
				dir, st.st_uid, st.st_mode & 07777);
		else
			find_that(d, LEVEL_WARN, "cache", "set PREEMPT_CACHE_DIR to a directory",
				  "%s is not a directory: not used", dir);
	} else if (fd < 0 && fd != -ENOENT) {
		find_that(d, LEVEL_WARN, "cache", "set PREEMPT_CACHE_DIR to another directory",
			  "%s: %s", dir, strerror(-fd));
	} else if (fd < 0) {
		find_that(d, LEVEL_OK, "cache", NULL,
			  "%s does not exist yet; it is made when needed", dir);
	} else if (faccessat(AT_FDCWD, dir, W_OK, AT_EACCESS) != 0) {
		find_that(d, LEVEL_WARN, "cache",
			  "let this user write to it, or set PREEMPT_CACHE_DIR",
			  "%s: %s; missing tables cannot be built", dir, strerror(errno));
	} else if (statvfs(dir, &fs) == 0 && fs.f_bavail * fs.f_frsize < 32 << 20) {
		find_that(d, LEVEL_WARN, "cache", "make room, or set PREEMPT_CACHE_DIR",
			  "%s: only %llu MiB are free there", dir,
			  (unsigned long long)(fs.f_bavail * fs.f_frsize) >> 20);
	} else {
		find_that(d, LEVEL_OK, "cache", NULL, "tables are kept in %s", dir);
	}
	if (fd >= 0)
		close(fd);
}

void doctor_cache(struct doctor *d)
{
	const char *dir;

	d->section = "tables";
	dir = cache_dir();
	json_set(d->facts, "cache_dir", dir ? json_text(dir) : json_null());
	if (dir)
		judge_directory(d, dir);
	else
		find_that(d, LEVEL_WARN, "cache",
			  "set HOME or PREEMPT_CACHE_DIR to an absolute path, or let root build "
			  "tables "
			  "for all users: preempt tables build --system",
			  "there is no directory for tables: HOME, XDG_CACHE_HOME and "
			  "PREEMPT_CACHE_DIR "
			  "are not set");
}

// --- the trial ----------------------------------------------------------------------------------------------------

static void *nothing(void *arg)
{
	return arg;
}

int doctor_trial(void)
{
	pthread_t t;

	alarm(TRIAL_SECONDS);
	if (pthread_create(&t, NULL, nothing, NULL) != 0)
		return 1;
	return pthread_join(t, NULL) != 0;
}

static void first_line(FILE *f, char *line, int size)
{
	rewind(f);
	if (!fgets(line, size, f))
		line[0] = 0;
	line[strcspn(line, "\n")] = 0;
}

static void judge_trial(struct doctor *d)
{
	char self[PATH_MAX], line[300], buf[64];
	char *command[] = {self, (char *)DOCTOR_TRIAL, NULL};
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	struct child child = {
		.command = command,
		.library = d->launch.library,
		.stats = figures_pattern(),
		.in = -1,
		.out = -1,
	};
	FILE *err = tmpfile();
	struct figures figures;

	if (n < 0 || !err)
		return; // no /proc, no /tmp: said elsewhere
	self[n] = 0;
	child.err = fileno(err);
	child_begin();
	if (child_run(&child) != 0)
		return;
	figures_read(&figures);
	first_line(err, line, sizeof line);
	fclose(err);
	if (child_failed(&child))
		find_that(d, LEVEL_STOP, "trial", "report this, with the output of --json",
			  "a trial program with the library failed: %s%s%s",
			  child_ended(&child, buf), *line ? ": " : "", line);
	else if (!figures.threaded)
		find_that(d, LEVEL_STOP, "trial",
			  "see the reason given, else try PREEMPT_LOG=debug",
			  "the library did not start in a trial program%s%s", *line ? ": " : "",
			  line);
	else
		find_that(d, *line ? LEVEL_WARN : LEVEL_OK, "trial", NULL,
			  "the library works in a trial program%s%s", *line ? ", but says: " : "",
			  line);
	figures_free(&figures);
}

void doctor_machine(struct doctor *d)
{
	d->section = "machine";
	judge_versions(d);
	judge_features(d);
	judge_confinement(d);
	judge_cpus(d);
	judge_limits(d);
	if (!config.off)
		judge_trial(d);
}
