// test_fair_queue.c: policy fair: who of the queue is next, what a hold is charged for, and what a switch costs.

#include "fair.h"

// --- the order in the queue --------------------------------------------------------------------------------------

static struct g *queue_one(int k, enum ready_as as)
{
	struct g *gp = &threads[k].g;

	if (!gp->weight)
		policy_fair.wakes(gp, now);
	gp->ready_as = (uint8_t)as;
	gp->runnable_since = now;
	policy_fair.enqueue(NULL, gp, false);
	return gp;
}

static struct g *pick(void)
{
	bool inherit = true;
	struct g *gp = policy_fair.pick(P(0), &inherit);

	ck_assert(!inherit);
	return gp;
}

// Threads that are alike come in the order in which they were made, or have been woken.
START_TEST(fifo_among_equals)
{
	begin(1, 10 * MS, 1);
	for (int k = 0; k < MAXG; k++)
		queue_one(k, READY_NEW);
	for (int k = 0; k < MAXG; k++)
		ck_assert_ptr_eq(pick(), &threads[k].g);
	ck_assert(policy_fair.empty());
	ck_assert_ptr_null(pick());
	for (int k = MAXG - 1; k >= 0; k--)
		queue_one(k, READY_WOKEN);
	for (int k = MAXG - 1; k >= 0; k--)
		ck_assert_ptr_eq(pick(), &threads[k].g);
}
END_TEST

// A yield lets another run, however far behind the yielding one is; the two then take turns.
START_TEST(yield)
{
	struct g *a = &threads[0].g, *b = &threads[1].g;

	begin(1, 10 * MS, 1);
	a->weight = b->weight = WEIGHT_ORDINARY;
	a->vtime = 0;
	b->vtime = 20 * MS;
	queue_one(1, READY_PREEMPTED);
	for (int i = 0; i < 10; i++) {
		queue_one(i % 2, READY_YIELDED);
		ck_assert_ptr_eq(pick(), i % 2 ? a : b);
	}
}
END_TEST

// Who waits by spinning and has had less than all others comes before them, in the order in which the waits began; but
// not after one of them has looked in vain, or has had more.
START_TEST(spun)
{
	struct g *hog = &threads[0].g, *a = &threads[1].g, *b = &threads[2].g;

	begin(1, 10 * MS, 1);
	hog->weight = a->weight = b->weight = WEIGHT_ORDINARY;
	a->vtime = b->vtime = 5 * MS;
	hog->vtime = 10 * MS;
	a->spin_since = 1;
	b->spin_since = 2;
	queue_one(0, READY_PREEMPTED);
	queue_one(2, READY_SPUN);
	queue_one(1, READY_SPUN);
	ck_assert_ptr_eq(pick(), b); // a came later, and never passes all
	ck_assert_ptr_eq(pick(), a);
	a->spin_yields = 1;
	P(0)->in_vain = true;
	queue_one(1, READY_SPUN);
	ck_assert_ptr_eq(pick(), hog);
	ck_assert_ptr_eq(pick(), a);
	a->spin_yields = 0;
	a->vtime = 11 * MS;
	queue_one(0, READY_PREEMPTED);
	queue_one(1, READY_SPUN);
	ck_assert_ptr_eq(pick(), hog);
	ck_assert(policy_fair.take(a));
	ck_assert(!policy_fair.take(a));
	ck_assert(policy_fair.empty());
}
END_TEST

// Who has waited for longest by spinning looks first, once, and again when something has happened; else who looked longest ago.
START_TEST(spun_order)
{
	struct spinq q = {0};
	struct g *a = &threads[0].g, *b = &threads[1].g, *c = &threads[2].g;

	begin(1, 10 * MS, 1);
	q.turns = 1; // the next that does not go by progress is far
	a->spin_since = 1;
	b->spin_since = 2;
	c->spin_since = 3;
	c->spin_yields = b->spin_yields = a->spin_yields = 1;
	spinq_put(&q, c);
	spinq_put(&q, b);
	ck_assert_ptr_eq(spinq_choose(&q, 0), c); // both have looked
	spinq_progress(&q);
	ck_assert_ptr_eq(spinq_choose(&q, 0), b);
	a->spin_yields = 0;
	gqueue_take(&q.all, b);
	spinq_put(&q, b); // looked, in vain
	ck_assert_ptr_eq(spinq_choose(&q, 0), c);
	spinq_put(&q, a); // it begins to wait: it did something before
	ck_assert_ptr_eq(spinq_choose(&q, 0), b);
	b->spin_behind = true;
	ck_assert_ptr_eq(spinq_choose(&q, 0), c);
	b->spin_behind = false;
	b->cpu = 1; // where another runs
	ck_assert_ptr_eq(spinq_choose(&q, cpu_bit(1)), c);
	// Who waits outside of the line (convoy.c) comes last, but has done something: those in it look again.
	b->cpu = 0;
	gqueue_take(&q.all, b);
	gqueue_take(&q.all, c);
	spinq_put(&q, b);
	c->spin_behind = true;
	c->spin_yields = 0;
	spinq_put(&q, c);
	ck_assert_ptr_eq(spinq_choose(&q, 0), a);
	gqueue_take(&q.all, a);
	ck_assert_ptr_eq(spinq_choose(&q, 0), b);
	spinq_put(&q, a);
	// In any case, now and then: the first in the list.
	spinq_progress(&q);
	for (int i = 0; i < 16; i++)
		if (spinq_choose(&q, 0) == q.all.head)
			return;
	ck_abort_msg("the first in the list had no turn");
}
END_TEST

// Who had clearly more of a P than the others, so as the one of them that a lock of their own favours, comes after them, however long it has
// waited; in the end it has its turn all the same. And who is near to the first in line is told so.
START_TEST(spun_lead)
{
	struct spinq q = {0};
	int turns = 0;

	begin(1, 10 * MS, 1);
	q.turns = 1;
	for (int i = 0; i < 8; i++) {
		struct g *gp = &threads[i].g;

		gp->vtime = 100 * MS + i;
		gp->spin_since = 1 + i;
		spinq_put(&q, gp);
	}
	spinq_progress(&q);
	ck_assert_ptr_eq(spinq_choose(&q, 0), &threads[0].g);
	ck_assert(threads[0].g.spin_first);
	threads[0].g.vtime += 20 * MS;
	ck_assert_ptr_eq(spinq_choose(&q, 0), &threads[1].g);
	for (int i = 0; i < 1100; i++)
		turns += spinq_choose(&q, 0) == &threads[0].g;
	ck_assert_int_ge(turns, 1);
	ck_assert_int_le(turns, 3);
	// All the others are on CPUs where others run, so the last in line is preferred. It is far from being the next.
	q.turns = 1;
	q.passed = 0;
	for (int i = 0; i < 7; i++)
		threads[i].g.cpu = 1;
	ck_assert_ptr_eq(spinq_choose(&q, cpu_bit(1)), &threads[7].g);
	ck_assert(!threads[7].g.spin_first);
}
END_TEST

// Preferred is a thread that ran last where no other P's holder runs, if it has at most half a quantum more than the
// first; if a woken thread has asked for the P, at most the granularity.
START_TEST(prefers_free_cpu)
{
	begin(2, 10 * MS, 1);
	P(1)->word = P_SEQ_ONE | P_RUNNING;
	P(1)->cpu = 0;
	for (int k = 0; k < 5; k++) {
		threads[k].g.weight = WEIGHT_ORDINARY;
		threads[k].g.vtime = k * 2 * MS;
		threads[k].g.cpu = k % 2;
		queue_one(k, READY_PREEMPTED);
	}
	ck_assert_ptr_eq(pick(), &threads[1].g);
	ck_assert_uint_eq(P(0)->cpu, 1);
	ck_assert_ptr_eq(pick(), &threads[0].g); // the third of them is too far
	P(0)->resched = P_SEQ_ONE | P_RUNNING;
	P(0)->resched_for = &threads[0].g;
	threads[0].g.status = G_RUNNABLE;
	P(0)->resched_at = now;
	ck_assert_ptr_eq(pick(), &threads[2].g);
	P(0)->resched_at = now + 1;
	P(1)->cpu = 1;
	ck_assert_ptr_eq(pick(), &threads[4].g);
	P(1)->cpu = 0;
	P(1)->word = P_SEQ_ONE | P_IDLE;
	queue_one(0, READY_PREEMPTED);
	ck_assert_ptr_eq(pick(), &threads[0].g);
	ck_assert_ptr_eq(pick(), &threads[3].g);
}
END_TEST

// Who wakes another and stops hands its P on to that one, with the rest of the slice: not when that is over, not to one that is far
// ahead of the first, and not when a woken thread has asked for the P. Where the other ran last, a P's holder runs now: somebody
// else is better then, if there is one.
START_TEST(hands_on)
{
	enum {
		HANDED,
		OVER,
		AHEAD,
		ASKED,
		NOT_YET_ASKED,
		ASKED_BY_ANOTHER,
		TAKEN,
		ALL_TAKEN,
		CASES_OF_IT
	};

	for (int c = 0; c < CASES_OF_IT; c++) {
		bool handed = c == HANDED || c == NOT_YET_ASKED || c == ASKED_BY_ANOTHER ||
			      c == ALL_TAKEN;
		struct g waker = {.p = P(0)}, *gp;
		bool inherit = false;

		begin(2, 10 * MS, 1);
		P(0)->slice_start = now;
		if (c >= TAKEN)
			P(1)->word = P_SEQ_ONE | P_RUNNING;
		for (int k = 0; k < 3; k++) {
			threads[k].g.weight = WEIGHT_ORDINARY;
			threads[k].g.vtime = k * (c == AHEAD ? 3 * MS : MS);
			threads[k].g.cpu = c == TAKEN && k == 0;
			tls.g = k == 2 ? &waker : NULL;
			queue_one(k, READY_WOKEN);
		}
		tls.g = NULL;
		now += c == OVER ? 10 * MS : 9 * MS;
		P(0)->resched = c >= ASKED && c < TAKEN ? P_SEQ_ONE | P_RUNNING : 0;
		P(0)->resched_at = c == NOT_YET_ASKED ? now + 1 : now;
		threads[0].g.status =
			c == ASKED_BY_ANOTHER ? G_RUNNING : G_RUNNABLE; // it has a P by now
		P(0)->resched_for = &threads[0].g;
		gp = policy_fair.pick(P(0), &inherit);
		ck_assert_msg(gp == &threads[handed ? 2 : 0].g && inherit == handed, "case %d", c);
		P(0)->resched = 0;
		ck_assert_ptr_eq(pick(), &threads[handed ? 0 : 1].g); // once
	}
}
END_TEST

// A P held for long without the CPU, as other processes had it, is charged for a slice; with the CPU, in full.
START_TEST(charged_by_cpu)
{
	struct g *gp = &threads[0].g;
	int64_t cpu0;

	begin(1, 100 * US, 1);
	gp->weight = WEIGHT_ORDINARY;
	gp->weigh_at = NEVER;
	queue_one(1, READY_NEW); // somebody waits
	cpu0 = os_thread_cputime(0);
	policy_fair.charge(gp, 100 * US, now += 100 * US);
	ck_assert_int_eq(gp->vtime, 100 * US);
	policy_fair.charge(gp, 10000 * (int64_t)MS, now += 10000 * (int64_t)MS);
	ck_assert_int_lt(gp->vtime, 1000 * MS);
	ck_assert_int_ge(gp->vtime, 200 * US);
	gp->vtime = 0;
	while (os_thread_cputime(0) - cpu0 < 20 * MS)
		;
	policy_fair.charge(gp, 10 * MS, now += 10 * MS);
	ck_assert_int_eq(gp->vtime, 10 * MS);
}
END_TEST

// Also its first one: on a busy machine a new thread may hold a P for long before the kernel starts it. Charged for all of that, one
// of 64 was let wait for 20 s.
START_TEST(charged_from_the_start)
{
	struct g *gp = &threads[0].g;

	begin(1, 100 * US, 1);
	gp->weight = WEIGHT_ORDINARY;
	gp->weigh_at = NEVER;
	queue_one(1, READY_NEW); // somebody waits
	policy_fair.charge(gp, 100000 * (int64_t)MS, now += 100000 * (int64_t)MS);
	ck_assert_int_lt(gp->vtime, 10000 * (int64_t)MS);
	ck_assert_int_ge(gp->vtime, 100 * US);
}
END_TEST

// A thread that was made just now has its maker's weight for a millisecond, and the kernel is not asked for its clock; any other is asked at once.
START_TEST(new_threads)
{
	struct g *made = &threads[0].g, *adopted = &threads[1].g;

	begin(1, 10 * MS, 1);
	made->start = (void *(*)(void *))1;
	queue_one(0, READY_NEW);
	queue_one(1, READY_NEW);
	ck_assert_int_eq(made->weigh_at, now + MS);
	ck_assert_int_eq(made->charged, 1);
	ck_assert_int_eq(adopted->weigh_at, 0);
	ck_assert_int_eq(adopted->charged, 0);
	policy_fair.charge(made, MS / 2, now += MS / 2);
	ck_assert_int_eq(made->weigh_every, 0);
	ck_assert_int_eq(made->charged, 1 + MS / 2);
	policy_fair.charge(made, MS / 2, now += MS / 2);
	ck_assert_int_ne(made->weigh_every, 0);
	made->vtime = 0; // and what it held before the kernel started it is not charged in full
	policy_fair.charge(made, 100000 * (int64_t)MS, now += 100000 * (int64_t)MS);
	ck_assert_int_lt(made->vtime, 10000 * (int64_t)MS);
}
END_TEST

// Credit is for those who have not had their share.
START_TEST(credit)
{
	struct g *gp = &threads[0].g;

	begin(1, 10 * MS, 1);
	gp->weight = WEIGHT_ORDINARY;
	gp->vtime = fair_clock() + 9 * MS;
	ck_assert(policy_fair.credit(gp));
	gp->vtime += 2 * MS;
	ck_assert(!policy_fair.credit(gp));
}
END_TEST

// Switches with 10 and with 10,000 waiting: the time of one, in ns. With VERBOSE only, as a measurement.
START_TEST(cost)
{
	static struct g many[10000];
	int64_t best[2] = {INT64_MAX, INT64_MAX};

	os_vdso_clock_gettime = NULL;
	ck_assert(policy_fair.reserve(10000));
	begin(1, 10 * MS, 1);
	for (int round = 0; round < 200; round++) {
		for (int big = 0; big < 2; big++) {
			int n = big ? 10000 : 10;
			enum { SWITCHES = 500 };
			struct g *gp;
			int64_t t;

			policy_fair.reset();
			sched.runq.size = 0;
			for (int i = 0; i < n; i++) {
				many[i] = (struct g){.weight = WEIGHT_ORDINARY, .weigh_at = NEVER};
				many[i].vtime = rnd(10 * MS);
				many[i].ready_as = READY_PREEMPTED;
				policy_fair.enqueue(NULL, &many[i], false);
			}
			t = os_nanotime();
			for (int i = 0; i < SWITCHES; i++) {
				gp = pick();
				policy_fair.charge(gp, 10 * MS, now += 10 * MS);
				policy_fair.enqueue(NULL, gp, false);
			}
			t = (os_nanotime() - t) / SWITCHES;
			if (t < best[big])
				best[big] = t;
		}
	}
	if (getenv("VERBOSE"))
		printf("a pick and a put: %ld ns with 10 Gs, %ld ns with 10000\n", best[0],
		       best[1]);
	// Not the time of a search through all: 10,000 entries are 160 KB.
	ck_assert_int_lt(best[1], 20 * best[0] + 2000);
}
END_TEST

// Whoever looks at a P is delayed: its holder has ended meanwhile, and its G has been cleared for another thread, so it has no weight. That
// divided by zero, which ended the program. Its virtual time counts no more: it is no victim, and raises no clock.
START_TEST(holder_ended)
{
	struct g *woken = &threads[0].g, *gone = &threads[1].g;
	uint64_t word;
	int64_t at, clock;

	begin(1, 10 * MS, 1);
	woken->weight = WEIGHT_ORDINARY;
	P(0)->g = gone;
	P(0)->word = P_SEQ_ONE | P_RUNNING;
	gone->status = G_RUNNING;
	gone->vtime = 1000 * MS;
	gone->run_since = now - MS;
	clock = fair_clock();
	policy_fair.wakes(woken, now);
	ck_assert_int_eq(fair_clock(), clock);
	ck_assert_ptr_null(policy_fair.victim(woken, NULL, now, &word, &at));
	// With a weight it is both: the test looks where it means to.
	gone->weight = WEIGHT_ORDINARY;
	ck_assert_ptr_eq(policy_fair.victim(woken, NULL, now, &word, &at), P(0));
	now += 10 * MS;
	policy_fair.wakes(woken, now);
	ck_assert_int_gt(fair_clock(), clock);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, fifo_among_equals);
	tcase_add_test(tc, yield);
	tcase_add_test(tc, spun);
	tcase_add_test(tc, spun_order);
	tcase_add_test(tc, spun_lead);
	tcase_add_test(tc, prefers_free_cpu);
	tcase_add_test(tc, hands_on);
	tcase_add_test(tc, charged_by_cpu);
	tcase_add_test(tc, charged_from_the_start);
	tcase_add_test(tc, new_threads);
	tcase_add_test(tc, credit);
	tcase_add_test(tc, holder_ended);
	tcase_add_test(tc, cost);
}

int main(void)
{
	return unit_run("fair_queue", add);
}
