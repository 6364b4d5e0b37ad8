// dump.c: `preempt dump PID`: what all threads of a process do.
//
// The process writes it itself (shim/dump.c), in addresses; here they get names. It is asked by a signal to the library's own thread in
// it: that thread takes no part in the program, so no call of the program is interrupted. Which thread that is, is seen from outside: its
// name, and that it blocks all signals but one, for which the process has a handler. A process without the library has no such thread, so
// it is never sent anything; and if it executes another program just now, the thread is gone, and the signal reaches nobody.
//
// The answer is a file with a random name in /tmp/preempt-UID, as the process sees that; it is removed at once. It counts if file and directory
// belong to the user of the process and nobody else may write to them. Its text is the process's: what could steer a terminal is not printed.

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "symbols.h"
#include "tables.h"
#include "target.h"

enum { OPT_NAMES = 256, OPT_RAW, OPT_TIMEOUT };

struct options {
	const char *target; // process id, or a file
	bool names, raw;
	int seconds;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case OPT_NAMES:
		o->names = true;
		return 0;
	case OPT_RAW:
		o->raw = true;
		return 0;
	case OPT_TIMEOUT:
		o->seconds = atoi(arg);
		if (o->seconds <= 0)
			argp_error(state, "--timeout=%s: not a number of seconds", arg);
		return 0;
	case ARGP_KEY_ARG:
		if (o->target)
			argp_error(state, "one process at a time");
		o->target = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->target && !o->names)
			argp_error(state, "no process id given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{"raw", OPT_RAW, NULL, 0, "Addresses only, no names of functions", 0},
	{"timeout", OPT_TIMEOUT, "SECONDS", 0, "How long to wait for the process (10)", 0},
	{"names", OPT_NAMES, NULL, 0,
	 "Read a dump or a report of a deadlock from FILE or standard input, and add names", 0},
	{0},
};

static const struct argp argp = {
	options,
	parse,
	"PID\n--names [FILE]",
	"Print what all threads of a process do that runs with libpreempt.\v"
	"For each thread: its state and for how long it has been in it, the lock that it waits for "
	"and "
	"who holds it, and its callers. All threads are stopped meanwhile, for some milliseconds.",
	NULL,
	NULL,
	NULL,
};

void dump_help(FILE *out)
{
	argp_help(&argp, out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK, (char *)"preempt dump");
}

// --- names --------------------------------------------------------------------------------------------

// "\tat PATH+0xADDRESS" gets a name; every other line stays as it is.
static void print_named(char *line, const char *root)
{
	bool exact = strncmp(line, "\tat ", 4) == 0;
	char *path = line + 4, *plus = strrchr(line, '+'), *end;
	uint64_t address;

	if ((exact || strncmp(line, "\tby ", 4) == 0) &&
	    (*path == '/' || strncmp(path, "[vdso]+", 7) == 0) && plus &&
	    strncmp(plus, "+0x", 3) == 0) {
		address = strtoull(plus + 1, &end, 16);
		if (*end == '\n' || *end == 0) {
			*plus = 0;
			printf("%.4s", line);
			if (symbol_print(stdout, root, path, address, exact))
				printf(" in %s\n", path);
			else
				printf("%s+0x%lx\n", path, (unsigned long)address);
			return;
		}
	}
	fputs(line, stdout);
}

// Bytes above are parts of characters in other languages; alone they steer nothing where text is UTF-8.
static void make_plain(char *line)
{
	for (; *line; line++)
		if (((unsigned char)*line < ' ' && *line != '\t' && *line != '\n') || *line == 0x7f)
			*line = '?';
}

static void print_dump(FILE *in, const char *root, bool raw)
{
	char *line = NULL;
	size_t cap = 0;

	while (getline(&line, &cap, in) > 0) {
		make_plain(line);
		if (raw)
			fputs(line, stdout);
		else
			print_named(line, root);
	}
	free(line);
	symbols_free();
}

static int names_of(const char *path)
{
	FILE *in = path ? fopen(path, "re") : stdin;

	if (!in) {
		fprintf(stderr, "preempt: %s: %s\n", path, strerror(errno));
		return EXIT_FAILED;
	}
	print_dump(in, "", false);
	if (path)
		fclose(in);
	return 0;
}

// --- the process ----------------------------------------------------------------------------------------

// The process's, and nobody else's to write.
static bool is_from(int fd, uid_t owner, mode_t type)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == type && st.st_uid == owner &&
	       !(st.st_mode & (S_IWGRP | S_IWOTH));
}

// What somebody else put there is left alone: no link is followed from the directory on, and no FIFO is waited for.
static FILE *take_file(char *path, uid_t owner)
{
	char *name = strrchr(path, '/');
	FILE *f = NULL;
	int dir, fd;

	*name++ = 0;
	dir = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return NULL;
	if (is_from(dir, owner, S_IFDIR)) {
		fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (fd >= 0 && is_from(fd, owner, S_IFREG))
			f = fdopen(fd, "r");
		if (f)
			unlinkat(dir, name, 0);
		else if (fd >= 0)
			close(fd);
	}
	close(dir);
	return f;
}

// The answer, when it is there, or NULL. It is removed.
static FILE *take_answer(const char *pattern, uid_t owner)
{
	FILE *f = NULL;
	glob_t g;

	if (glob(pattern, GLOB_NOSORT, NULL, &g) == 0)
		for (size_t i = 0; i < g.gl_pathc && !f; i++)
			f = take_file(g.gl_pathv[i], owner);
	globfree(&g);
	return f;
}

static FILE *wait_for_answer(const struct target *t, uint32_t nonce, int seconds)
{
	int pid = t->pid;
	struct timespec pause = {.tv_nsec = 5000000};
	char below[96], here[64];
	FILE *f;

	snprintf(below, sizeof(below), "/proc/%d/root/tmp/preempt-*/dump-%08x", pid, nonce);
	snprintf(here, sizeof(here), "/tmp/preempt-*/dump-%08x", nonce);
	for (int i = 0; i < seconds * 200; i++) {
		f = take_answer(below, t->uid);
		if (!f)
			f = take_answer(here, t->uid);
		if (f)
			return f;
		if (kill(pid, 0) != 0 && errno == ESRCH) {
			fprintf(stderr, "preempt: process %d has ended\n", pid);
			return NULL;
		}
		if (i % 20 == 19 && target_is_deaf(t)) {
			fprintf(stderr, "preempt: process %d %s\n", pid, target_error(-EACCES));
			return NULL;
		}
		nanosleep(&pause, NULL);
	}
	fprintf(stderr,
		"preempt: process %d has not answered in %d s; it may be stopped, or have no "
		"access to "
		"/tmp\n",
		pid, seconds);
	return NULL;
}

static int dump_process(const struct options *o)
{
	struct target target;
	char root[64];
	uint32_t nonce;
	FILE *answer;
	int r;

	if (!target_parse(&target, o->target) || !target_find(&target))
		return EXIT_FAILED;
	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		nonce = (uint32_t)getpid();
	r = target_ask(&target, (uint64_t)DUMP_MARK << 32 | nonce);
	if (r < 0) {
		fprintf(stderr, "preempt: process %d %s\n", target.pid, target_error(r));
		return EXIT_FAILED;
	}
	answer = wait_for_answer(&target, nonce, o->seconds);
	if (!answer)
		return EXIT_FAILED;
	snprintf(root, sizeof(root), "/proc/%d/root", target.pid);
	print_dump(answer, access(root, X_OK) == 0 ? root : "", o->raw);
	fclose(answer);
	return 0;
}

int cmd_dump(int argc, char **argv)
{
	struct options o = {.seconds = 10};
	error_t err;
	int r;

	argp_err_exit_status = EXIT_FAILED;
	err = argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (err) {
		fprintf(stderr, "preempt: %s\n", strerror(err));
		return EXIT_FAILED;
	}
	r = o.names ? names_of(o.target) : dump_process(&o);
	if (fflush(stdout) != 0 && r == 0) {
		fprintf(stderr, "preempt: standard output: %s\n", strerror(errno));
		r = EXIT_FAILED;
	}
	return r;
}
