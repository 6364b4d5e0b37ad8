// test_env.c: settings, good and bad.

#include "unit.h"

// A fake environment: "NAME=value" entries, NULL-ended.
static char **fake;

static const char *fake_getenv(const char *name)
{
	size_t n = strlen(name);

	for (char **e = fake; e && *e; e++) {
		if (!strncmp(*e, name, n) && (*e)[n] == '=')
			return *e + n + 1;
	}
	return NULL;
}

struct read {
	char *env[8];
	int bad;
	char err[4096];
};

static void do_read(void *arg)
{
	struct read *r = arg;

	fake = r->env;
	r->bad = env_read(fake_getenv, r->env);
}

static struct read read_env(const char *a, const char *b)
{
	struct read r = {.env = {(char *)a, (char *)b, NULL}};

	unit_stderr(do_read, &r, r.err, sizeof(r.err));
	return r;
}

START_TEST(defaults)
{
	struct read r = read_env(NULL, NULL);

	ck_assert_int_eq(r.bad, 0);
	ck_assert_str_eq(r.err, "");
	ck_assert(!config.off && !config.strict && !config.asyncpreemptoff && config.spin);
	ck_assert_int_eq(config.procs, 0);
	ck_assert_int_eq(config.quantum, 10000000);
	ck_assert_int_eq(config.force_after, 100000000);
	ck_assert_int_eq(config.lock_grace, config.quantum);
	ck_assert_int_eq(config.credit, 100000);
	ck_assert_int_eq(config.signal, SIG_SETXID);
	ck_assert_int_eq(config.dump_signal, 0);
	ck_assert_int_eq(config.log, LOG_WARN);
	ck_assert_int_eq(config.deadlock, 1);
	ck_assert_ptr_eq(config.policy, &policy_fair);
	ck_assert_str_eq(config.stats, "");
}
END_TEST

static const struct {
	const char *text;
	int64_t ns;
} durations[] = {
	{"1ms", 1000000},     {"250us", 250000},  {"100000ns", 100000},
	{"2s", 2000000000},   {"1.5ms", 1500000}, {"0.25s", 250000000},
	{"10s", 10000000000}, {"100us", 100000},  {"0.1234567891s", 123456789},
};

START_TEST(good_durations)
{
	char set[64];
	struct read r;

	snprintf(set, sizeof(set), "PREEMPT_QUANTUM=%s", durations[_i].text);
	r = read_env(set, NULL);
	ck_assert_int_eq(r.bad, 0);
	ck_assert_str_eq(r.err, "");
	ck_assert_int_eq(config.quantum, durations[_i].ns);
	ck_assert_int_eq(config.lock_grace, durations[_i].ns); // one quantum
}
END_TEST

// Each: one line that names the setting, and the default stays.
static const char *const bad[] = {
	"PREEMPT_QUANTUM=abc",
	"PREEMPT_QUANTUM=10",
	"PREEMPT_QUANTUM=0",
	"PREEMPT_QUANTUM=-5ms",
	"PREEMPT_QUANTUM=1e3ms",
	"PREEMPT_QUANTUM=10 ms",
	"PREEMPT_QUANTUM=10msx",
	"PREEMPT_QUANTUM=1.ms",
	"PREEMPT_QUANTUM=.5ms",
	"PREEMPT_QUANTUM=99us",
	"PREEMPT_QUANTUM=11s",
	"PREEMPT_QUANTUM=99999999999999999999999999s",
	"PREEMPT_QUANTUM=1.5.5ms",
	"PREEMPT_QUANTUM=ms",
	"PREEMPT_PROCS=0",
	"PREEMPT_PROCS=-1",
	"PREEMPT_PROCS=1000000000",
	"PREEMPT_PROCS=1025",
	"PREEMPT_PROCS=2x",
	"PREEMPT_PROCS=99999999999999999999",
	"PREEMPT_PROCS=AUTO",
	"PREEMPT_OFF=yes",
	"PREEMPT_OFF=2",
	"PREEMPT_POLICY=rr",
	"PREEMPT_SIGNAL=SIGUSR1",
	"PREEMPT_SIGNAL=SIGRTMIN+31",
	"PREEMPT_SIGNAL=SIGRTMIN+",
	"PREEMPT_SIGNAL=SIGRTMIN-1",
	"PREEMPT_SIGNAL=23",
	"PREEMPT_FORCE_AFTER=5",
	"PREEMPT_CREDIT=2s",
	"PREEMPT_LOCK_GRACE=1h",
	"PREEMPT_WEIGHTS=a",
	"PREEMPT_WEIGHTS=a:0",
	"PREEMPT_WEIGHTS=a:10001",
	"PREEMPT_WEIGHTS=:5",
	"PREEMPT_WEIGHTS=a:5,",
	"PREEMPT_WEIGHTS=a:5x",
	"PREEMPT_CRITICAL=a::b",
	"PREEMPT_CRITICAL=:",
	"PREEMPT_SCHEDTRACE=-1",
	"PREEMPT_SCHEDTRACE=1s",
	"PREEMPT_DEADLOCK=yes",
	"PREEMPT_LOG=loud",
	"PREEMPT_DUMP_SIGNAL=SIGKILL",
	"PREEMPT_DUMP_SIGNAL=SIGSEGV",
	"PREEMPT_NOSUCH=1",
	"PREEMPT_QUANTUMS=10ms",
	"PREEMPT_=1",
};

START_TEST(bad_values)
{
	struct config before;
	struct read r;
	char want[128];

	read_env(NULL, NULL);
	before = config;
	r = read_env(bad[_i], NULL);
	ck_assert_msg(r.bad == 1, "%s: %d bad", bad[_i], r.bad);
	snprintf(want, sizeof(want), "libpreempt: %.*s", (int)strcspn(bad[_i], "="), bad[_i]);
	ck_assert_msg(!strncmp(r.err, want, strlen(want)), "%s: %s", bad[_i], r.err);
	ck_assert_msg(strchr(r.err, '\n') == r.err + strlen(r.err) - 1, "one line: %s", r.err);
	ck_assert_int_eq(memcmp(&before, &config, sizeof(before)), 0);
}
END_TEST

START_TEST(policies)
{
	struct read r = read_env("PREEMPT_POLICY=fair", NULL);

	ck_assert_str_eq(r.err, "");
	ck_assert_ptr_eq(config.policy, &policy_fair);
	r = read_env("PREEMPT_POLICY=go", NULL);
	ck_assert_str_eq(r.err, "");
	ck_assert_ptr_eq(config.policy, &policy_go);
}
END_TEST

START_TEST(message)
{
	struct read r = read_env("PREEMPT_QUANTUM=abc", NULL);

	ck_assert_str_eq(r.err, "libpreempt: PREEMPT_QUANTUM=abc: not a duration; using 10ms\n");
	r = read_env("PREEMPT_QUANTUM=a\nb\033[2J", NULL);
	ck_assert_str_eq(r.err,
			 "libpreempt: PREEMPT_QUANTUM=a?b?[2J: not a duration; using 10ms\n");
	r = read_env("PREEMPT_FOO=1", "HOME=/");
	ck_assert_str_eq(r.err, "libpreempt: PREEMPT_FOO: unknown setting; ignored\n");
}
END_TEST

START_TEST(long_values)
{
	static char set[8192], weights[2048] = "PREEMPT_WEIGHTS=";
	struct read r;

	snprintf(set, sizeof(set), "PREEMPT_STATS=");
	memset(set + strlen(set), 'x', 4000);
	r = read_env(set, NULL);
	ck_assert_int_eq(r.bad, 1);
	ck_assert_str_eq(config.stats, "");
	ck_assert_ptr_eq(strchr(r.err, '\n'), r.err + strlen(r.err) - 1);

	while (strlen(weights) < 1500)
		strcat(weights, weights[16] ? ",worker*:100" : "worker*:100");
	r = read_env(weights, NULL);
	ck_assert_int_eq(r.bad, 1);
	ck_assert_str_eq(config.weights, "");
}
END_TEST

START_TEST(good_values)
{
	struct read r;

	r = read_env("PREEMPT_PROCS=1024", "PREEMPT_SPIN=off");
	ck_assert_int_eq(r.bad, 0);
	ck_assert_int_eq(config.procs, 1024);
	ck_assert(!config.spin);
	read_env("PREEMPT_PROCS=auto", "PREEMPT_OFF=1");
	ck_assert_int_eq(config.procs, 0);
	ck_assert(config.off);
	read_env("PREEMPT_CREDIT=0", "PREEMPT_FORCE_AFTER=0");
	ck_assert_int_eq(config.credit, 0);
	ck_assert_int_eq(config.force_after, 0);
	read_env("PREEMPT_LOCK_GRACE=0", "PREEMPT_ASYNCPREEMPTOFF=1");
	ck_assert_int_eq(config.lock_grace, 0);
	ck_assert(config.asyncpreemptoff);
	read_env("PREEMPT_LOCK_GRACE=3ms", "PREEMPT_QUANTUM=1ms");
	ck_assert_int_eq(config.lock_grace, 3000000);
	read_env("PREEMPT_SIGNAL=SIGRTMIN", "PREEMPT_DUMP_SIGNAL=SIGRTMIN+30");
	ck_assert_int_eq(config.signal, SIGRTMIN);
	ck_assert_int_eq(config.dump_signal, SIGRTMAX);
	r = read_env("PREEMPT_SIGNAL=SIGURG", "PREEMPT_DUMP_SIGNAL=SIGURG");
	ck_assert_int_eq(r.bad, 1);
	ck_assert_int_eq(config.dump_signal, 0);
	r = read_env("PREEMPT_WEIGHTS=db*:1,a:b:10000", "PREEMPT_CRITICAL=my_alloc*:my_free");
	ck_assert_int_eq(r.bad, 0);
	ck_assert_str_eq(config.weights, "db*:1,a:b:10000");
	ck_assert_str_eq(config.critical, "my_alloc*:my_free");
	r = read_env("PREEMPT_STATS=/tmp/x-%p.json", "PREEMPT_CACHE_DIR=/c");
	ck_assert_str_eq(config.stats, "/tmp/x-%p.json");
	ck_assert_str_eq(config.cache_dir, "/c");
	r = read_env("PREEMPT_QUANTUM=", "PREEMPT_STRICT=1");
	ck_assert_int_eq(r.bad, 0);
	ck_assert_int_eq(config.quantum, 10000000);
	ck_assert(config.strict);
	// A second read forgets the first.
	read_env(NULL, NULL);
	ck_assert_str_eq(config.cache_dir, "");
}
END_TEST

START_TEST(log_level)
{
	struct read r = read_env("PREEMPT_QUANTUM=abc", "PREEMPT_LOG=error");

	ck_assert_int_eq(r.bad, 1);
	ck_assert_str_eq(r.err, "");
	r = read_env("PREEMPT_NOSUCH=1", "PREEMPT_LOG=off");
	ck_assert_int_eq(r.bad, 1);
	ck_assert_str_eq(r.err, "");
}
END_TEST

START_TEST(help)
{
	static char buf[16384];
	// clang-format off
	static const char *const names[] = {
		"OFF", "PROCS", "QUANTUM", "POLICY", "ASYNCPREEMPTOFF",
		"SIGNAL", "FORCE_AFTER", "LOCK_GRACE", "SPIN", "CREDIT",
		"WEIGHTS", "CRITICAL", "CACHE_DIR", "SCHEDTRACE", "STATS",
		"TRACE", "DUMP_SIGNAL", "DEADLOCK", "LOG", "STRICT",
		"CHAOS",
	};
	// clang-format on
	struct text t = {.buf = buf, .len = 0, .cap = sizeof(buf)};

	env_help(&t);
	buf[t.len] = 0;
	ck_assert_uint_lt(t.len, sizeof(buf) - 1);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char want[64];

		snprintf(want, sizeof(want), "PREEMPT_%s=", names[i]);
		ck_assert_msg(strstr(buf, want), "no help for %s", want);
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, defaults);
	tcase_add_loop_test(tc, good_durations, 0, sizeof(durations) / sizeof(durations[0]));
	tcase_add_loop_test(tc, bad_values, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(tc, policies);
	tcase_add_test(tc, message);
	tcase_add_test(tc, long_values);
	tcase_add_test(tc, good_values);
	tcase_add_test(tc, log_level);
	tcase_add_test(tc, help);
}

int main(void)
{
	return unit_run("env", add);
}
