// test_locks.c: gp->locks, the count of interposed locks held (scheduler.h).

#include "unit.h"

static struct g g;

// A forced park after the grace sets the count to 0 between any two steps of its owner. The count must not wrap round:
// a thread that seems to hold locks for ever is spared a whole grace with each slice.
START_TEST(zeroed_meanwhile)
{
	g.locks = 0;
	lock_counted(&g);
	g.locks = 0; // the preemption handler
	lock_not_counted(&g);
	ck_assert_int_eq(g.locks, 0);
	lock_counted(&g);
	ck_assert_int_eq(g.locks, 1);
	g.locks = 0;
	lock_released(&g);
	ck_assert_int_eq(g.locks, 0);
	g.locks = -1; // zeroed between the look and the step
	lock_counted(&g);
	lock_released(&g);
	ck_assert_int_eq(g.locks, 0);
	lock_counted(&g);
	ck_assert_int_eq(g.locks, 1);
	lock_released(&g);
	ck_assert_int_eq(g.locks, 0);
	lock_released(NULL);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, zeroed_meanwhile);
}

int main(void)
{
	return unit_run("locks", add);
}
