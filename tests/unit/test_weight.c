// test_weight.c: weights from names, nice values and scheduling classes.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "unit.h"

START_TEST(names)
{
	static const char list[] = "io-*:400,w?rk:50,a:b:7,*x*y:3,last:10000";
	static const struct {
		const char *name;
		uint32_t weight;
	} rows[] = {
		{"io-1", 400}, {"io-", 400},   {"io", 100},  {"xio-1", 100},  {"work", 50},
		{"wrk", 100},  {"w?rk", 50},   {"a:b", 7},   {"a", 100},      {"xy", 3},
		{"axxby", 3},  {"axyb", 100},  {"axyzy", 3}, {"last", 10000}, {"lastly", 100},
		{"", 100},     {"io-xy", 400}, // the first that matches
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		ck_assert_msg(weight_of_name(list, rows[i].name) == rows[i].weight, "%s: %u",
			      rows[i].name, weight_of_name(list, rows[i].name));
	ck_assert_uint_eq(weight_of_name("", "any"), 100);
	ck_assert_uint_eq(weight_of_name("*:1", ""), 1);
}
END_TEST

START_TEST(priorities)
{
	uint32_t last = UINT32_MAX;

	ck_assert_uint_eq(weight_from(100, SCHED_OTHER, 0), WEIGHT_ORDINARY);
	ck_assert_uint_eq(weight_from(400, SCHED_OTHER, 0), 4 * WEIGHT_ORDINARY);
	ck_assert_uint_eq(weight_from(100, SCHED_BATCH, 0), WEIGHT_ORDINARY);
	// Each level is a quarter more than the next, as long as the range lasts; 40 levels stay in order.
	for (int nice = -20; nice < 20; nice++) {
		uint32_t w = weight_from(100, SCHED_OTHER, nice);

		ck_assert_uint_lt(w, last);
		if (nice > -20)
			ck_assert_int_le(abs((int)(last * 4.0 / 5) - (int)w), 2);
		last = w;
	}
	ck_assert_uint_eq(weight_from(1, SCHED_OTHER, 19), 1024);
	ck_assert_uint_eq(weight_from(10000, SCHED_OTHER, -20), 10000 * 1024);
	ck_assert_uint_eq(weight_from(1, SCHED_FIFO, 0), 10000 * 1024);
	ck_assert_uint_eq(weight_from(1, SCHED_RR, 19), 10000 * 1024);
	ck_assert_uint_eq(weight_from(1000, SCHED_IDLE, 0), 1000 * 3);
}
END_TEST

// What a thread finds out about itself.
START_TEST(own)
{
	struct g g = {0};

	unit_config();
	prctl(PR_SET_NAME, "io-7");
	weigh(&g);
	ck_assert_uint_eq(g.weight, weight_from(100, SCHED_OTHER, getpriority(PRIO_PROCESS, 0)));
	strcpy(config.weights, "io-*:300");
	ck_assert_int_eq(setpriority(PRIO_PROCESS, 0, 19), 0);
	weigh(&g);
	ck_assert_uint_eq(g.weight, weight_from(300, SCHED_OTHER, 19));
	prctl(PR_SET_NAME, "other");
	weigh(&g);
	ck_assert_uint_eq(g.weight, weight_from(100, SCHED_OTHER, 19));
}
END_TEST

// A filter that allows everything; there from the start if it comes before confine_init.
static void filter(void)
{
	struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog prog = {1, allow};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) < 0)
		exit(0); // none here
}

// Under a filter sysmon reads what the thread may not ask for. It has the answer when it is weighed again; one that nobody takes is no
// hindrance for ever, and there is none after a filter that came later.
START_TEST(under_filter)
{
	struct g g = {.goid = 7, .tid = os_gettid()}, other = {.goid = 7 + 64, .tid = os_gettid()};
	int nice = getpriority(PRIO_PROCESS, 0);

#ifdef __SANITIZE_ADDRESS__
	return; // its runtime does not know the threads of ours that make the trial
#endif
	unit_config();
	strcpy(config.weights, "io)*:300");
	prctl(PR_SET_NAME, "io) R 1 (-7");
	filter();
	confine_init();
	ck_assert(!confined_wait(CONFINE_FILES));
	weigh(&g);
	ck_assert_uint_eq(g.weight, 0);
	weigh(&g); // no answer so far
	weigh(&other);
	weigh_poll(os_nanotime());
	weigh(&other); // the place is taken
	ck_assert_uint_eq(other.weight, 0);
	weigh(&g);
	ck_assert_uint_eq(g.weight, weight_from(300, SCHED_OTHER, nice));
	tls.weight = 50;
	ck_assert_int_eq(setpriority(PRIO_PROCESS, 0, 19), 0);
	weigh_poll(os_nanotime()); // what was asked for before
	weigh(&g);
	weigh_poll(os_nanotime());
	weigh(&g);
	ck_assert_uint_eq(g.weight, weight_from(50, SCHED_OTHER, 19));
	weigh_poll(1000); // an answer, long ago by the clock
	weigh(&other);
	weigh_poll(os_nanotime());
	weigh(&other);
	ck_assert_uint_eq(other.weight, weight_from(50, SCHED_OTHER, 19));
	filter();
	weigh_poll(os_nanotime());
	weigh(&g); // g's place is free
	weigh_poll(os_nanotime());
	tls.weight = 60;
	g.weight = 1;
	weigh(&g);
	weigh(&g);
	ck_assert_uint_eq(g.weight, 1);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, names);
	tcase_add_test(tc, priorities);
	tcase_add_test(tc, own);
	tcase_add_test(tc, under_filter);
}

int main(void)
{
	return unit_run("weight", add);
}
