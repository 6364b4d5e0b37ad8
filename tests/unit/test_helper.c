// test_helper.c: the helper process: the right command, a clean surrounding, and unseen by the program.
//
// The command is a script in a copy of the tree, X/tools/preempt beside X/shim/libpreempt.so.

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "unit.h"

static char dir[64], library[128], tools[128], script[160];

static void write_file(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
	ck_assert_int_eq(chmod(path, mode), 0);
}

static void command_is(const char *body)
{
	char text[2048];

	snprintf(text, sizeof(text), "#!/bin/sh\nX=%s\n%s\n", dir, body);
	write_file(script, text, 0755);
}

static void setup(void)
{
	char path[128];

	unit_config();
	strcpy(dir, "/tmp/unit-helper-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/shim", dir);
	mkdir(path, 0755);
	snprintf(tools, sizeof(tools), "%s/tools", dir);
	mkdir(tools, 0755);
	snprintf(library, sizeof(library), "%s/shim/libpreempt.so", dir);
	snprintf(script, sizeof(script), "%s/tools/preempt", dir);
	write_file(library, "", 0755);
	confine_init();
}

static void teardown(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static void begin(void)
{
	helper_environment(environ);
	helper_library(library);
	confined_wait(CONFINE_FILES); // the tests themselves may run in a container
}

static const char *const files[] = {"/lib/a.so", "/lib/b b.so"};

// Until it ends: its status.
static int finish(void)
{
	int r = -EAGAIN;

	for (int i = 0; i < 20000 && r == -EAGAIN; i++) {
		usleep(1000);
		r = helper_poll();
	}
	return r;
}

static char *contents(const char *name)
{
	static char buf[16384];
	char path[160];
	int n;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	n = os_read_file(path, buf, sizeof(buf));
	ck_assert_msg(n >= 0, "%s: %d", path, n);
	return buf;
}

static volatile sig_atomic_t chld;

static void on_chld(int sig)
{
	(void)sig;
	chld++;
}

// It gets arguments, /dev/null, no descriptor of ours, default signals, a low priority and a small environment,
// whatever the program has.
START_TEST(surrounding)
{
	int fds[2], nice = getpriority(PRIO_PROCESS, 0);
	sigset_t all;

	setenv("LD_PRELOAD_NOT", "1", 1);
	setenv("LD_BIND_NOW", "1", 1);
	setenv("HOME", "/my home", 1);
	setenv("HOMELY", "no", 1);
	setenv("XDG_CACHE_HOME", "/xdg", 1);
	strcpy(config.cache_dir, "/cache");
	strcpy(config.critical, "my_*:your_*");
	command_is("for a; do echo \"$a\"; done >$X/args\n"
		   "env >$X/env\n"
		   "ls -l /proc/self/fd >$X/fds\n"
		   "cat /proc/self/status >$X/status\n"
		   "cut -d' ' -f5,6,19 /proc/$$/stat >$X/stat\n"
		   "pwd >$X/cwd\n"
		   "exit 7");
	ck_assert_int_eq(pipe(fds), 0);
	fcntl(fds[0], F_DUPFD, 500);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	signal(SIGUSR1, on_chld);
	ck_assert_int_eq(helper_poll(), -ECHILD);
	begin();
	strcpy(getenv("HOME"), "/changed"); // as programs do that change their title
	ck_assert_int_eq(helper_start(files, 2), 0);
	ck_assert_int_eq(helper_start(files, 2), -EBUSY);
	ck_assert_int_eq(finish(), 7);
	ck_assert_int_eq(helper_poll(), -ECHILD);
	ck_assert(!helper_running());
	signal(SIGCHLD, SIG_DFL);
	ck_assert_str_eq(contents("args"), "tables\nbuild\n--helper\n/lib/a.so\n/lib/b b.so\n");
	ck_assert_ptr_nonnull(strstr(contents("env"), "HOME=/my home\n"));
	ck_assert_ptr_nonnull(strstr(contents("env"), "XDG_CACHE_HOME=/xdg\n"));
	ck_assert_ptr_nonnull(strstr(contents("env"), "PREEMPT_CACHE_DIR=/cache\n"));
	ck_assert_ptr_nonnull(strstr(contents("env"), "PREEMPT_CRITICAL=my_*:your_*\n"));
	ck_assert_ptr_null(strstr(contents("env"), "LD_"));
	ck_assert_ptr_null(strstr(contents("env"), "HOMELY"));
	ck_assert_ptr_nonnull(strstr(contents("fds"), " 0 -> /dev/null"));
	ck_assert_ptr_nonnull(strstr(contents("fds"), " 2 -> /dev/null"));
	ck_assert_ptr_null(strstr(contents("fds"), "pipe:"));
	ck_assert_ptr_nonnull(strstr(contents("status"), "SigBlk:\t0000000000000000"));
	ck_assert_ptr_nonnull(strstr(contents("status"), "SigIgn:\t0000000000000000"));
	ck_assert_str_eq(contents("cwd"), "/\n");
	{
		int pgrp, session, its_nice;

		ck_assert_int_eq(sscanf(contents("stat"), "%d %d %d", &pgrp, &session, &its_nice),
				 3);
		ck_assert_int_ne(pgrp, getpgrp());
		ck_assert_int_eq(session, getsid(0));
		ck_assert_int_eq(its_nice, nice + 5 > 19 ? 19 : nice + 5);
	}
	ck_assert_int_eq(getpriority(PRIO_PROCESS, 0), nice);
}
END_TEST

static bool ends_soon(int pid)
{
	char state = 'R';

	for (int i = 0; i < 3000; i++) {
		char path[64], buf[512], *p;

		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		if (os_read_file(path, buf, sizeof(buf)) < 0)
			return true;
		p = strrchr(buf, ')');
		state = p ? p[2] : 'Z';
		if (state == 'Z')
			return true;
		usleep(1000);
	}
	return false;
}

// No SIGCHLD, no child to wait for, while it runs and when it ends.
START_TEST(unseen)
{
	struct sigaction sa = {.sa_handler = on_chld};
	siginfo_t info;
	int status, r;

	sigaction(SIGCHLD, &sa, NULL);
	command_is("sleep 0.5; echo >$X/done");
	begin();
	ck_assert_int_eq(helper_start(files, 2), 0);
	do {
		for (int i = 0; i < 20; i++) {
			errno = 0;
			ck_assert_int_eq(waitpid(-1, &status, WNOHANG), -1);
			ck_assert_int_eq(errno, ECHILD);
			errno = 0;
			ck_assert_int_eq(wait(NULL), -1);
			ck_assert_int_eq(errno, ECHILD);
			ck_assert_int_eq(waitid(P_ALL, 0, &info, WEXITED | WNOHANG), -1);
			usleep(500);
		}
		r = helper_poll();
	} while (r == -EAGAIN);
	ck_assert_int_eq(r, 0);
	contents("done");
	ck_assert_int_eq(waitpid(-1, &status, WNOHANG), -1);
	ck_assert_int_eq(chld, 0);
}
END_TEST

// What the program closes is closed, also at the moment when the helper starts.
START_TEST(files_let_go)
{
	command_is("exit 0");
	begin();
	for (int i = 0; i < 50; i++) {
		int fds[2], end;
		char c;

		ck_assert_int_eq(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
		end = fcntl(fds[1], F_DUPFD_CLOEXEC, 200);
		close(fds[1]);
		ck_assert_int_eq(helper_start(files, 2), 0);
		close(end);
		ck_assert_int_eq(read(fds[0], &c, 1), 0);
		close(fds[0]);
		ck_assert_int_eq(finish(), 0);
	}
}
END_TEST

static struct {
	int pid, fds;
	volatile bool go;
} seen;

static void look(void *arg)
{
	const struct timespec ms = {0, 1000000};

	*(int *)arg = 42;
	seen.pid = os_getpid();
	for (int fd = 0; fd < 300; fd++)
		seen.fds += sys3(SYS_fcntl, fd, F_GETFD, 0) >= 0;
	while (!seen.go)
		sys2(SYS_nanosleep, &ms, NULL);
}

// A function in another process: our memory, but not our descriptors; unseen; at once another.
START_TEST(calls)
{
	int value = 0, fds[2], status;

	ck_assert_int_eq(pipe(fds), 0);
	for (int i = 0; i < 3; i++) {
		seen.go = false;
		seen.fds = value = 0;
		ck_assert(!helper_calling());
		ck_assert_int_eq(helper_call(look, &value), 0);
		ck_assert_int_eq(helper_call(look, &value), -EBUSY);
		usleep(20000);
		ck_assert(helper_calling());
		errno = 0;
		ck_assert_int_eq(waitpid(-1, &status, WNOHANG), -1);
		ck_assert_int_eq(errno, ECHILD);
		seen.go = true;
		for (int k = 0; k < 5000 && helper_calling(); k++)
			usleep(1000);
		ck_assert(!helper_calling());
		ck_assert_int_eq(value, 42);
		ck_assert_int_ne(seen.pid, getpid());
		ck_assert_int_le(seen.fds, 1); // stderr
		ck_assert_int_eq(fcntl(fds[0], F_GETFD), 0);
	}
	ck_assert(ends_soon(seen.pid));
}
END_TEST

// With a child of the program beside it, wait returns that one.
START_TEST(beside_children)
{
	int status, fds[2];
	pid_t pid;
	char c;

	command_is("sleep 0.05");
	begin();
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(helper_start(files, 2), 0);
	pid = fork();
	if (pid == 0) {
		close(fds[1]);
		_exit(read(fds[0], &c, 1) == 0 ? 9 : 1);
	}
	usleep(100000); // the helper is a zombie by now
	ck_assert_int_eq(waitpid(-1, &status, WNOHANG), 0);
	close(fds[1]);
	ck_assert_int_eq(wait(&status), pid);
	ck_assert_int_eq(WEXITSTATUS(status), 9);
	ck_assert_int_eq(finish(), 0);
}
END_TEST

// A program that waits with __WALL may reap the keeper; we notice.
START_TEST(reaped)
{
	int status;

	command_is("exit 3");
	begin();
	ck_assert_int_eq(helper_start(files, 2), 0);
	ck_assert_int_gt(waitpid(-1, &status, __WALL), 0);
	ck_assert_int_eq(WEXITSTATUS(status), 3);
	ck_assert_int_eq(finish(), 0);
	ck_assert_int_eq(helper_start(files, 2), 0);
	ck_assert_int_eq(finish(), 3);
}
END_TEST

// Before an exec both are gone, and no call begins until it has failed: the next program would get SIGCHLD for them. (It did,
// once in some hundred times.)
START_TEST(ended_before_exec)
{
	int value = 0;
	sigset_t all;

	command_is("exec sleep 100");
	begin();
	sched.pid = getpid();
	sigfillset(&all); // as in sysmon: the keeper is not to run check's handler for SIGTERM
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (int i = 0; i < 3; i++) {
		seen.go = false;
		ck_assert_int_eq(helper_start(files, 2), 0);
		ck_assert_int_eq(helper_call(look, &value), 0);
		helper_leave();
		ck_assert_int_eq(waitpid(-1, NULL, WNOHANG | __WALL), -1);
		ck_assert_int_eq(errno, ECHILD);
		ck_assert_int_eq(helper_poll(), 0);
		ck_assert(!helper_calling());
		ck_assert_int_eq(helper_call(look, &value), -EBUSY);
		helper_stay();
	}
	seen.go = true;
	ck_assert_int_eq(helper_call(look, &value), 0);
	while (helper_calling())
		usleep(1000);
}
END_TEST

static int pid_in(const char *name)
{
	int pid = 0;

	for (int i = 0; i < 2000 && pid == 0; i++) {
		char path[160];
		FILE *f;

		usleep(1000);
		snprintf(path, sizeof(path), "%s/%s", dir, name);
		f = fopen(path, "r");
		if (!f)
			continue;
		if (fscanf(f, "%d\n", &pid) != 1)
			pid = 0;
		fclose(f);
	}
	ck_assert_int_gt(pid, 0);
	return pid;
}

static void *starter(void *arg)
{
	if (helper_start(files, 2) < 0)
		_exit(1);
	for (;;)
		pause();
	return arg;
}

// The helper belongs to a thread that is not the first one, as sysmon.
static void child(int how)
{
	pthread_t t;

	begin();
	pthread_create(&t, NULL, starter, NULL);
	pid_in("pid");
	switch (how) {
	case 0:
		kill(getpid(), SIGKILL);
		break;
	case 1:
		_exit(0);
	case 2:
		execl("/bin/sleep", "sleep", "1000", NULL);
		_exit(1);
	case 3:
		helper_end();
		_exit(finish() != 128 + SIGKILL);
	}
}

// It dies with the program, however that ends, at an exec, and when it is told to.
START_TEST(dies_with_it)
{
	int status, pid;

	command_is("echo $$ >$X/pid.tmp; mv $X/pid.tmp $X/pid; exec sleep 1000");
	pid = fork();
	if (pid == 0)
		child(_i);
	if (_i == 2) { // the program lives on as another one
		ck_assert(ends_soon(pid_in("pid")));
		ck_assert_int_eq(waitpid(pid, &status, WNOHANG), 0);
		kill(pid, SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, _i == 0 || _i == 2 ? SIGKILL : 0);
	ck_assert(ends_soon(pid_in("pid")));
}
END_TEST

// A child of fork knows nothing of it, and may have its own.
START_TEST(forked)
{
	int status, pid;

	command_is("sleep 0.1; exit 5");
	begin();
	ck_assert_int_eq(helper_start(files, 2), 0);
	pid = fork();
	if (pid == 0) {
		helper_reset_in_child();
		if (helper_running() || helper_start(files, 2) < 0)
			_exit(1);
		_exit(finish() == 5 ? 0 : 2);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(finish(), 5);
}
END_TEST

// Commands that are not there, cannot be run, or may be changed by others than the library's: not started, or a bad
// status, and no harm.
START_TEST(bad_commands)
{
	int r;

	command_is("exit 0");
	switch (_i) {
	case 0:
		unlink(script);
		break;
	case 1:
		chmod(script, 0644);
		break;
	case 2:
		chmod(script, 0757);
		break;
	case 3:
		unlink(script);
		mkdir(script, 0755);
		break;
	case 4:
		write_file(script, "\177ELF no program", 0755);
		break;
	case 5:
		write_file(script, "#!/no/such/interpreter\n", 0755);
		break;
	case 6:
		chmod(script, 0775);
		chmod(library, 0775); // no less safe than the library
		break;
	}
	begin();
	r = helper_start(files, 2);
	if (_i < 4) {
		ck_assert_int_eq(r, -ENOENT);
		ck_assert(!helper_running());
		ck_assert_int_eq(helper_poll(), -ECHILD);
	} else {
		ck_assert_int_eq(r, 0);
		ck_assert_int_eq(finish(), _i == 6 ? 0 : 127);
	}
}
END_TEST

// The installed places: beside lib and beside lib/x86_64-linux-gnu.
START_TEST(installed)
{
	char text[512];

	command_is("exit 4");
	snprintf(text, sizeof(text),
		 "cd %s && mkdir -p lib/x86_64-linux-gnu bin && mv tools/preempt bin && "
		 "cp shim/libpreempt.so lib && cp shim/libpreempt.so lib/x86_64-linux-gnu",
		 dir);
	ck_assert_int_eq(system(text), 0);
	snprintf(library, sizeof(library), "%s/lib/%slibpreempt.so", dir,
		 _i ? "x86_64-linux-gnu/" : "");
	begin();
	ck_assert_int_eq(helper_start(files, 2), 0);
	ck_assert_int_eq(finish(), 4);
}
END_TEST

// A process that must not start it: set-user-ID, other effective ids, confined by itself, with another
// pid namespace for its children; at RLIMIT_NPROC it fails.
static void confine(int how)
{
	struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog filter = {1, allow};

	begin();
	switch (how) {
	case 0:
		helper_environment(NULL);
		break;
	case 1:
		if (getuid() != 0)
			_exit(77);
		ck_assert_int_eq(setresgid(-1, 65534, -1), 0);
		break;
	case 2:
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) < 0)
			_exit(77);
		break;
	case 3:
		if (unshare(CLONE_NEWPID) < 0)
			_exit(77);
		break;
	case 4:
		if (getuid() == 0)
			ck_assert_int_eq(setresuid(64321, 64321, 64321), 0);
		setrlimit(RLIMIT_NPROC, &(struct rlimit){1, 1});
		break;
	}
}

START_TEST(forbidden)
{
	int status, pid;

	command_is("echo >$X/done");
	ck_assert_int_eq(chmod(dir, 0755), 0);
	pid = fork();
	if (pid == 0) {
		int r;

		confine(_i);
		r = helper_start(files, 2);
		_exit(r != (_i == 4 ? -EAGAIN : -EPERM) || helper_running() ||
		      helper_poll() != -ECHILD);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(status == 0 || WEXITSTATUS(status) == 77);
}
END_TEST

// Neither descriptors nor mappings stay behind.
START_TEST(no_leaks)
{
	int fd = dup(0), again;
	char before[8192], after[8192];

	command_is("exit 0");
	begin();
	ck_assert_int_eq(helper_start(files, 2), 0);
	ck_assert_int_eq(finish(), 0);
	os_read_file("/proc/self/statm", before, sizeof(before));
	for (int i = 0; i < 5; i++) {
		ck_assert_int_eq(helper_start(files, 2), 0);
		ck_assert_int_eq(finish(), 0);
	}
	os_read_file("/proc/self/statm", after, sizeof(after));
	ck_assert_int_eq(atoi(before), atoi(after));
	again = dup(0);
	ck_assert_int_eq(again, fd + 1);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, surrounding);
	tcase_add_test(tc, unseen);
	tcase_add_test(tc, files_let_go);
	tcase_add_test(tc, calls);
	tcase_add_test(tc, beside_children);
	tcase_add_test(tc, reaped);
	tcase_add_test(tc, ended_before_exec);
	tcase_add_loop_test(tc, dies_with_it, 0, 4);
	tcase_add_test(tc, forked);
	tcase_add_loop_test(tc, bad_commands, 0, 7);
	tcase_add_loop_test(tc, installed, 0, 2);
	tcase_add_loop_test(tc, forbidden, 0, 5);
	tcase_add_test(tc, no_leaks);
}

int main(void)
{
	return unit_run("helper", add);
}
