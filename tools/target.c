// target.c: finds a process that runs with the library.
//
// The library's own thread in it is known by its name, and by blocking all signals but one, for which the process has a handler. A process without
// the library has no such thread, so it is never sent anything.

#include "target.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { FINDS_OUT = 50 }; // looks, of 10 ms

// The number behind NAME: in a status file, in base 16. False: it is not there.
static bool status_mask(const char *path, const char *name, uint64_t *ret)
{
	FILE *f = fopen(path, "re");
	size_t len = strlen(name), cap = 0;
	char *line = NULL;
	bool found = false;

	while (f && !found && getline(&line, &cap, f) > 0)
		if (strncmp(line, name, len) == 0 && line[len] == ':') {
			*ret = strtoull(line + len + 1, NULL, 16);
			found = true;
		}
	free(line);
	if (f)
		fclose(f);
	return found;
}

static bool has_library(int pid)
{
	char path[64], *line = NULL;
	size_t cap = 0;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	while (f && !found && getline(&line, &cap, f) > 0)
		found = strstr(line, "/libpreempt.so");
	free(line);
	if (f)
		fclose(f);
	return found;
}

// The library's thread, and the one signal that it takes; 0: there is none.
static int find_sysmon(int pid, int *ret_signal, int *ret_deaf)
{
	const uint64_t never = 1ULL << (SIGKILL - 1) | 1ULL << (SIGSTOP - 1);
	char path[320], comm[32];
	struct dirent *e;
	int found = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	while (d && !found && (e = readdir(d))) {
		uint64_t blocked, caught, open;

		if (!isdigit((unsigned char)*e->d_name))
			continue;
		target_comm(pid, atoi(e->d_name), comm);
		if (strcmp(comm, "sysmon") != 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/status", pid, e->d_name);
		if (!status_mask(path, "SigBlk", &blocked) || !status_mask(path, "SigCgt", &caught))
			continue;
		open = ~(blocked | never);
		if (!open)
			*ret_deaf = atoi(e->d_name);
		if (!open || open & (open - 1) || !(caught & open))
			continue;
		*ret_signal = __builtin_ctzll(open) + 1;
		found = atoi(e->d_name);
	}
	if (d)
		closedir(d);
	return found;
}

void target_comm(int pid, int tid, char name[32])
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/task/%d/comm", pid, tid);
	f = fopen(path, "re");
	if (!f || !fgets(name, 32, f))
		name[0] = 0;
	if (f)
		fclose(f);
	name[strcspn(name, "\n")] = 0;
}

// Its pid in the innermost namespace.
static int inner_pid(int pid)
{
	char path[64], *line = NULL;
	int inner = pid;
	size_t cap = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && getline(&line, &cap, f) > 0) {
		if (strncmp(line, "NSpid:", 6) == 0)
			inner = atoi(strrchr(line, '\t') + 1);
	}
	free(line);
	if (f)
		fclose(f);
	return inner;
}

// Whose files the process makes. Not the owner of /proc/PID: that is root for one that has changed its user.
static uid_t user_of(int pid)
{
	char path[64], *line = NULL;
	uid_t user = (uid_t)-1;
	unsigned effective;
	size_t cap = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && getline(&line, &cap, f) > 0)
		if (sscanf(line, "Uid: %*u %u", &effective) == 1)
			user = effective;
	free(line);
	if (f)
		fclose(f);
	return user;
}

bool target_parse(struct target *t, const char *text)
{
	char *end;
	long pid = strtol(text, &end, 10);

	*t = (struct target){.pid = (int)pid};
	if (end != text && !*end && pid > 0 && pid <= 1 << 30)
		return true;
	fprintf(stderr, "preempt: '%s' is not a process id\n", text);
	return false;
}

static bool is_confined(int pid, int tid)
{
	char path[64];
	uint64_t mode;

	snprintf(path, sizeof path, "/proc/%d/task/%d/status", pid, tid);
	return status_mask(path, "Seccomp", &mode) && mode;
}

// Everything but whether it has the library.
static void look(struct target *t)
{
	t->deaf = 0;
	t->uid = user_of(t->pid);
	t->inner = inner_pid(t->pid);
	target_comm(t->pid, t->pid, t->name);
	t->sysmon = find_sysmon(t->pid, &t->signal, &t->deaf);
}

// As look, until its sysmon takes requests: it does not before its first round, nor, under a filter, before it knows what that
// allows, nor for the moment in which it takes one.
static void look_patiently(struct target *t)
{
	look(t);
	for (int i = 0; i < FINDS_OUT && !t->sysmon && t->deaf; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
		look(t);
	}
}

// A filter may be why its sysmon takes no requests.
static bool deaf_by_filter(const struct target *t)
{
	return !t->sysmon && t->deaf && is_confined(t->pid, t->deaf);
}

// Why it cannot be asked.
static void explain(const struct target *t)
{
	if (!deaf_by_filter(t))
		fprintf(stderr,
			"preempt: the threads of process %d are not scheduled (yet): it has one "
			"thread, "
			"or does not let the library work\n",
			t->pid);
	else
		fprintf(stderr,
			"preempt: process %d %s; PREEMPT_DUMP_SIGNAL and PREEMPT_STATS are other "
			"ways\n",
			t->pid, target_error(-EACCES));
}

bool target_find(struct target *t)
{
	if (kill(t->pid, 0) != 0) {
		fprintf(stderr, "preempt: process %d: %s\n", t->pid, strerror(errno));
		return false;
	}
	if (!has_library(t->pid)) {
		fprintf(stderr,
			"preempt: process %d does not run with libpreempt, or belongs to somebody "
			"else\n",
			t->pid);
		return false;
	}
	look_patiently(t);
	if (t->sysmon)
		return true;
	explain(t);
	return false;
}

bool target_is_deaf(const struct target *t)
{
	struct target now = *t;

	look_patiently(&now);
	return deaf_by_filter(&now);
}

bool target_is_there(struct target *t)
{
	if (kill(t->pid, 0) != 0 || !has_library(t->pid))
		return false;
	look(t);
	return t->sysmon;
}

bool target_lives(const struct target *t)
{
	return kill(t->pid, 0) == 0 || errno != ESRCH;
}

int target_ask(const struct target *t, uint64_t value)
{
	siginfo_t info = {.si_signo = t->signal, .si_code = SI_QUEUE};

	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_ptr = (void *)(uintptr_t)value;
	return syscall(SYS_rt_tgsigqueueinfo, t->pid, t->sysmon, t->signal, &info) == 0 ? 0
											: -errno;
}

const char *target_error(int error)
{
	if (error == -EPERM && is_confined(getpid(), getpid()))
		return "cannot be sent a signal: this command is under a seccomp filter, which may "
		       "forbid "
		       "rt_tgsigqueueinfo";
	switch (error) {
	case -EPERM:
		return "belongs to somebody else (Operation not permitted)";
	case -EACCES:
		return "is under a seccomp filter that may answer with death, so the library "
		       "makes no files in it";
	case -ESRCH:
		return "has ended";
	default:
		return strerror(-error);
	}
}

static int by_pid(const void *a, const void *b)
{
	return ((const struct target *)a)->pid - ((const struct target *)b)->pid;
}

size_t target_list(struct target **ret)
{
	DIR *d = opendir("/proc");
	struct target *v = NULL;
	struct dirent *e;
	size_t n = 0;

	while (d && (e = readdir(d))) {
		struct target t = {.pid = atoi(e->d_name)}, *grown;

		if (t.pid <= 0 || !target_is_there(&t))
			continue;
		grown = realloc(v, (n + 1) * sizeof *v);
		if (!grown)
			break;
		v = grown;
		v[n++] = t;
	}
	if (d)
		closedir(d);
	if (n)
		qsort(v, n, sizeof *v, by_pid);
	*ret = v;
	return n;
}
