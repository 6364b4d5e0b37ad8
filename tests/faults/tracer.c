/*
 * tracer.c - tracer PID MILLISECONDS: attaches to the threads of a process and lets go of them, as fast as it can: one by one, all
 * at once, in the old way (a SIGSTOP) and in the new one. Prints how often. Signals that it meets are passed on.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

enum { MAX = 256 };

static int tasks(int pid, int *tid)
{
	char path[64];
	struct dirent *e;
	int n = 0;
	DIR *d;

	snprintf(path, sizeof path, "/proc/%d/task", pid);
	d = opendir(path);
	while (d && n < MAX && (e = readdir(d)))
		if (e->d_name[0] != '.')
			tid[n++] = atoi(e->d_name);
	if (d)
		closedir(d);
	return n;
}

/* 1: it stands still. 0: it is gone. */
static int attach(int tid, int seize)
{
	int status;

	if (ptrace(seize ? PTRACE_SEIZE : PTRACE_ATTACH, tid, NULL, NULL) < 0)
		return 0;
	if (seize && ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
		return 0;
	while (waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status)) {
		int sig = WSTOPSIG(status);

		if (seize ? status >> 16 == PTRACE_EVENT_STOP : sig == SIGSTOP)
			return 1;
		ptrace(PTRACE_CONT, tid, NULL, (void *)(long)sig);
	}
	return 0;
}

static long long ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	int pid = argc > 2 ? atoi(argv[1]) : 0, tid[MAX], held[MAX], stops = 0;
	long long end = ms() + (argc > 2 ? atoi(argv[2]) : 0);
	struct timespec rest = {0, 2000000};

	for (int round = 0; ms() < end; round++) {
		int n = tasks(pid, tid), together = round & 2;

		for (int i = 0; i < n; i++) {
			held[i] = attach(tid[i], round & 1);
			stops += held[i];
			if (!together && held[i])
				ptrace(PTRACE_DETACH, tid[i], NULL, NULL);
		}
		for (int i = 0; together && i < n; i++)
			if (held[i])
				ptrace(PTRACE_DETACH, tid[i], NULL, NULL);
		nanosleep(&rest, NULL);
	}
	printf("%d\n", stops);
	return errno == EPERM && !stops ? 77 : 0;
}
