// test_strays.c: what sysmon does about those who run without a P, on a simulated clock. The CPU clock is the real one.

#include <sys/syscall.h>

#include "clock.h"

enum { TICK = 50 * US };

static struct g *stray;

static void setup(int waiting)
{
	unit_config();
	os_vdso_clock_gettime = fake_clock;
	now = 1000 * MS;
	config.policy = &policy_fair;
	config.asyncpreemptoff = false;
	ck_assert_int_eq(sched_init(1), 0);
	store_relaxed(&sched.active, PHASE_ACTIVE);
	stray = g_alloc();
	stray->tid = (int)syscall(SYS_gettid);
	stray->status = G_RUNNING;
	stray->run_since = now;
	stray->locks = 1; // no signal is sent to it
	sched.demand = waiting;
}

static void computes(int64_t ns)
{
	int64_t end = os_thread_cputime(stray->tid) + ns;

	while (os_thread_cputime(stray->tid) < end)
		cpu_relax();
	now += ns;
}

static int64_t look(void)
{
	return sched.demand ? watch_strays(now, TICK) : watch_strays_alone(now, TICK);
}

// Where somebody waits it is asked to queue when it has used up its credit, counted from the first look at which it may have.
START_TEST(is_asked)
{
	setup(1);
	now += config.credit / 2;
	look();
	ck_assert_int_eq(stray->stray_seen, 0); // too young to be looked at
	now += 1 * MS;
	look();
	ck_assert_int_eq(stray->stray_seen, stray->run_since);
	ck_assert(!stray->preempt);
	now += 1 * MS;
	look();
	ck_assert(!stray->preempt); // time has passed, but it did not compute
	computes(2 * config.credit);
	now += 1 * MS;
	look(); // the kernel is asked how often it has blocked
	computes(2 * config.credit);
	now += 1 * MS;
	look();
	ck_assert(stray->preempt);
}
END_TEST

// Where nobody does it may go on for 10 ms of CPU time.
START_TEST(is_asked_later)
{
	setup(0);
	sysmon_stray();
	now += config.credit;
	look();
	for (int i = 0; i < 8; i++) {
		computes(1 * MS);
		now += 10 * MS;
		look();
		ck_assert(!stray->preempt);
	}
	for (int i = 0; i < 3; i++) {
		computes(6 * MS);
		now += 10 * MS;
		look();
	}
	ck_assert(stray->preempt);
}
END_TEST

static int asleep_tid;

static void *sleeps(void *arg)
{
	store_relaxed(&asleep_tid, (int)syscall(SYS_gettid));
	for (;;)
		pause();
	return arg;
}

// Looks become rare while it does nothing, and end when there is none.
START_TEST(looks_become_rare)
{
	int64_t next, gap = 0;
	pthread_t t;

	setup(0);
	ck_assert_int_eq(pthread_create(&t, NULL, sleeps, NULL), 0);
	while (!load_relaxed(&asleep_tid))
		usleep(1000);
	usleep(10000);
	stray->tid = asleep_tid;
	sysmon_stray();
	now += config.credit;
	for (int i = 0; i < 40; i++) {
		next = look();
		ck_assert_int_gt(next, now);
		ck_assert_int_lt(next, INT64_MAX);
		gap = next - now;
		now = next;
	}
	ck_assert_int_ge(gap, 500 * MS);
	stray->status = G_WAITING;
	ck_assert_int_eq(look(), INT64_MAX);
}
END_TEST

// One that lost its P before its thread began is looked at until that begins: it will not tell.
START_TEST(not_begun)
{
	int tid;

	setup(0);
	tid = stray->tid;
	stray->tid = 0;
	sysmon_stray();
	for (int i = 0; i < 40; i++) {
		int64_t next = look();

		ck_assert_int_le(next, now + 10 * MS);
		now = next;
	}
	stray->tid = tid;
	look();
	ck_assert_int_eq(stray->stray_seen, stray->run_since);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, is_asked);
	tcase_add_test(tc, is_asked_later);
	tcase_add_test(tc, looks_become_rare);
	tcase_add_test(tc, not_begun);
}

int main(void)
{
	return unit_run("strays", add);
}
