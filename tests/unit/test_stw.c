// test_stw.c: whom the rounds of stop-the-world wait for. Here this thread is sysmon.

#include "unit.h"

static struct g *gp;
static uint32_t never; // a futex word
static int tid;

static void *sleeps(void *arg)
{
	store_release(&tid, os_gettid()); // pairs with setup
	for (;;)
		os_futex_wait(&never, 0, NULL);
	return arg;
}

static void setup(void)
{
	pthread_t t;

	unit_config();
	ck_assert_int_eq(sched_init(1), 0);
	store_relaxed(&sched.active, PHASE_ACTIVE);
	ck_assert_int_eq(pthread_create(&t, NULL, sleeps, NULL), 0);
	while (!load_acquire(&tid) || os_thread_state(tid) != 'S') // pairs with sleeps
		sched_yield();
	gp = g_alloc();
	gp->tid = tid;
	gp->status = G_RUNNING;
}

// A G that runs without a P, and whose thread sleeps where nobody sees it, is left there; not one that has just been woken, whatever its
// waker waits for. With a handler on top it may sleep for as long as that likes.
START_TEST(asleep)
{
	ck_assert(stw_stop_by_sysmon());
	gp->waiting = true;
	for (int i = 0; i < 3; i++)
		stw_poll(os_nanotime());
	ck_assert_int_eq(stw_state(), STW_STOPPING);
	ck_assert_uint_eq(stw_result()->stragglers, 1);
	ck_assert(gp->preempt);
	if (_i == 0)
		gp->waiting = false;
	else
		gp->handlers = 1;
	stw_poll(os_nanotime());
	ck_assert_int_eq(stw_state(), STW_STOPPED);
	ck_assert_uint_eq(stw_result()->stragglers, 1);
	stw_start_by_sysmon();
	ck_assert_int_eq(stw_state(), STW_GOES);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_loop_test(tc, asleep, 0, 2);
}

int main(void)
{
	return unit_run("stw", add);
}
