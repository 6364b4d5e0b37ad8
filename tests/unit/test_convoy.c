// test_convoy.c: when threads that lost their CPU in a line wait outside before they get in it again.

#include "clock.h"

enum { THREADS = 16, LINE = 3 };

static struct g threads[THREADS];

static void setup(void)
{
	unit_config();
	convoy_reset_in_child();
	memset(threads, 0, sizeof threads);
	sched.demand = THREADS - 2;
	now = 1000000000;
	os_vdso_clock_gettime = fake_clock;
}

// For ms, a thread gets in line each US: each comes with the CPU that it has, or has lost it in the line. How many have waited outside?
static unsigned comes(unsigned us, bool lost)
{
	unsigned outside = 0;

	for (unsigned i = 0; i < us; i++) {
		struct g *gp = &threads[i % THREADS];

		now += US;
		outside += convoy_joins(gp, LINE);
		if (lost)
			convoy_lost(gp);
	}
	return outside;
}

// Who has its CPU all the time never waits outside, whatever others do.
START_TEST(no_convoy)
{
	ck_assert_uint_eq(comes(20000, false), 0);
	comes(5000, true);
	for (int i = 0; i < THREADS; i++)
		convoy_joins(&threads[i], LINE);
	ck_assert_uint_eq(comes(1000, false), 0);
}
END_TEST

// A convoy is seen after a window or two. When it is gone everybody who loses its CPU in line still waits outside.
START_TEST(broken)
{
	ck_assert_uint_gt(comes(2500, true), 500);
	for (int i = 0; i < 20; i++) {
		comes(10000, false);
		ck_assert_uint_ge(comes(2 * THREADS, true), THREADS);
	}
}
END_TEST

// Where waiting outside is of no use, as at a barrier, it ends within some windows, and is tried again, less and less often.
START_TEST(in_vain)
{
	unsigned last = 0, outside = 0;

	for (int second = 0; second < 30; second++) {
		outside = comes(1000000, true);
		ck_assert_uint_le(outside, 60000);
		if (second == 0)
			ck_assert_uint_gt(outside, 1000);
		if (second >= 10)
			last += outside;
	}
	ck_assert_uint_gt(last, 1000);
	ck_assert_uint_lt(last, 60000);
	// It has become a lock: as soon as that is seen, that counts.
	for (int i = 0; i < 4000 && comes(1000, true) == 0; i++)
		;
	comes(3000, false);
	for (int i = 0; i < 10; i++) {
		comes(10000, false);
		ck_assert_uint_ge(comes(2 * THREADS, true), THREADS);
	}
}
END_TEST

// What was lost in one line is no reason to wait outside another; and who comes by seldom says nothing.
START_TEST(other_line)
{
	comes(5000, true);
	for (int i = 0; i < THREADS; i++)
		ck_assert(!convoy_joins(&threads[i], LINE + 1));
	for (int i = 0; i < 1000; i++) {
		now += 25 * MS;
		ck_assert(!convoy_joins(&threads[i % THREADS], LINE + 2));
		convoy_lost(&threads[i % THREADS]);
	}
}
END_TEST

// Nobody came by for long: what was counted before is of no use.
START_TEST(rare)
{
	comes(900, true);
	now += 1000 * (int64_t)MS;
	ck_assert_uint_eq(comes(900, false), 0);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, no_convoy);
	tcase_add_test(tc, broken);
	tcase_add_test(tc, in_vain);
	tcase_add_test(tc, other_line);
	tcase_add_test(tc, rare);
}

int main(void)
{
	return unit_run("convoy", add);
}
