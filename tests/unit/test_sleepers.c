// test_sleepers.c: the P of a thread that sleeps in a system call is taken by those who need one, without sysmon, and that of
// a thread that makes many short calls is not. There is one P. Under each policy.

#include "unit.h"

enum { US = 1000 };

static const struct policy *const policies[] = {&policy_go, &policy_fair};
#define POLICIES (int)(sizeof(policies) / sizeof(*policies))

static struct g *sleeper;

static void setup(int policy)
{
	unit_config();
	config.policy = policies[policy];
	ck_assert_int_eq(sched_init(1), 0);
	store_relaxed(&sched.active, PHASE_ACTIVE);
	sleeper = g_alloc();
	sched_start(sleeper);
	ck_assert_ptr_nonnull(sleeper->p);
	tls.g = NULL; // all others are somebody else
}

// A thread comes back from a call.
static void come_back(struct g *gp)
{
	gp->status = G_SYSCALL;
	exitsyscall_slow(gp);
	ck_assert_int_eq(gp->status, G_RUNNING);
}

START_TEST(long_call)
{
	struct p *pp;

	setup(_i);
	entersyscall(sleeper);
	ck_assert_ptr_null(p_of_sleeper(1000 * US));
	ck_assert_ptr_null(p_of_sleeper(1019 * US));
	pp = p_of_sleeper(1020 * US);
	ck_assert_ptr_eq(pp, sleeper->p);
	ck_assert_ptr_null(p_of_sleeper(2000 * US));
	ck_assert_uint_eq(stats.retakes_syscall, 1);
	handoffp(pp);
	exitsyscall(sleeper);
	ck_assert_int_eq(sleeper->status, G_RUNNING);
	ck_assert_ptr_eq(pin(sleeper), pp); // it idled
}
END_TEST

START_TEST(short_calls)
{
	setup(_i);
	for (int i = 0; i < 100; i++) {
		entersyscall(sleeper);
		ck_assert_ptr_null(p_of_sleeper(i * 1000 * US));
		ck_assert_ptr_null(p_of_sleeper(i * 1000 * US + 10 * US));
		exitsyscall(sleeper);
		ck_assert_ptr_null(p_of_sleeper(i * 1000 * US + 500 * US));
	}
	ck_assert_ptr_nonnull(sleeper->p);
}
END_TEST

// Who comes back and finds no idle P has it, and not credit.
START_TEST(instead_of_credit)
{
	struct g other = {.weight = WEIGHT_ORDINARY};

	setup(_i);
	entersyscall(sleeper);
	come_back(&other);
	ck_assert_ptr_null(other.p);
	usleep(1000);
	come_back(&other);
	ck_assert_ptr_nonnull(other.p);
	exitsyscall(sleeper);
	ck_assert_int_eq(sleeper->status, G_RUNNING);
	ck_assert_ptr_null(sleeper->p); // on credit, now
	ck_assert_uint_eq(stats.credit_runs, 2);
}
END_TEST

static void wake(struct g *gp)
{
	*gp = (struct g){
		.status = G_WAITING, .park = PARK_PARKED, .switches = 1, .weight = WEIGHT_ORDINARY};
	goready(gp);
}

// Who is queued gets it, as soon as anybody else is, or comes back. Those in the queue go first.
START_TEST(for_the_queue)
{
	struct g a, b, other = {.weight = WEIGHT_ORDINARY};

	setup(_i);
	entersyscall(sleeper);
	wake(&a);
	ck_assert_int_eq(a.status, G_RUNNABLE);
	usleep(1000);
	wake(&b);
	ck_assert_int_eq(a.status, G_RUNNING);
	ck_assert_ptr_nonnull(a.p);
	ck_assert_int_eq(b.status, G_RUNNABLE);
	ck_assert_int_eq(sched.demand, 1);

	store_relaxed(&a.status, G_SYSCALL);
	come_back(&other);
	usleep(1000);
	come_back(&other);
	ck_assert_ptr_null(other.p);
	ck_assert_int_eq(b.status, G_RUNNING);
	ck_assert_int_eq(sched.demand, 0);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, long_call, 0, POLICIES);
	tcase_add_loop_test(tc, short_calls, 0, POLICIES);
	tcase_add_loop_test(tc, instead_of_credit, 0, POLICIES);
	tcase_add_loop_test(tc, for_the_queue, 0, POLICIES);
}

int main(void)
{
	return unit_run("sleepers", add);
}
