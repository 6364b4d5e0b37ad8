// child.c: runs a program in the foreground and waits, as if this command were not there.
//
// Problem: the program must get the signals, the terminal and the standard streams that it would have had; and
// this command must outlive it, to print what it found.
// Approach: the program stays in our process group, so it gets from the terminal what the kernel sends to the group, and needs no
// change of the foreground group. Our signals are blocked and taken by sigwaitinfo: one that the kernel sent (SI_KERNEL:
// ^C, ^\, a change of the window, a hang-up) has reached the program already; one that another process sent goes on to the program.
// Job control: ^Z stops both, for SIGTSTP is not blocked. A program that stopped itself alone (an editor) takes us with it, or the
// shell would not notice; when the shell continues us, it is continued.
// Delicate: a program that is being continued with us may still look stopped for an instant, hence the second look.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "figures.h"

static const int passed[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH};

static sigset_t ours, inherited_mask;
static struct sigaction inherited_chld;

void child_begin(void)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};

	sigemptyset(&ours);
	for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
		sigaddset(&ours, passed[i]);
	for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		sigaddset(&ours, sig);
	sigaddset(&ours, SIGCHLD);
	sigprocmask(SIG_BLOCK, &ours, &inherited_mask);
	sigaction(SIGCHLD, &dfl, &inherited_chld); // ignored, the status would be lost
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t ns_of(struct timeval t)
{
	return ((int64_t)t.tv_sec * 1000000 + t.tv_usec) * 1000;
}

static void redirect(int from, int to)
{
	if (from >= 0 && dup2(from, to) < 0)
		die("%s", strerror(errno));
}

static void become(const struct child *child, int report)
{
	int err;

	redirect(child->in, 0);
	redirect(child->out, 1);
	redirect(child->err, 2);
	if (child->library)
		launch_preload(child->library);
	else
		launch_plain();
	if (child->stats) {
		char page[PATH_MAX];

		snprintf(page, sizeof page, "%s" PAGE_SUFFIX, child->stats);
		set_env("PREEMPT_STATS", child->stats);
		set_env("PREEMPT_STATS_PAGE", page);
	}
	sigaction(SIGCHLD, &inherited_chld, NULL);
	sigprocmask(SIG_SETMASK, &inherited_mask, NULL);
	execvp(child->command[0], child->command);
	err = errno;
	(void)!write(report, &err, sizeof err);
	_exit(EXIT_FAILED);
}

// The program is stopped, and not just being continued with us: stop as well, until somebody continues us.
static void stop_too(pid_t pid)
{
	const struct timespec while_ = {.tv_nsec = 50 * 1000 * 1000};
	siginfo_t info = {0};

	nanosleep(&while_, NULL);
	if (waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT) != 0 || !info.si_pid)
		return;
	raise(SIGSTOP);
	kill(pid, SIGCONT);
}

static void pass_on(struct child *child, pid_t pid, const siginfo_t *info)
{
	switch (info->si_signo) {
	case SIGHUP:
	case SIGINT:
	case SIGQUIT:
	case SIGTERM:
		child->interrupted = info->si_signo;
		break;
	default:
		break;
	}
	if (info->si_code != SI_KERNEL)
		kill(pid, info->si_signo);
}

static void wait_for(struct child *child, pid_t pid)
{
	struct rusage usage;
	siginfo_t info;
	pid_t r;

	for (;;) {
		if (sigwaitinfo(&ours, &info) < 0)
			continue;
		if (info.si_signo != SIGCHLD) {
			pass_on(child, pid, &info);
			continue;
		}
		// Stops are looked at without taking them, for the second look of stop_too.
		info = (siginfo_t){0};
		if (waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
		    info.si_pid == pid && info.si_code == CLD_STOPPED) {
			stop_too(pid);
			continue;
		}
		do
			r = wait4(pid, &child->status, WNOHANG, &usage);
		while (r < 0 && errno == EINTR);
		if (r == pid)
			break;
		if (r < 0)
			die("waiting for %s: %s", child->command[0], strerror(errno));
	}
	child->user = ns_of(usage.ru_utime);
	child->sys = ns_of(usage.ru_stime);
	child->max_rss = usage.ru_maxrss;
}

int child_run(struct child *child)
{
	int fds[2], err = 0;
	int64_t start;
	pid_t pid;

	child->interrupted = 0;
	if (pipe2(fds, O_CLOEXEC) != 0)
		die("%s", strerror(errno));
	fflush(NULL);
	start = now();
	pid = fork();
	if (pid < 0)
		die("no process for %s: %s", child->command[0], strerror(errno));
	if (pid == 0)
		become(child, fds[1]);
	close(fds[1]);
	while (read(fds[0], &err, sizeof err) < 0 && errno == EINTR)
		;
	close(fds[0]);
	wait_for(child, pid);
	child->wall = now() - start;
	if (!err)
		return 0;
	fprintf(stderr, "preempt: %s: %s\n", child->command[0], strerror(err));
	return err == ENOENT ? EXIT_NOENT : EXIT_NOEXEC;
}

bool child_failed(const struct child *child)
{
	return !WIFEXITED(child->status) || WEXITSTATUS(child->status) != 0;
}

const char *child_ended(const struct child *child, char buf[64])
{
	if (WIFSIGNALED(child->status))
		snprintf(buf, 64, "killed by signal %d (%s)", WTERMSIG(child->status),
			 strsignal(WTERMSIG(child->status)));
	else
		snprintf(buf, 64, "exit code %d", WEXITSTATUS(child->status));
	return buf;
}

int child_exit(const struct child *child)
{
	const struct rlimit none = {0};
	sigset_t set;
	int sig;

	if (WIFEXITED(child->status))
		return WEXITSTATUS(child->status);
	sig = WTERMSIG(child->status);
	setrlimit(RLIMIT_CORE, &none); // the program's own core file is the one that is wanted
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
	return 128 + sig; // not reached with any signal that ends a process
}
