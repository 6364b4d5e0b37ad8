// test_weight.c: weights from names, nice values and scheduling classes.

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

static void add(TCase *tc)
{
	tcase_add_test(tc, names);
	tcase_add_test(tc, priorities);
	tcase_add_test(tc, own);
}

int main(void)
{
	return unit_run("weight", add);
}
