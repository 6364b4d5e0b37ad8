// test_stats.c: histograms, records of exited threads, the two reports, the schedtrace line.

#include <sys/prctl.h>
#include <sys/stat.h>

#include "unit.h"

static char path[64];

static void setup(void)
{
	unit_config();
	strcpy(path, "/tmp/unit-stats-XXXXXX");
	close(mkstemp(path));
	unlink(path);
	strcpy(config.stats, path);
	sched.policy = &policy_go;
	sched.nprocs = 2;
	sched.start_time = os_nanotime() - 1000000;
	stats.threads_created = 1;
}

static void teardown(void)
{
	unlink(path);
}

static const char *slurp(void)
{
	static char buf[4 << 20];
	FILE *f = fopen(path, "r");

	ck_assert_ptr_nonnull(f);
	buf[fread(buf, 1, sizeof(buf) - 1, f)] = 0;
	fclose(f);
	return buf;
}

// The number behind "key": after the first occurrence of section.
static double number(const char *json, const char *section, const char *key)
{
	char want[64];
	const char *s = strstr(json, section);

	ck_assert_msg(s, "no %s", section);
	snprintf(want, sizeof(want), "\"%s\": ", key);
	s = strstr(s, want);
	ck_assert_msg(s, "no %s in %s", key, section);
	return strtod(s + strlen(want), NULL);
}

// Brackets match outside of strings, and nothing that JSON forbids is inside.
static void check_json(const char *s)
{
	int depth = 0;
	bool in_string = false;

	for (; *s; s++) {
		if (in_string) {
			if ((unsigned char)*s < ' ') // ck_assert is slow, and this is a long text
				ck_abort_msg("control character in a string");
			if (*s == '\\') {
				s++;
				ck_assert_msg(strchr("\"\\u", *s), "escape \\%c", *s);
			} else if (*s == '"') {
				in_string = false;
			}
		} else if (*s == '"') {
			in_string = true;
		} else if (*s == '{' || *s == '[') {
			depth++;
		} else if (*s == '}' || *s == ']') {
			depth--;
		}
		if (depth < 0)
			ck_abort_msg("a bracket too many");
	}
	ck_assert(!in_string && depth == 0);
}

static const char *report(void)
{
	const char *json;

	stats_report();
	json = slurp();
	check_json(json);
	return json;
}

START_TEST(all_keys)
{
	static const char *const keys[] = {
		"version",
		"pid",
		"procs",
		"policy",
		"quantum_ns",
		"elapsed_ns",
		"threads_created",
		"threads_peak",
		"switches",
		"preempt",
		"requested",
		"cooperative",
		"async",
		"forced",
		"spared",
		"refused",
		"locks",
		"unsafe_pc",
		"no_table",
		"critical",
		"shim",
		"stack",
		"syscall",
		"signals_sent",
		"retakes",
		"opaque",
		"handoffs",
		"spin",
		"yields",
		"saved_ns",
		"lock_holder",
		"deferred",
		"handed",
		"eintr_hidden",
		"credit_runs",
		"run_delay_ns",
		"overshoot_ns",
		"count",
		"p50",
		"p90",
		"p99",
		"max",
		"fairness",
		"jain_cpu",
		"threads",
	};
	const char *json;

	STAT(preempt_async);
	STAT(handoffs);
	STAT(handoffs);
	json = report();
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		char want[64];

		snprintf(want, sizeof(want), "\"%s\": ", keys[i]);
		ck_assert_msg(strstr(json, want), "no %s", want);
	}
	ck_assert(number(json, "{", "pid") == getpid());
	ck_assert(number(json, "{", "handoffs") == 2);
	ck_assert(number(json, "\"preempt\"", "async") == 1);
	ck_assert(number(json, "{", "quantum_ns") == 10e6);
	ck_assert(number(json, "{", "elapsed_ns") >= 1e6);
}
END_TEST

// A percentile is off by no more than half a bucket: 1/16.
static void near(double got, double want)
{
	ck_assert_msg(got >= want * 15 / 16 - 1 && got <= want * 17 / 16 + 1, "%g, not %g", got,
		      want);
}

START_TEST(percentiles)
{
	const char *json;

	for (int64_t i = 1; i <= 10000; i++)
		stats_run_delay(i * 1000);
	json = report();
	ck_assert(number(json, "run_delay_ns", "count") == 10000);
	ck_assert(number(json, "run_delay_ns", "max") == 10e6);
	near(number(json, "run_delay_ns", "p50"), 5e6);
	near(number(json, "run_delay_ns", "p90"), 9e6);
	near(number(json, "run_delay_ns", "p99"), 9.9e6);
	ck_assert(number(json, "overshoot_ns", "count") == 0);
	ck_assert(number(json, "overshoot_ns", "p99") == 0);
}
END_TEST

static const int64_t lone[] = {0, 1, 7, 8, 15, 16, 1000, 123456789, 3600000000000, INT64_MAX, -5};

// One value is its own median, up to the width of its bucket, and never above the maximum.
START_TEST(lone_value)
{
	double v = lone[_i] < 0 ? 0 : (double)lone[_i];
	const char *json;

	stats_overshoot(lone[_i]);
	json = report();
	near(number(json, "overshoot_ns", "p50"), v);
	ck_assert(number(json, "overshoot_ns", "p50") <= v);
	ck_assert(number(json, "overshoot_ns", "max") == v);
}
END_TEST

static void exit_thread(int tid, const char *name, uint64_t run_ns)
{
	struct g gp = {.tid = tid, .run_ns = run_ns, .wait_ns = 5, .switches = 6};

	prctl(PR_SET_NAME, name);
	stats_thread_exit(&gp);
}

START_TEST(names_are_escaped)
{
	const char *json;

	exit_thread(11, "a\"b\\c", 1);
	exit_thread(12, "x\001\ty\177", 2);
	exit_thread(13, "cut\xc3", 3);
	exit_thread(14, "gr\xc3\xbc\xc3\x9f", 4);
	json = report();
	ck_assert(strstr(json, "{\"tid\": 11, \"name\": \"a\\\"b\\\\c\", \"run_ns\": 1, "
			       "\"wait_ns\": 5, \"switches\": 6}"));
	ck_assert(strstr(json, "\"x\\u0001\\u0009y\\u007f\""));
	ck_assert(strstr(json, "\"cut\\ufffd\""));
	ck_assert(strstr(json, "\"gr\xc3\xbc\xc3\x9f\""));
}
END_TEST

static const struct {
	uint64_t run[8];
	double want;
} jains[] = {
	{{0}, 1},
	{{5}, 1},
	{{7, 7, 7, 7}, 1},
	{{100, 0, 0, 0}, 1}, // the list ends at the first 0
	{{1, 2, 3}, 36.0 / 42},
	{{1000000000000, 1}, 0.5},
	{{3600000000000, 3600000000000, 1800000000000}, 25.0 / 27},
	{{UINT64_MAX / 2, UINT64_MAX / 2, UINT64_MAX / 4}, 25.0 / 27},
};

START_TEST(jain)
{
	for (int i = 0; i < 8 && jains[_i].run[i]; i++)
		exit_thread(i + 1, "t", jains[_i].run[i]);
	ck_assert_double_eq_tol(number(report(), "fairness", "jain_cpu"), jains[_i].want, 0.00011);
}
END_TEST

// 64 threads, one with all the CPU time: 1/64.
START_TEST(jain_many)
{
	for (int i = 0; i < 63; i++)
		exit_thread(i + 1, "t", 0);
	exit_thread(64, "hog", 10000000000);
	ck_assert_double_eq_tol(number(report(), "fairness", "jain_cpu"), 1.0 / 64, 0.00006);
}
END_TEST

static void *exits(void *arg)
{
	for (int i = 0; i < 5000; i++) {
		exit_thread((int)(intptr_t)arg * 10000 + i, "w", 1);
		stats_run_delay(i);
	}
	return NULL;
}

START_TEST(concurrent_exits)
{
	pthread_t t[4];
	const char *json;
	int n = 0;

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, exits, (void *)(intptr_t)i), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	json = report();
	ck_assert(number(json, "run_delay_ns", "count") == 20000);
	for (const char *s = json; (s = strstr(s, "\"tid\"")); s++)
		n++;
	ck_assert_int_eq(n, 20000);
}
END_TEST

// More threads than there are records: the first ones are kept, the rest counted.
START_TEST(records_run_out)
{
	struct stat st;

	for (int i = 0; i < 65536 + 7; i++)
		exit_thread(i, "t", 1);
	stats_report();
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_gt(st.st_size, 65536 * 60);
	ck_assert(number(slurp(), "{", "threads_left_out") == 7);
}
END_TEST

START_TEST(live_threads)
{
	static struct g live[4];
	const char *json;
	int64_t now = os_nanotime();

	for (int i = 0; i < 4; i++) {
		live[i].tid = 1000000000 + i; // no such thread, so it has no name
		live[i].alllink = i ? &live[i - 1] : NULL;
	}
	live[0].status = G_RUNNING;
	live[0].run_since = now - 1000000000;
	live[1].status = G_DEAD;
	live[2].status = G_IDLE;
	live[3].status = G_RUNNABLE;
	live[3].runnable_since = now - 2000000000;
	live[3].run_ns = 77;
	sched.allgs = &live[3];
	json = report();
	ck_assert(number(json, "\"tid\": 1000000000", "run_ns") >= 1e9);
	ck_assert(number(json, "\"tid\": 1000000003", "run_ns") == 77);
	ck_assert(number(json, "\"tid\": 1000000003", "wait_ns") >= 2e9);
	ck_assert(!strstr(json, "\"tid\": 1000000001"));
	ck_assert(!strstr(json, "\"tid\": 1000000002"));
	sched.allgs = NULL;
}
END_TEST

START_TEST(pid_in_path)
{
	char want[128];

	snprintf(config.stats, sizeof(config.stats), "%s-%%p-x", path);
	snprintf(want, sizeof(want), "%s-%d-x", path, getpid());
	stats_report();
	ck_assert_int_eq(unlink(want), 0);
}
END_TEST

// A process that never had a thread does not overwrite what its child wrote.
START_TEST(dormant_keeps_file)
{
	FILE *f = fopen(path, "w");

	fputs("child", f);
	fclose(f);
	stats.threads_created = 0;
	stats_report();
	ck_assert_str_eq(slurp(), "child");
	stats.threads_created = 1;
	ck_assert_ptr_nonnull(strstr(report(), "threads_created"));
}
END_TEST

START_TEST(reset)
{
	const char *json;

	STAT(switches);
	stats_run_delay(5);
	exit_thread(1, "gone", 5);
	stats_reset_in_child();
	json = report();
	ck_assert(number(json, "{", "switches") == 0);
	ck_assert(number(json, "run_delay_ns", "count") == 0);
	ck_assert(!strstr(json, "gone"));
}
END_TEST

static void do_report(void *arg)
{
	(void)arg;
	stats_report();
}

START_TEST(summary)
{
	char err[4096];

	strcpy(config.stats, "1");
	stats_run_delay(1500000);
	unit_stderr(do_report, NULL, err, sizeof(err));
	ck_assert(strstr(err, "policy go, quantum 10.00 ms"));
	ck_assert(strstr(err, "runnable to running: 1, median 1.50 ms"));
	// Never had threads: nothing said.
	stats.threads_created = 0;
	unit_stderr(do_report, NULL, err, sizeof(err));
	ck_assert_str_eq(err, "");
	stats.threads_created = 1;
	// Nothing asked for: nothing said.
	config.stats[0] = 0;
	unit_stderr(do_report, NULL, err, sizeof(err));
	ck_assert_str_eq(err, "");
	strcpy(config.stats, "/no/such/dir/x");
	unit_stderr(do_report, NULL, err, sizeof(err));
	ck_assert(strstr(err, "cannot write /no/such/dir/x"));
}
END_TEST

START_TEST(schedtrace)
{
	static struct p allp[2];
	static struct g gp;
	char buf[512];
	struct text t = {.buf = buf, .len = 0, .cap = sizeof(buf)};

	sched.allp = allp;
	sched.ngs = 12;
	sched.runq.size = 3;
	sched.npidle = 1;
	allp[0].schedtick = 12;
	allp[1].schedtick = 340;
	allp[1].runnext = &gp;
	allp[1].runqhead = UINT32_MAX;
	allp[1].runqtail = 1;
	schedtrace_line(&t, sched.start_time + 2004999999);
	ck_assert_str_eq(buf, "SCHED 2004ms: gomaxprocs=2 idleprocs=1 threads=12 spinningthreads=0 "
			      "needspinning=0 idlethreads=0 runqueue=3 [ 0 3 ] "
			      "schedticks=[ 12 340 ]\n");
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, all_keys);
	tcase_add_test(tc, percentiles);
	tcase_add_loop_test(tc, lone_value, 0, sizeof(lone) / sizeof(lone[0]));
	tcase_add_test(tc, names_are_escaped);
	tcase_add_loop_test(tc, jain, 0, sizeof(jains) / sizeof(jains[0]));
	tcase_add_test(tc, jain_many);
	tcase_add_test(tc, concurrent_exits);
	tcase_add_test(tc, records_run_out);
	tcase_add_test(tc, live_threads);
	tcase_add_test(tc, pid_in_path);
	tcase_add_test(tc, dormant_keeps_file);
	tcase_add_test(tc, reset);
	tcase_add_test(tc, summary);
	tcase_add_test(tc, schedtrace);
}

int main(void)
{
	return unit_run("stats", add);
}
