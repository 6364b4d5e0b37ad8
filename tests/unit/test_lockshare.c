// test_lockshare.c: shares of a contended mutex, on a simulated clock, by Gs that have no thread: one that is woken keeps a
// token, and that is what is looked at.

#include "clock.h"
#include "lot.h"

static struct g hog, other, third;
static int mutex, cond; // only their addresses count

static void setup(void)
{
	unit_config();
	os_vdso_clock_gettime = fake_clock;
	sched.policy = config.policy = &policy_fair;
	now = 1000000000;
}

static bool woken(struct g *gp)
{
	return xchg(&gp->park, PARK_NONE) == PARK_TOKEN;
}

static void waits(struct g *gp, int kind)
{
	if (kind == LOT_ANY)
		share_waits(gp, &mutex);
	lot_enqueue(gp, &mutex, kind);
}

// Held for so long, then let go of.
static void holds(struct g *gp, int64_t ns)
{
	now += ns;
	share_released(gp, &mutex);
}

// gp holds the mutex again and again, for section each time; who is woken comes too late. Until gp is barred; for how long?
static int64_t hammers(struct g *gp, int64_t section, struct g *late)
{
	int64_t start = now;

	waits(late, LOT_ANY);
	while (!gp->barred && now - start < 1000 * (int64_t)MS) {
		holds(gp, section);
		if (!woken(late))
			ck_abort_msg("an unlock woke nobody");
		if (!gp->barred)
			waits(late, LOT_ANY);
	}
	return now - start;
}

// Who comes back to the mutex again and again is barred after a millisecond in which another waited, whatever the length of its
// sections; then the other has it, until it has had as much.
START_TEST(takes_turns)
{
	static const int64_t sections[] = {1 * US, 10 * US, 300 * US};
	int64_t section = sections[_i], took;

	took = hammers(&hog, section, &other);
	ck_assert_ptr_eq(hog.barred, &mutex);
	ck_assert_int_ge(took, 1 * MS);
	ck_assert_int_le(took, 1 * MS + 2 * section);
	hog.barred = NULL; // it comes back
	waits(&hog, LOT_BARRED);
	for (took = 0; !woken(&hog) && took < 10 * MS; took += US)
		holds(&other, 1 * US);
	ck_assert_int_ge(took, 1 * MS - 20 * US);
	ck_assert_int_le(took, 1 * MS + 2 * section + 20 * US);
	ck_assert(!lot_has_waiters(&mutex));
	// Now the other is the hog.
	took = hammers(&other, 1 * US, &hog);
	ck_assert_int_le(took, 1 * MS + 2 * section + 20 * US);
}
END_TEST

// Who waits and is not barred is woken by each unlock, also while others are barred.
START_TEST(nobody_is_lost)
{
	waits(&hog, LOT_BARRED);
	for (int i = 0; i < 100; i++) {
		waits(&other, LOT_ANY);
		holds(&third, 1 * US);
		ck_assert(woken(&other));
	}
}
END_TEST

// While all who wait are barred, most unlocks look at nothing.
START_TEST(seldom)
{
	int looked = 0;

	(void)hammers(&hog, 10 * US, &other);
	waits(&hog, LOT_BARRED);
	for (int i = 0; i < 160; i++) {
		int64_t last = bucket_of(&mutex)->last;

		holds(&other, 1 * US);
		looked += bucket_of(&mutex)->last != last;
	}
	ck_assert_int_eq(looked, 10);
}
END_TEST

// One hold of many seconds is not paid for in full, and an uncontended one not at all.
START_TEST(debt_is_bounded)
{
	int64_t took;

	now += 3600 * 1000 * (int64_t)MS;
	waits(&other, LOT_ANY);
	holds(&hog, 10 * US);
	ck_assert(woken(&other));
	ck_assert_ptr_null(hog.barred);
	waits(&other, LOT_ANY);
	holds(&hog, 3600 * 1000 * (int64_t)MS);
	ck_assert(woken(&other));
	hog.barred = NULL;
	waits(&hog, LOT_BARRED);
	for (took = 0; !woken(&hog) && took < 1000 * MS; took += 10 * US)
		holds(&other, 10 * US);
	ck_assert_int_le(took, 30 * MS);
}
END_TEST

// A thread that gives work to another by a condition, with the mutex locked, finds that one waiting for the mutex as it lets go of it. It has
// not held it for all the time since it did so last.
START_TEST(moved_by_a_signal)
{
	for (int i = 0; i < 100; i++) {
		other.waitmutex = &mutex;
		lot_enqueue(&other, &cond, LOT_ANY);
		now += 200 * US;
		ck_assert(lot_signal(&cond, &mutex));
		ck_assert(!woken(&other));
		holds(&hog, 1 * US);
		ck_assert(woken(&other));
		ck_assert_ptr_null(hog.barred);
	}
}
END_TEST

// Who finds another waiting now and then is charged for those waits, not for the time between them.
START_TEST(waited_for_seldom)
{
	int barred = 0;

	for (int i = 0; i < 100; i++) {
		now += 500 * US;
		waits(&other, LOT_ANY);
		holds(&hog, 1 * US);
		ck_assert(woken(&other));
		if (!hog.barred)
			continue;
		barred++;
		hog.barred = NULL;
		hog.shared = NULL; // forgiven: nobody takes the mutex meanwhile
	}
	ck_assert_int_le(barred, 100 * 101 / 1000 + 1);
}
END_TEST

// The account of one mutex passes to another one of the same bucket: what was noted of the first says nothing of that.
START_TEST(account_passes_on)
{
	const char *second = (const char *)&mutex + 1;

	while (bucket_of(second) != bucket_of(&mutex))
		second++;
	waits(&other, LOT_ANY);
	holds(&hog, 10 * US);
	ck_assert(woken(&other));
	other.waitmutex = &mutex;
	lot_enqueue(&other, &cond, LOT_ANY);
	ck_assert(lot_signal(&cond, &mutex)); // waits from now on, and nobody lets go of the mutex
	ck_assert(lot_leave(&other));
	now += 10 * MS;
	share_waits(&other, second);
	lot_enqueue(&other, second, LOT_ANY);
	now += 500 * US;
	share_released(&hog, second);
	ck_assert(woken(&other));
	ck_assert_int_ge(hog.used - other.used, 400 * US);
}
END_TEST

// Under policy go an unlock wakes the first waiter and bars nobody.
START_TEST(not_under_go)
{
	sched.policy = &policy_go;
	for (int i = 0; i < 100; i++) {
		waits(&other, LOT_ANY);
		holds(&hog, 1 * MS);
		ck_assert(woken(&other));
		ck_assert_ptr_null(hog.barred);
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_loop_test(tc, takes_turns, 0, 3);
	tcase_add_test(tc, nobody_is_lost);
	tcase_add_test(tc, seldom);
	tcase_add_test(tc, debt_is_bounded);
	tcase_add_test(tc, moved_by_a_signal);
	tcase_add_test(tc, waited_for_seldom);
	tcase_add_test(tc, account_passes_on);
	tcase_add_test(tc, not_under_go);
}

int main(void)
{
	return unit_run("lockshare", add);
}
