/*
 * backtrace_unwind.c - prints the stack of every thread of a process by libunwind: backtrace_unwind PID
 *
 * "thread TID", then a line "#N NAME" for each frame. All threads are stopped while the stacks are read. Exit 77: the
 * system does not allow to trace it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <libunwind-ptrace.h>

enum { MAX_THREADS = 64, MAX_FRAMES = 100 };

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "backtrace_unwind: %s: %s\n", what, strerror(errno));
	exit(errno == EPERM ? 77 : 1);
}

/* False: it is gone meanwhile. */
static bool stop(pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL)) {
		if (errno == ESRCH)
			return false;
		fail("ptrace");
	}
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) || waitpid(tid, &status, __WALL) != tid)
		fail("stop");
	return WIFSTOPPED(status);
}

static void print_stack(unw_addr_space_t space, pid_t tid)
{
	void *arg = _UPT_create(tid);
	unw_cursor_t cursor;
	int r = 1;

	if (!arg || unw_init_remote(&cursor, space, arg))
		fail("unw_init_remote");
	printf("thread %d\n", tid);
	for (int n = 0; n < MAX_FRAMES && r > 0; n++) {
		char name[128] = "?";
		unw_word_t offset;

		unw_get_proc_name(&cursor, name, sizeof(name), &offset);
		printf("#%d %s\n", n, name);
		r = unw_step(&cursor);
	}
	if (r < 0)
		printf("unw_step: %d\n", r);
	_UPT_destroy(arg);
}

int main(int argc, char **argv)
{
	unw_addr_space_t space = unw_create_addr_space(&_UPT_accessors, 0);
	pid_t tids[MAX_THREADS];
	struct dirent *entry;
	char path[64];
	int n = 0;
	DIR *dir;

	if (argc != 2 || !space)
		return 2;
	snprintf(path, sizeof(path), "/proc/%s/task", argv[1]);
	dir = opendir(path);
	if (!dir)
		fail(path);
	while (n < MAX_THREADS && (entry = readdir(dir)))
		if (atoi(entry->d_name) > 0 && stop(atoi(entry->d_name)))
			tids[n++] = atoi(entry->d_name);
	closedir(dir);
	for (int i = 0; i < n; i++)
		print_stack(space, tids[i]);
	unw_destroy_addr_space(space);
	return 0; /* lets them all go on */
}
