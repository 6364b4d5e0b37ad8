// test_credit.c: who runs without a P, and what that is charged as, on a simulated clock. There is one P, and somebody has it. Under each policy.

#include <sys/syscall.h>

#include "clock.h"

static const struct policy *const policies[] = {&policy_go, &policy_fair};
#define POLICIES (int)(sizeof(policies) / sizeof(*policies))

static struct g *holder, back, woken, waiting;

static void setup(int policy)
{
	unit_config();
	os_vdso_clock_gettime = fake_clock;
	now = 1000 * MS;
	config.policy = policies[policy];
	ck_assert_int_eq(sched_init(1), 0);
	store_relaxed(&sched.active, PHASE_ACTIVE);
	holder = g_alloc();
	sched_start(holder);
	ck_assert_ptr_nonnull(holder->p);
	tls.g = NULL; // all others are somebody else
	back = woken = waiting = (struct g){.weight = WEIGHT_ORDINARY,
					    .switches = 1,
					    .vtime = fair_clock(),
					    .weigh_at = INT64_MAX,
					    .tid = (int)syscall(SYS_gettid)};
}

// The CPU clock is the real one.
static void computes(int64_t ns)
{
	int64_t end = os_thread_cputime(woken.tid) + ns;

	while (os_thread_cputime(woken.tid) < end)
		cpu_relax();
	now += ns;
}

// For so long one after another comes back from a call, every 10 us, and finds no P. None of them computes.
static void many_come_back(int64_t ns)
{
	for (int64_t end = now + ns; now < end;) {
		now += 10 * US;
		back.vtime = fair_clock();
		back.status = G_SYSCALL;
		back.run_since = 0;
		exitsyscall_slow(&back);
		ck_assert_int_eq(back.status, G_RUNNING);
		ck_assert_ptr_null(back.p);
	}
}

// Another thread wakes gp, which parked. True: it runs on credit; false: it was queued, and is no more.
static bool on_credit_when_woken(struct g *gp)
{
	ck_assert(gopark_begin(gp, WAIT_SEM));
	goready(gp);
	ck_assert_int_eq(gp->park, PARK_NONE);
	ck_assert_ptr_null(gp->p);
	if (gp->status == G_RUNNING) {
		ck_assert_int_eq(gp->note, NOTE_GRANTED);
		ck_assert(!sched.policy->take(gp));
		gp->note = NOTE_NONE;
		gp->waiting = false;
		return true;
	}
	ck_assert_int_eq(gp->status, G_RUNNABLE);
	ck_assert_int_eq(gp->note, NOTE_NONE);
	ck_assert(sched.policy->take(gp));
	sched.demand--;
	return false;
}

// Where one after another comes back on credit, and no P is idle, who is woken by a thread runs on as well, if the policy knows what it has
// had. Not when hardly anybody comes back, in a world that is to stop, a thread that is new, nor without credit.
START_TEST(woken_among_many)
{
	bool fair = policies[_i] == &policy_fair;
	uint64_t runs;

	setup(_i);
	ck_assert(!on_credit_when_woken(&woken));
	many_come_back(1 * MS);
	ck_assert_int_eq(credit_is_common(now), fair);
	runs = stats.credit_runs;
	ck_assert_int_eq(on_credit_when_woken(&woken), fair);
	ck_assert_uint_eq(stats.credit_runs, runs + fair);

	store_relaxed(&sched.stopping, true);
	ck_assert(!on_credit_when_woken(&woken));
	store_relaxed(&sched.stopping, false);
	woken.switches = 0;
	ck_assert(!on_credit_when_woken(&woken));
	woken.switches = 1;
	config.credit = 0;
	ck_assert(!on_credit_when_woken(&woken));
	config.credit = 100 * US;
	config.asyncpreemptoff = true;
	ck_assert(!on_credit_when_woken(&woken));
	config.asyncpreemptoff = false;
	ck_assert_int_eq(on_credit_when_woken(&woken), fair);

	now += 10 * MS;
	ck_assert(!credit_is_common(now));
	ck_assert(!on_credit_when_woken(&woken));
}
END_TEST

// Those who are woken so do not count: they do not keep it up.
START_TEST(does_not_keep_itself_up)
{
	int n = 0;

	setup(1);
	many_come_back(1 * MS);
	while (on_credit_when_woken(&woken)) {
		woken.vtime = fair_clock();
		now += 10 * US;
		ck_assert_int_le(++n, 1 * MS / (10 * US));
	}
	ck_assert_int_gt(n, 10);
}
END_TEST

// A thread that computes, but for short waits until another one wakes it or until its call returns, gets no more than the others: somebody
// waits for a P, and soon has had less. Each time it has computed for less than sysmon would let it.
static int64_t computes_until_refused(bool calls)
{
	int64_t ns = 0;
	bool credit;

	waiting.status = G_RUNNABLE;
	waiting.runnable_since = now;
	waiting.ready_as = READY_PREEMPTED;
	sched.policy->enqueue(NULL, &waiting, false);
	sched.demand++;
	do {
		many_come_back(200 * US);
		if (calls) {
			stray_ends(&woken, NULL, now);
			credit = credit_back(&woken, now); // else exitsyscall would wait here
			if (credit)
				runs_without(&woken, now);
		} else {
			credit = on_credit_when_woken(&woken);
		}
		computes(900 * US);
		ns += 900 * US;
	} while (credit && ns < 1000 * MS);
	return ns;
}

START_TEST(no_more_than_its_share)
{
	int64_t most;

	setup(1);
	many_come_back(1 * MS);
	woken.vtime = fair_clock();
	woken.run_since = now;
	// A quantum ahead is allowed; twice what is not reckoned yet, and the last burst.
	most = config.quantum + 2 * 6 * MS + 1 * MS;
	ck_assert_int_le(computes_until_refused(_i), most);
	ck_assert_int_ge((int64_t)woken.run_ns, config.quantum);
}
END_TEST

// Of the time between two stops no more than the credit is charged, if it was not spent computing.
START_TEST(waits_are_not_charged)
{
	setup(1);
	woken.run_since = now;
	for (int i = 0; i < 100; i++) {
		now += 50 * MS; // waits where nobody sees it, or for a CPU
		woken.status = G_SYSCALL;
		exitsyscall_slow(&woken);
	}
	ck_assert_int_eq((int64_t)woken.run_ns, 100 * config.credit);
}
END_TEST

// Short calls are part of the stretch in which they are made: nothing is charged and no new credit given until that is used up.
START_TEST(short_calls_are_one_stretch)
{
	int64_t since;

	setup(_i);
	woken.status = G_SYSCALL;
	exitsyscall_slow(&woken);
	since = now;
	ck_assert_uint_eq(stats.credit_runs, 1);
	for (int i = 0; i < 9; i++) {
		now += config.credit / 10;
		woken.status = G_SYSCALL;
		exitsyscall_slow(&woken);
		ck_assert_int_eq(woken.status, G_RUNNING);
		ck_assert_int_eq(woken.run_since, since);
	}
	ck_assert_uint_eq(stats.credit_runs, 1);
	ck_assert_uint_eq(woken.run_ns, 0);
	now += config.credit / 10;
	woken.status = G_SYSCALL;
	exitsyscall_slow(&woken);
	ck_assert_int_eq(woken.run_since, now);
	ck_assert_uint_eq(stats.credit_runs, 2);
	ck_assert_int_eq((int64_t)woken.run_ns, config.credit);
}
END_TEST

// Who was stopped by force on its way back from a call, and has been granted a P since, keeps it.
START_TEST(granted_on_the_way)
{
	struct p *pp;
	uint64_t word;

	setup(_i);
	pp = holder->p;
	word = pp->word;
	run_again(holder, true, READY_WOKEN);
	ck_assert_ptr_eq(holder->p, pp);
	ck_assert_uint_eq(pp->word, word);
	ck_assert_int_eq(holder->status, G_RUNNING);
	ck_assert_uint_eq(sched.npidle, 0);
	ck_assert(sched.policy->empty());
}
END_TEST

// The holder of the P computes for ns and waits. (It keeps its P for that: there is nobody to give it to.)
static void burst(int64_t ns, enum wait_reason why)
{
	now += ns;
	ck_assert(gopark_begin(holder, why));
	goready(holder);
	ck_assert_ptr_nonnull(holder->p);
	holder->note = NOTE_NONE;
	holder->waiting = false;
}

// Who has computed for long three times in a row between its waits gets no credit, and who did so once for a short time gets it again. What
// lies between two waits for a lock is one burst.
START_TEST(long_bursts)
{
	int64_t most;

	setup(_i);
	most = 5 * config.credit;
	for (int i = 0; i < 3; i++) {
		ck_assert(credit_back(holder, now));
		burst(most, WAIT_MUTEX);
		burst(most, WAIT_RWLOCK_R);
		burst(1, WAIT_COND);
	}
	ck_assert(!credit_back(holder, now));
	burst(most, WAIT_COND);
	ck_assert(credit_back(holder, now));
	for (int i = 0; i < 9; i++)
		burst(most, WAIT_SEM);
	ck_assert(credit_back(holder, now));
}
END_TEST

// It does get credit where most run on it. One that queues would be asked for from all others.
START_TEST(long_bursts_among_many)
{
	setup(1);
	for (int i = 0; i < 3; i++)
		burst(6 * config.credit, WAIT_COND);
	ck_assert(!credit_back(holder, now));
	many_come_back(1 * MS);
	ck_assert(credit_back(holder, now));
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, long_bursts, 0, POLICIES);
	tcase_add_test(tc, long_bursts_among_many);
	tcase_add_loop_test(tc, woken_among_many, 0, POLICIES);
	tcase_add_test(tc, does_not_keep_itself_up);
	tcase_add_loop_test(tc, no_more_than_its_share, 0, 2);
	tcase_add_test(tc, waits_are_not_charged);
	tcase_add_loop_test(tc, short_calls_are_one_stretch, 0, POLICIES);
	tcase_add_loop_test(tc, granted_on_the_way, 0, POLICIES);
}

int main(void)
{
	return unit_run("credit", add);
}
