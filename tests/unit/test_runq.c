// test_runq.c: order in the queues, overflow, stealing, and that no G is lost or seen twice.

#include <sched.h>

#include "unit.h"

enum { NG = 4096 };
static struct g gs[NG];

static void setup(void)
{
	unit_config();
	memset(gs, 0, sizeof(gs));
	sched.allp = os_mmap(sizeof(struct p) * MAX_PROCS);
	ck_assert_ptr_nonnull(sched.allp);
	sched.nprocs = 4;
	sched.policy = &policy_go;
	sched.runq = (struct gqueue){0};
	for (uint32_t i = 0; i < 4; i++) {
		sched.allp[i].id = i;
		sched.allp[i].rand = i + 1;
		sched.allp[i].schedtick = 1; // not a multiple of 61
	}
}

#define P(i) (&sched.allp[i])
#define INDEX(gp) ((int)((gp)-gs))

static uint32_t ring(const struct p *pp)
{
	return pp->runqtail - pp->runqhead;
}

START_TEST(fifo)
{
	bool inherit = true;

	ck_assert(runqempty(P(0)));
	ck_assert_ptr_null(runqget(P(0), &inherit));
	for (int round = 0; round < 5; round++) { // round the ring several times
		for (int i = 0; i < 200; i++)
			runqput(P(0), &gs[i], false);
		ck_assert(!runqempty(P(0)));
		for (int i = 0; i < 200; i++) {
			inherit = true;
			ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[i]);
			ck_assert(!inherit);
		}
		ck_assert(runqempty(P(0)));
	}
}
END_TEST

// The indices are 32 bits and wrap.
START_TEST(indices_wrap)
{
	bool inherit;

	P(0)->runqhead = P(0)->runqtail = UINT32_MAX - 2;
	for (int i = 0; i < 10; i++)
		runqput(P(0), &gs[i], false);
	for (int i = 0; i < 10; i++)
		ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[i]);
	ck_assert(runqempty(P(0)));
}
END_TEST

START_TEST(runnext_goes_first)
{
	bool inherit = false;

	runqput(P(0), &gs[0], false);
	runqput(P(0), &gs[1], true);
	ck_assert(!runqempty(P(0)));
	runqput(P(0), &gs[2], true); // kicks 1 to the tail
	ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[2]);
	ck_assert(inherit); // continues the slice
	ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[0]);
	ck_assert(!inherit);
	ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[1]);
	ck_assert(!inherit);
	runqput(P(0), &gs[3], true);
	ck_assert(!runqempty(P(0)));
	ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[3]);
	ck_assert(runqempty(P(0)));
}
END_TEST

START_TEST(overflow)
{
	bool inherit;

	for (int i = 0; i < RUNQ_SIZE; i++)
		runqput(P(0), &gs[i], false);
	ck_assert_uint_eq(ring(P(0)), RUNQ_SIZE);
	ck_assert_uint_eq(sched.runq.size, 0);
	runqput(P(0), &gs[RUNQ_SIZE], false);
	// The older half went to the global list, the new one behind it.
	ck_assert_uint_eq(ring(P(0)), RUNQ_SIZE / 2);
	ck_assert_uint_eq(sched.runq.size, RUNQ_SIZE / 2 + 1);
	for (int i = 0; i < RUNQ_SIZE / 2; i++)
		ck_assert_ptr_eq(globrunqget(NULL, 1), &gs[i]);
	ck_assert_ptr_eq(globrunqget(NULL, 1), &gs[RUNQ_SIZE]);
	ck_assert_ptr_null(globrunqget(NULL, 1));
	for (int i = RUNQ_SIZE / 2; i < RUNQ_SIZE; i++)
		ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[i]);
	ck_assert(runqempty(P(0)));
}
END_TEST

START_TEST(global_batch)
{
	bool inherit;

	for (int i = 0; i < 100; i++)
		globrunqput(&gs[i]);
	ck_assert_uint_eq(sched.runq.size, 100);
	// 100 / 4 + 1 = 26: one to run, 25 to the ring.
	ck_assert_ptr_eq(globrunqget(P(0), 0), &gs[0]);
	ck_assert_uint_eq(ring(P(0)), 25);
	ck_assert_uint_eq(sched.runq.size, 74);
	for (int i = 1; i <= 25; i++)
		ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[i]);
	ck_assert_ptr_eq(globrunqget(P(0), 1), &gs[26]);
	ck_assert_uint_eq(ring(P(0)), 0);
	// At most half a ring.
	sched.nprocs = 1;
	for (int i = 100; i < 1000; i++)
		globrunqput(&gs[i]);
	ck_assert_ptr_eq(globrunqget(P(0), 0), &gs[27]);
	ck_assert_uint_eq(ring(P(0)), RUNQ_SIZE / 2 - 1);
	ck_assert_uint_eq(sched.runq.size, 973 - RUNQ_SIZE / 2);
	// The last one leaves an empty list that can be used again.
	sched.nprocs = 4;
	while (globrunqget(NULL, 1))
		;
	ck_assert_uint_eq(sched.runq.size, 0);
	globrunqput(&gs[0]);
	ck_assert_ptr_eq(globrunqget(NULL, 1), &gs[0]);
}
END_TEST

// A G of this CPU goes before others that became runnable with it, never before one that had waited for longer.
START_TEST(global_prefers_this_cpu)
{
	cpu_set_t one, all;
	int here;

	sched_getaffinity(0, sizeof(all), &all);
	here = sched_getcpu();
	CPU_ZERO(&one);
	CPU_SET(here, &one);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
	config.quantum = 10000000;
	for (int i = 0; i < 4; i++) {
		gs[i].cpu = i == 0 ? here + 1 : here;
		gs[i].runnable_since = 1000000000;
		globrunqput(&gs[i]);
	}
	gs[1].cpu = here + 1;
	ck_assert_ptr_eq(globrunqget(NULL, 1), &gs[2]);
	gs[3].runnable_since += 1000000; // a later slice's
	ck_assert_ptr_eq(globrunqget(NULL, 1), &gs[0]);
	gs[3].runnable_since -= 1000000;
	ck_assert_ptr_eq(globrunqget(NULL, 1), &gs[3]);
	ck_assert_ptr_eq(globrunqget(NULL, 1), &gs[1]);
	// The end of the list was taken and is right.
	globrunqput(&gs[0]);
	ck_assert_ptr_eq(globrunqget(NULL, 1), &gs[0]);
	ck_assert_ptr_null(globrunqget(NULL, 1));
	sched_setaffinity(0, sizeof(all), &all);
}
END_TEST

START_TEST(steal_half)
{
	bool inherit;

	ck_assert_ptr_null(runqsteal(P(1), P(0), true));
	for (int i = 0; i < 10; i++)
		runqput(P(0), &gs[i], false);
	// Five of ten: the oldest. One is returned, the others are in the thief's ring.
	ck_assert_ptr_eq(runqsteal(P(1), P(0), false), &gs[4]);
	ck_assert_uint_eq(ring(P(1)), 4);
	ck_assert_uint_eq(ring(P(0)), 5);
	for (int i = 0; i < 4; i++)
		ck_assert_ptr_eq(runqget(P(1), &inherit), &gs[i]);
	for (int i = 5; i < 10; i++)
		ck_assert_ptr_eq(runqget(P(0), &inherit), &gs[i]);
	// A single one can be stolen; runnext only on request.
	runqput(P(0), &gs[0], false);
	ck_assert_ptr_eq(runqsteal(P(1), P(0), false), &gs[0]);
	runqput(P(0), &gs[1], true);
	ck_assert_ptr_null(runqsteal(P(1), P(0), false));
	ck_assert_ptr_eq(runqsteal(P(1), P(0), true), &gs[1]);
	ck_assert(runqempty(P(0)) && runqempty(P(1)));
}
END_TEST

START_TEST(pick_order)
{
	bool inherit;

	globrunqput(&gs[0]);
	runqput(P(0), &gs[1], false);
	runqput(P(0), &gs[2], true);
	ck_assert_ptr_eq(policy_go.pick(P(0), &inherit), &gs[2]);
	ck_assert(inherit);
	ck_assert_ptr_eq(policy_go.pick(P(0), &inherit), &gs[1]);
	ck_assert(!inherit);
	ck_assert_ptr_eq(policy_go.pick(P(0), &inherit), &gs[0]);
	runqput(P(3), &gs[3], false); // by stealing
	ck_assert_ptr_eq(policy_go.pick(P(0), &inherit), &gs[3]);
	ck_assert(!inherit);
	runqput(P(2), &gs[4], true); // somebody's runnext, last of all
	ck_assert(!policy_go.empty());
	ck_assert_ptr_eq(policy_go.pick(P(0), &inherit), &gs[4]);
	ck_assert(policy_go.empty());
	ck_assert_ptr_null(policy_go.pick(P(0), &inherit));
}
END_TEST

// Two Gs that ready each other for ever do not starve the global queue.
START_TEST(tick_61)
{
	bool inherit;

	P(0)->schedtick = 61;
	globrunqput(&gs[0]);
	globrunqput(&gs[1]);
	runqput(P(0), &gs[2], true);
	ck_assert_ptr_eq(policy_go.pick(P(0), &inherit), &gs[0]);
	ck_assert(!inherit);
	P(0)->schedtick = 62;
	ck_assert_ptr_eq(policy_go.pick(P(0), &inherit), &gs[2]);
}
END_TEST

START_TEST(drain)
{
	for (int i = 0; i < 9; i++)
		policy_go.enqueue(P(0), &gs[i], false);
	policy_go.enqueue(P(0), &gs[9], true);
	policy_go.enqueue(NULL, &gs[10], true);
	policy_go.drain(P(0));
	ck_assert(runqempty(P(0)));
	ck_assert_uint_eq(sched.runq.size, 11);
}
END_TEST

// --- one owner that puts and gets, three Ps that steal: every G comes out once per round
// ----------

enum { ROUNDS = 300 };
static uint32_t seen[NG], left, stop;

static void took(struct g *gp)
{
	fetch_add(&seen[INDEX(gp)], 1);
	fetch_sub(&left, 1);
}

static void *thief(void *arg)
{
	struct p *pp = arg;
	uint32_t n = 0;

	tls.critical = 1;	       // as in the scheduler: it takes sched.lock
	while (!load_acquire(&stop)) { // pairs with the store in exactly_once
		bool inherit;
		struct g *gp = policy_go.pick(pp, &inherit);

		if (gp)
			took(gp);
		if (n++ % 64 == 0) // also when there is one CPU
			sched_yield();
	}
	return NULL;
}

START_TEST(exactly_once)
{
	pthread_t t[3];
	uint32_t rand = 1;

	tls.critical = 1;
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, thief, P(i + 1)), 0);
	for (uint32_t round = 1; round <= ROUNDS; round++) {
		store_relaxed(&left, NG);
		for (int i = 0; i < NG; i++) {
			bool inherit;
			struct g *gp;

			rand = rand * 1664525 + 1013904223;
			policy_go.enqueue(rand >> 29 ? P(0) : NULL, &gs[i], (rand >> 20 & 7) == 0);
			if ((rand >> 24 & 3) == 0 && (gp = runqget(P(0), &inherit)))
				took(gp);
		}
		for (int64_t until = os_nanotime() + 20000000000; load_relaxed(&left);) {
			bool inherit;
			struct g *gp = policy_go.pick(P(0), &inherit);

			if (gp)
				took(gp);
			else
				sched_yield();
			if (os_nanotime() > until) // ck_assert is slow
				ck_abort_msg("round %u: %u Gs were lost", round,
					     load_relaxed(&left));
		}
		for (int i = 0; i < NG; i++) {
			if (load_relaxed(&seen[i]) != round)
				ck_abort_msg("round %u: G %d seen %u times", round, i,
					     load_relaxed(&seen[i]));
		}
	}
	store_release(&stop, 1); // pairs with the load in thief
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	tls.critical = 0;
	ck_assert(policy_go.empty());
	ck_assert_uint_eq(sched.runq.size, 0);
}
END_TEST

// --- who waits by spinning --------------------------------------------------------------------------------------

static void put(int i, enum ready_as as, int64_t began, uint32_t in_vain, int64_t now)
{
	gs[i].ready_as = (uint8_t)as;
	gs[i].spin_since = began;
	gs[i].spin_yields = in_vain;
	gs[i].runnable_since = now;
	tls.critical = 1;
	globrunqput(&gs[i]);
	tls.critical = 0;
}

static void expect(const int *order, int n)
{
	for (int i = 0; i < n; i++) {
		struct g *gp = globrunqget(NULL, 1);

		ck_assert_ptr_nonnull(gp);
		ck_assert_int_eq(INDEX(gp), order[i]);
	}
	ck_assert_ptr_null(globrunqget(NULL, 1));
	ck_assert_uint_eq(sched.runq.size, 0);
	ck_assert_ptr_null(sched.runq.head);
	ck_assert_ptr_null(sched.runq.tail);
}
#define EXPECT(...)                                                                                \
	expect((const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

// In the order in which their waits began, whenever they looked.
START_TEST(spun_by_age)
{
	put(0, READY_SPUN, 10, 0, 100);
	put(1, READY_SPUN, 30, 0, 101);
	put(2, READY_SPUN, 40, 0, 102);
	put(3, READY_SPUN, 20, 1, 103); // looked in vain: behind one at least
	EXPECT(0, 3, 1, 2);
}
END_TEST

// Never the next one while there is another; and with each look in vain behind more, until it is behind all; then anew.
START_TEST(spun_in_vain)
{
	static const int behind[] = {1, 1, 2, 4, 8, 16, 32, 60, 1, 1, 2};

	for (uint32_t k = 0; k < sizeof(behind) / sizeof(*behind); k++) {
		for (int i = 1; i <= 60; i++)
			put(i, READY_SPUN, 1000 + i, 0, 100);
		put(0, READY_SPUN, 1, k, 100);
		for (int i = 0; i < behind[k]; i++)
			ck_assert_int_eq(INDEX(globrunqget(NULL, 1)), i + 1);
		ck_assert_int_eq(INDEX(globrunqget(NULL, 1)), 0);
		while (globrunqget(NULL, 1))
			;
	}
}
END_TEST

// Before those that compute, but not for longer than 2 ms.
START_TEST(spun_and_others)
{
	put(0, READY_WOKEN, 0, 0, 0);
	put(1, READY_WOKEN, 0, 0, 500000);
	put(2, READY_SPUN, 5, 0, 1000000);
	EXPECT(0, 2, 1);
	put(0, READY_WOKEN, 0, 0, 0);
	put(1, READY_WOKEN, 0, 0, 500000);
	put(2, READY_SPUN, 5, 0, 3000000);
	EXPECT(0, 1, 2);
}
END_TEST

// Who was preempted may be the one they all wait for: after two of them it is its turn.
START_TEST(preempted_among_spun)
{
	for (int i = 1; i <= 10; i++)
		put(i, READY_SPUN, i, 0, i);
	put(0, READY_PREEMPTED, 0, 0, 100);
	EXPECT(1, 2, 0, 3, 4, 5, 6, 7, 8, 9, 10);
	put(0, READY_PREEMPTED, 0, 0, 100);
	put(1, READY_PREEMPTED, 0, 0, 100);
	EXPECT(0, 1);
}
END_TEST

// From anywhere in the queue, once.
START_TEST(take_one)
{
	for (int victim = 0; victim < 3; victim++) {
		for (int i = 0; i < 3; i++)
			put(i, READY_PREEMPTED, 0, 0, 0);
		tls.critical = 1;
		ck_assert(policy_go.take(&gs[victim]));
		ck_assert(!policy_go.take(&gs[victim]));
		ck_assert(!policy_go.take(&gs[9]));
		tls.critical = 0;
		put(5, READY_WOKEN, 0, 0, 0); // the tail is right
		EXPECT(victim == 0, victim == 2 ? 1 : 2, 5);
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, fifo);
	tcase_add_test(tc, indices_wrap);
	tcase_add_test(tc, runnext_goes_first);
	tcase_add_test(tc, overflow);
	tcase_add_test(tc, global_batch);
	tcase_add_test(tc, global_prefers_this_cpu);
	tcase_add_test(tc, steal_half);
	tcase_add_test(tc, pick_order);
	tcase_add_test(tc, tick_61);
	tcase_add_test(tc, drain);
	tcase_add_test(tc, exactly_once);
	tcase_add_test(tc, spun_by_age);
	tcase_add_test(tc, spun_in_vain);
	tcase_add_test(tc, spun_and_others);
	tcase_add_test(tc, preempted_among_spun);
	tcase_add_test(tc, take_one);
}

int main(void)
{
	return unit_run("runq", add);
}
