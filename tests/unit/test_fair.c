// test_fair.c: policy fair on a simulated clock: random threads on simulated Ps, and what policy_fair.c promises.

#include <math.h>

#include "fair.h"

// --- random programs -------------------------------------------------------------------------------------

enum { CASES = 200 };

// Any mixture of busy, sleeping and short-lived threads with any weights on 1 to 8 Ps. The bounds are those in the
// head of policy_fair.c, numbers 1 and 2 after every event, 3 and 4 here; and no P idles while somebody waits.
START_TEST(random_programs)
{
	double worst_gap = 0, worst_wait = 0;

	for (int c = 0; c < CASES; c++) {
		static const int64_t quanta[] = {100 * US, 1 * MS, 10 * MS};
		double before[MAXG], start, weights = 0, busy_weights = 0;
		bool feasible = true;
		int n;

		begin(1 + c % MAXP, quanta[c % 3], (uint32_t)(_i * CASES + c + 1));
		n = 1 + (int)rnd(MAXG - 1);
		for (int k = 0; k < n; k++) {
			static const uint32_t some[] = {100, 100, 100, 50, 200, 25, 400, 1, 10000};
			uint32_t kind = rnd(4), w = some[rnd(c % 2 ? 9 : 3)];
			uint32_t q = (uint32_t)config.quantum;
			int64_t sleep = 1 + rnd(rnd(2) ? q / 4 : q * 20);

			if (kind == 0)
				thread(w, 1 + rnd(rnd(2) ? q / 4 : q * 4), sleep, rnd(q * 10));
			else if (kind == 1 && rnd(4) == 0)
				thread(w, 1 + rnd(q * 2), sleep, rnd(q))->mortal = true;
			else
				thread(w, 0, 0, rnd(4) ? 0 : rnd(q * 20));
			weights += rel(w * 1024);
			busy_weights += threads[k].burst ? 0 : rel(w * 1024);
		}
		run_until(now + 20 * config.quantum);
		for (int k = 0; k < n; k++)
			before[k] = service(&threads[k]);
		start = (double)now;
		run_until(now + 150 * config.quantum);

		for (int k = 0; k < n; k++) {
			struct thread *t = &threads[k];
			// Queued now, or at worst in the past.
			double wait;
			double waited =
				t->state == QUEUED ? (double)(now - t->g.runnable_since) : 0;

			if ((double)t->latest > waited)
				waited = (double)t->latest;
			wait = 0;
			for (int j = 0; j < n; j++)
				wait += j == k ? 0
					       : ((double)(config.quantum + S() + T()) /
							  rel(t->weight) +
						  (double)(CARRY * config.quantum)) *
								 rel(threads[j].weight) +
							 (double)(T() + S());
			// One slice more: nobody is stopped in the middle of what it has.
			wait = wait / np() + (double)S();
			if (waited / wait > worst_wait)
				worst_wait = waited / wait;
			if (waited > wait)
				ck_abort_msg("case %d.%d: thread %d of %d on %d Ps waited %.0f us, "
					     "bound %.0f, weight %u, quantum %ld us",
					     _i, c, k, n, np(), waited / 1000, wait / 1000,
					     t->weight / 1024, config.quantum / US);
			// More than one P's worth, or more than all others leave.
			if (!t->burst && rel(t->weight) * np() > busy_weights)
				feasible = false;
		}
		for (int k = 0; feasible && k < n; k++) {
			for (int j = 0; j < k; j++) {
				struct thread *a = &threads[k], *b = &threads[j];
				double gap, bound;

				if (a->burst || b->burst)
					continue;
				gap = fabs((service(a) - before[k]) / rel(a->weight) -
					   (service(b) - before[j]) / rel(b->weight));
				bound = 2.0 * (double)(CARRY * config.quantum) +
					(double)(config.quantum + S() + T()) *
						(1 / rel(a->weight) + 1 / rel(b->weight));
				if (gap / bound > worst_gap)
					worst_gap = gap / bound;
				if (gap > bound)
					ck_abort_msg("case %d.%d: %d and %d are %.0f us apart, "
						     "bound %.0f",
						     _i, c, k, j, gap / 1000, bound / 1000);
			}
		}
		// All CPU time was used if somebody always wanted it.
		if (busy_weights > 0 && weights > 0) {
			double used = 0;
			int busy = 0;

			for (int k = 0; k < n; k++) {
				used += service(&threads[k]) - before[k];
				busy += !threads[k].burst;
			}
			if (busy >= np() && used < ((double)now - start) * np() * 0.999)
				ck_abort_msg("case %d.%d: %.4f of the CPU time used", _i, c,
					     used / ((double)now - start) / np());
		}
	}
	if (getenv("VERBOSE"))
		printf("of the bounds: gap %.3f, wait %.3f\n", worst_gap, worst_wait);
}
END_TEST

// --- shares ------------------------------------------------------------------------------------------------

// Busy threads of weights 1:2:4, none of which promises more than a P: their CPU time is as 1:2:4 within 3 %, on any number of Ps.
START_TEST(weights)
{
	for (int procs = 1; procs <= MAXP; procs++) {
		double had[3] = {0};

		begin(procs, 10 * MS, (uint32_t)procs);
		for (int k = 0; k < 3 * procs; k++)
			thread(100u << k % 3, 0, 0, rnd(20 * MS));
		run_until(now + 1000 * (int64_t)MS);
		for (int k = 0; k < 3 * procs; k++)
			had[k % 3] -= service(&threads[k]);
		run_until(now + 5000 * (int64_t)MS);
		for (int k = 0; k < 3 * procs; k++)
			had[k % 3] += service(&threads[k]);
		for (int k = 1; k < 3; k++)
			if (fabs(had[k] / had[0] / (1 << k) - 1) > 0.03)
				ck_abort_msg("%d Ps: %.3f instead of %d", procs, had[k] / had[0],
					     1 << k);
	}
}
END_TEST

// As many as there are: nobody gets more than a slice more than another.
START_TEST(equals)
{
	for (int procs = 1; procs <= MAXP; procs++) {
		double least = 1e18, most = 0;

		begin(procs, 10 * MS, (uint32_t)procs);
		for (int k = 0; k < MAXG; k++)
			thread(100, 0, 0, 0);
		run_until(now + 5000 * (int64_t)MS);
		for (int k = 0; k < MAXG; k++) {
			least = fmin(least, service(&threads[k]));
			most = fmax(most, service(&threads[k]));
		}
		if (most - least > 2.0 * (double)(config.quantum + late))
			ck_abort_msg("%d Ps: %.1f to %.1f ms", procs, least / MS, most / MS);
	}
}
END_TEST

// What a weight promises beyond one P is lost. It was behind all the time; a second one like it comes later, and the two
// share with the rest at once, instead of the first keeping a P for as long as it had lagged.
START_TEST(more_than_a_p)
{
	struct thread *heavy[3];
	double before[3];

	begin(2, 10 * MS, 1);
	heavy[0] = thread(10000, 0, 0, 0);
	thread(100, 0, 0, 0);
	thread(100, 0, 0, 0);
	heavy[1] = thread(10000, 0, 0, 5000 * (int64_t)MS);
	heavy[2] = thread(10000, 0, 0, 5000 * (int64_t)MS);
	run_until(now + 5000 * (int64_t)MS);
	ck_assert(service(heavy[0]) > 4950.0 * MS);
	run_until(now + 15000 * (int64_t)MS);
	for (int k = 0; k < 3; k++)
		before[k] = service(heavy[k]);
	run_until(now + 15000 * (int64_t)MS);
	for (int k = 0; k < 3; k++)
		if (fabs((service(heavy[k]) - before[k]) / (10000.0 * MS) - 1) > 0.1)
			ck_abort_msg("heavy %d: %.0f ms of 15000 on 2 Ps", k,
				     (service(heavy[k]) - before[k]) / MS);
}
END_TEST

// Nobody owes anything for time that nobody else wanted. A thread of the least weight and an ordinary one run for an hour, each on its
// own P; then two more come. The light one is not kept waiting for what it used.
START_TEST(free_time)
{
	struct thread *light;
	double before;

	begin(2, 10 * MS, 1);
	light = thread(10, 0, 0, 0);
	thread(100, 0, 0, 0);
	thread(100, 0, 0, 3600000 * (int64_t)MS);
	thread(100, 0, 0, 3600000 * (int64_t)MS);
	run_until(now + 3600000 * (int64_t)MS);
	before = service(light);
	run_until(now + 1000 * (int64_t)MS);
	// Its share is 1/31 of two Ps, 64 ms a second.
	ck_assert_double_gt(service(light) - before, 30.0 * MS);
	ck_assert_double_lt(service(light) - before, 130.0 * MS);
}
END_TEST

// Sleep cannot be saved up: who slept for an hour gets one quantum more than another who was busy all the time, and not more.
START_TEST(sleep_is_not_saved)
{
	struct thread *sleeper, *busy;
	double before;

	begin(1, 10 * MS, 1);
	busy = thread(100, 0, 0, 0);
	sleeper = thread(100, 1, 3600000 * (int64_t)MS, 0);
	sleeper->exact = true;
	run_until(now + 3600000 * (int64_t)MS);
	ck_assert_int_eq(sleeper->state, SLEEPS);
	sleeper->burst = 0;
	before = service(busy);
	run_until(now + 1000 * (int64_t)MS);
	ck_assert_double_gt(service(busy) - before, 1000.0 * MS / 2 - 21.0 * MS);
	ck_assert_double_lt(service(busy) - before, 1000.0 * MS / 2 + 21.0 * MS);
}
END_TEST

// --- waking up -----------------------------------------------------------------------------------------------

// A thread that asks for less than its share has a P within the granularity and the lateness of a signal, on each
// of thousands of wake-ups, among any number of busy threads.
START_TEST(latency)
{
	static const int hogs[] = {1, 4, 16, 40};

	for (int c = 0; c < 32; c++) {
		int procs = 1 << c % 4, n = hogs[c / 4 % 4];
		int64_t period = 10 * MS, grain;
		struct thread *t;

		begin(procs, c / 16 ? 10 * MS : 1 * MS, (uint32_t)c + 1);
		late = 50 * US;
		for (int k = 0; k < n + procs; k++)
			thread(100, 0, 0, 0);
		// Half of its share; the first busy thread has the granularity behind it.
		t = thread(100, period * procs / (n + procs + 1) / 2, period, 50 * MS);
		t->exact = true;
		run_until(now + 2000 * (int64_t)MS); // until it has made up for being new
		t->latest_woken = 0;
		run_until(now + 18000 * (int64_t)MS);
		ck_assert_int_gt(t->woken, 900);
		grain = config.quantum / 8 < MS ? config.quantum / 8 : MS;
		if (t->latest_woken > grain + late)
			ck_abort_msg("case %d: %d Ps, %d busy: %ld us late", c, procs, n,
				     t->latest_woken / US);
	}
}
END_TEST

// Who asks for more than its share is not first for ever: no more than the share and a quantum.
START_TEST(greedy_sleeper)
{
	for (int procs = 1; procs <= MAXP; procs *= 2) {
		struct thread *t;
		double share;

		begin(procs, 10 * MS, (uint32_t)procs);
		for (int k = 0; k < 20; k++)
			thread(100, 0, 0, 0);
		t = thread(100, 2 * MS, 100 * US, 50 * MS);
		run_until(now + 10000 * (int64_t)MS);
		share = 10000.0 * MS * procs / 21;
		ck_assert_double_le(service(t), share + 30.0 * MS);
		ck_assert_double_ge(service(t), share / 2);
	}
}
END_TEST

// Many who wake all the time do not take the P from each other without end: a P changes hands on request once per
// granularity at most.
START_TEST(no_thrashing)
{
	for (int procs = 1; procs <= MAXP; procs *= 2) {
		begin(procs, 10 * MS, (uint32_t)procs);
		late = 0;
		for (int k = 0; k < 20; k++)
			thread(100, 0, 0, 0);
		for (int k = 0; k < 20; k++)
			thread(100, 100 * US, 10 * MS, 0);
		run_until(now + 2000 * (int64_t)MS);
		ck_assert_uint_gt(wake_preemptions, 10);
		ck_assert_uint_le(wake_preemptions, 2000 * (uint64_t)procs);
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_loop_test(tc, random_programs, 0, 12);
	tcase_add_test(tc, weights);
	tcase_add_test(tc, equals);
	tcase_add_test(tc, more_than_a_p);
	tcase_add_test(tc, free_time);
	tcase_add_test(tc, sleep_is_not_saved);
	tcase_add_test(tc, latency);
	tcase_add_test(tc, greedy_sleeper);
	tcase_add_test(tc, no_thrashing);
}

int main(void)
{
	return unit_run("fair", add);
}
