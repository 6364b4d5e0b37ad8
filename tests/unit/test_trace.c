// test_trace.c: what is written to a trace is in the file or counted as lost.

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "unit.h"
#include "../../tools/trace.h"

enum { PS = 2, EVENTS = 100000 };

static char path[64];
static struct p ps[PS];
static struct trace_file file;

static void setup(void)
{
	unit_config();
	strcpy(path, "/tmp/unit-trace-XXXXXX");
	close(mkstemp(path));
	unlink(path);
	strcpy(config.trace, path);
	sched.policy = &policy_go;
	sched.nprocs = PS;
	sched.pid = getpid();
	for (uint32_t i = 0; i < PS; i++)
		ps[i].id = i;
}

static void teardown(void)
{
	trace_free(&file);
	unlink(path);
}

static void read_back(void)
{
	const char *why = trace_read(&file, path);

	ck_assert_msg(!why, "%s", why);
}

static void write_some(uint32_t g, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		trace_write(TRACE_SPIN, 0, &ps[g % PS], g, 0, i, 0);
		if (i % 1000 == 0)
			sched_yield();
	}
}

static void *writer(void *arg)
{
	write_some((uint32_t)(uintptr_t)arg, EVENTS);
	return NULL;
}

// Each writer's events are in their order, none twice, and none missing but those that are counted.
static void check_order(uint32_t writers, uint64_t written)
{
	uint64_t *next = calloc(writers + 1, sizeof(*next));
	uint64_t n = 0, missing = 0;
	struct trace_walk w;
	struct trace_event e;

	trace_walk_begin(&w, &file);
	while (trace_walk_next(&w, &e)) {
		if (e.kind != TRACE_SPIN)
			continue;
		ck_assert_uint_ge(e.g, 1);
		ck_assert_uint_le(e.g, writers);
		ck_assert_uint_ge(e.arg, next[e.g]);
		missing += e.arg - next[e.g];
		next[e.g] = e.arg + 1;
		n++;
	}
	for (uint32_t g = 1; g <= writers; g++)
		missing += written / writers - next[g];
	ck_assert_uint_eq(n + missing, written);
	ck_assert_uint_eq(file.lost, missing);
	ck_assert_uint_eq(file.events, n);
	free(next);
}

// Several times round the rings, by several threads for each.
START_TEST(wrap)
{
	pthread_t t[4];

	trace_open();
	ck_assert(trace_on);
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, writer, (void *)(i + 1));
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	trace_settle();
	read_back();
	ck_assert_uint_eq(file.h.state, TRACE_SETTLED);
	ck_assert_uint_gt(file.rings[1].next + file.rings[2].next, file.h.slots); // they went round
	ck_assert_uint_gt(file.nmodules, 0);
	check_order(4, 4 * EVENTS);
}
END_TEST

// Without an end, as after a crash: what is still in the rings counts.
START_TEST(no_end)
{
	trace_open();
	write_some(1, 100);
	write_some(2, 100);
	read_back();
	ck_assert_uint_eq(file.lost, 0);
	ck_assert_uint_eq(file.h.state, 0);
	check_order(2, 200);
}
END_TEST

static volatile unsigned in_handler;

static void handler(int sig)
{
	(void)sig;
	if (in_handler < 2000)
		trace_write(TRACE_SPIN, 0, &ps[0], 2, 0, in_handler++, 0);
}

// A handler that writes on top of a writer: both events are there.
START_TEST(reentrant)
{
	const struct itimerval often = {{0, 50}, {0, 50}}, never = {0};
	unsigned n = 0;

	trace_open();
	signal(SIGALRM, handler);
	setitimer(ITIMER_REAL, &often, NULL);
	while (in_handler < 2000 && n < 50000000)
		trace_write(TRACE_SIGNAL, 0, &ps[0], 1, 0, n++, 0);
	setitimer(ITIMER_REAL, &never, NULL);
	trace_settle();
	read_back();
	ck_assert_uint_ge(in_handler, 100);
	ck_assert_uint_eq(file.events + file.lost, n + in_handler);
}
END_TEST

static void fill(void *arg)
{
	(void)arg;
	write_some(1, EVENTS);
	for (int i = 0; i < 1000; i++) { // until the tracer has tried
		struct trace_header h;
		int fd = open(path, O_RDONLY);

		ck_assert_int_eq(pread(fd, &h, sizeof(h), 0), sizeof(h));
		close(fd);
		if (h.error)
			break;
		usleep(10000);
	}
	write_some(1, EVENTS);
}

// The file cannot grow: one line, the program goes on, and all that finds no room is counted.
START_TEST(no_room)
{
	struct rlimit limit;
	struct stat s;
	char err[4096];

	trace_open();
	ck_assert_int_eq(stat(path, &s), 0);
	limit.rlim_cur = limit.rlim_max = (rlim_t)s.st_size + 4096;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	unit_stderr(fill, NULL, err, sizeof(err));
	trace_settle();
	read_back();
	ck_assert_int_eq(file.h.error, EFBIG);
	ck_assert_uint_ge(file.events, file.h.slots);
	ck_assert_uint_gt(file.lost, 0);
	ck_assert_uint_eq(file.events + file.lost, 2 * EVENTS);
	ck_assert_msg(strstr(err, "events are lost"), "%s", err);
	ck_assert_ptr_eq(strchr(err, '\n') + 1, strchr(err, 0)); // one line
}
END_TEST

static void open_it(void *arg)
{
	(void)arg;
	trace_open();
}

static void refused(const char *at, const char *say)
{
	char err[4096];

	strcpy(config.trace, at);
	unit_stderr(open_it, NULL, err, sizeof(err));
	ck_assert(!trace_on);
	ck_assert_msg(strstr(err, say), "%s: %s", at, err);
	ck_assert_ptr_eq(strchr(err, '\n') + 1, strchr(err, 0));
}

// A path that cannot be: one line each, and no trace.
START_TEST(bad_paths)
{
	struct rlimit limit = {100000, 100000};
	char text[16] = "";
	int fd;

	refused("/proc/nonexistent/trace", "cannot make /proc/nonexistent/trace: error 2");
	refused("/tmp", "cannot open /tmp");
	refused("/dev/full", "not a plain file");
	fd = open(path, O_RDWR | O_CREAT, 0600);
	ck_assert_int_eq(write(fd, "my thesis", 9), 9);
	refused(path, "exists, and is no trace");
	ck_assert_int_eq(pread(fd, text, 15, 0), 9);
	ck_assert_str_eq(text, "my thesis");
	close(fd);
	unlink(path);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	refused(path, "limit of file sizes");
}
END_TEST

// The child of a fork has a trace of its own, if its name says whose it is.
START_TEST(forked)
{
	bool named = _i;
	char err[4096] = "", own[80];
	pid_t pid;
	int status;

	if (named)
		strcat(config.trace, ".%p");
	trace_open();
	ck_assert(trace_on);
	pid = fork();
	if (pid == 0) {
		trace_reset_in_child();
		sched.pid = getpid();
		unit_stderr(open_it, NULL, err, sizeof(err));
		_exit(trace_on == named && !*err == named ? 0 : 1);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	snprintf(own, sizeof(own), "%s.%d", path, pid);
	ck_assert_int_eq(access(own, F_OK) == 0, named);
	unlink(own);
	write_some(1, 10);
	snprintf(own, sizeof(own), named ? "%s.%d" : "%s", path, getpid());
	ck_assert_ptr_null(trace_read(&file, own));
	ck_assert_uint_eq(file.lost, 0);
	unlink(own);
}
END_TEST

// Another process writes there: it keeps its file. When it has ended, the file is replaced.
START_TEST(in_use)
{
	int ready[2], end[2], status;
	char c;
	pid_t pid;

	ck_assert_int_eq(pipe(ready) | pipe(end), 0);
	pid = fork();
	if (pid == 0) {
		sched.pid = getpid();
		trace_open();
		(void)!write(ready[1], "x", 1);
		(void)!read(end[0], &c, 1);
		_exit(!trace_on);
	}
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	refused(path, "another process writes");
	ck_assert_int_eq(write(end[1], "x", 1), 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	trace_open();
	ck_assert(trace_on);
	read_back();
	ck_assert_int_eq(file.h.pid, getpid());
}
END_TEST

// No descriptor of ours is in the program's table.
START_TEST(no_descriptor)
{
	int before = dup(0), after;

	close(before);
	trace_open();
	after = dup(0);
	ck_assert_int_eq(before, after);
	ck_assert(trace_on);
	for (int fd = 3; fd < 100; fd++)
		close(fd);
	write_some(1, EVENTS);
	trace_settle();
	read_back();
	ck_assert_uint_eq(file.events + file.lost, EVENTS);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, wrap);
	tcase_add_test(tc, no_end);
	tcase_add_test(tc, reentrant);
	tcase_add_test(tc, no_room);
	tcase_add_test(tc, bad_paths);
	tcase_add_loop_test(tc, forked, 0, 2);
	tcase_add_test(tc, in_use);
	tcase_add_test(tc, no_descriptor);
}

int main(void)
{
	return unit_run("trace", add);
}
