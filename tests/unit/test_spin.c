// test_spin.c: who is said to wait by spinning, what that costs it, and what the report says of it.

#include "clock.h"

static struct g g;
static int64_t charged;

static void setup(void)
{
	unit_config();
	memset(&g, 0, sizeof(g));
	spin_reset_in_child();
	lock_reset_in_child();
	sched.demand = 1;
	sched.nprocs = 1;
}

// A loop of tries is one of many on one object, without pauses in between.
START_TEST(tries)
{
	int a, b, loops = 0;

	for (int i = 0; i < 200; i++) {
		ck_assert(!spin_tried(&g, &a)); // two objects in turn: no wait for one of them
		ck_assert(!spin_tried(&g, &b));
	}
	for (int i = 0; i < 20; i++)
		ck_assert(!spin_tried(&g, &a)); // too few
	g.tries = 0;
	// The machine may be busy: one run of tries in ten is fast enough.
	for (int i = 0; i < 10000; i++)
		loops += spin_tried(&g, &a);
	ck_assert_int_gt(loops, 0);
	g.tries = 0;
	for (int i = 0; i < 100; i++) {
		struct deadline d = os_deadline_in(3000000);
		uint32_t never = 0;

		ck_assert_msg(!spin_tried(&g, &a), "with something else in between");
		if (i % 16 == 15)
			os_futex_wait(&never, 0, &d);
	}
}
END_TEST

// Nobody waits for a P: only after a while.
START_TEST(tries_alone)
{
	int a;
	int64_t from, at;
	bool found;

	sched.demand = 0;
	from = os_nanotime();
	do {
		found = spin_tried(&g, &a);
		at = os_nanotime();
	} while (!found && at - from < 10000000000);
	ck_assert(found);
	ck_assert_int_ge(at - from, 100000);
}
END_TEST

static void charge(struct g *gp, int64_t ns, int64_t at)
{
	(void)gp, (void)at;
	charged = ns;
}

static struct g *none(struct p *pp, bool *inherit)
{
	(void)pp, (void)inherit;
	return NULL;
}

static bool always(void)
{
	return true;
}

// The report: most yields first, no more than asked for.
START_TEST(top)
{
	struct spin_site sites[3];
	struct lock_figures locks[2];

	sched.policy = &(const struct policy){
		.name = "test", .charge = charge, .pick = none, .empty = always};
	for (uint32_t i = 0; i < 5; i++)
		for (uint32_t k = 0; k <= (i * 2) % 5; k++) // 1 3 5 2 4
			spin_yield(&g, 0x1000 + i, os_nanotime(), NULL);
	ck_assert_uint_eq(stats.spin_yields, 15);
	ck_assert_uint_eq(spin_top(sites, 3), 3);
	ck_assert_uint_eq(sites[0].pc, 0x1002);
	ck_assert_uint_eq(sites[0].yields, 5);
	ck_assert_uint_eq(sites[1].pc, 0x1004);
	ck_assert_uint_eq(sites[2].pc, 0x1001);
	lock_count(NULL, LOCK_WAIT);
	ck_assert_uint_eq(lock_top(locks, 2), 0);
	lock_count(&locks[0], LOCK_WAIT);
	lock_count(&locks[1], LOCK_WAIT);
	lock_count(&locks[1], LOCK_SPARED);
	lock_count(&locks[1], LOCK_OWNER_WAIT);
	ck_assert_uint_eq(lock_top(locks, 2), 2);
	ck_assert_ptr_eq(locks[0].addr, &locks[1]);
	ck_assert_uint_eq(locks[0].n[LOCK_SPARED], 1);
}
END_TEST

// The useless time of a wait that has just begun, and only of that.
START_TEST(not_charged)
{
	struct p pp = {.word = P_SEQ_ONE | P_RUNNING, .g = &g};
	int64_t start = os_nanotime() - 1000000;

	sched.policy = &(const struct policy){
		.name = "test", .charge = charge, .pick = none, .empty = always};
	g.status = G_RUNNING;
	g.p = &pp;
	g.pseq = P_SEQ_ONE;
	g.run_since = start;
	tls.g = tls.self = &g;
	spin_yield(&g, 0x1000, start + 400000, NULL); // alone: it keeps its P
	ck_assert_int_ge(g.spun_ns, 600000);
	ck_assert(gopark_begin(&g, WAIT_MUTEX));
	ck_assert_int_le(charged, os_nanotime() - start - 600000);
	ck_assert_int_eq(g.spun_ns, 0);
	tls.g = tls.self = NULL;
}
END_TEST

static const struct policy alone = {
	.name = "test", .charge = charge, .pick = none, .empty = always};
static struct p held;

static int (*real_clock)(clockid_t, struct timespec *);

// The clock stands, so that it is the test that says which PAUSEs are of one wait.
static void stop_the_clock(void)
{
	now = 1000000000;
	real_clock = os_vdso_clock_gettime;
	os_vdso_clock_gettime = fake_clock;
	sched.policy = &alone;
	tls.pauses = 0;
	tls.paused_at = 0;
	held = (struct p){.word = P_SEQ_ONE | P_RUNNING, .g = &g}; // alone: it keeps it
	g.status = G_RUNNING;
	g.p = &held;
	g.pseq = P_SEQ_ONE;
}

// PAUSEs of a wait that begins now, until gp is to yield.
static uint32_t patience(uintptr_t pc)
{
	uint32_t n = 1;

	now += 100000;
	while (!spin_paused(&g, pc))
		n++;
	return n;
}

// Where a thread's waits are mostly not over before it yields, it yields sooner; but it goes on to look, now and then, whether they are, and
// when they are it has its patience back.
START_TEST(hurry)
{
	uint32_t most, least = 0, n, tried = 0;

	stop_the_clock();
	most = patience(0x1000);
	for (int i = 0; i < 100; i++) {
		spin_yield(&g, 0x1000, now, NULL);
		n = patience(0x1000);
		ck_assert_uint_le(n, most);
		least = i == 0 || n < least ? n : least;
		tried += i > 50 && n == most;
	}
	ck_assert_uint_le(2 * least, most);
	ck_assert_uint_gt(tried, 0);
	ck_assert_uint_lt(tried, 10);
	for (int i = 0; i < 20; i++) { // no yield in between
		now += 100000;
		spin_paused(&g, 0x1000);
	}
	ck_assert_uint_eq(patience(0x1000), most);
	os_vdso_clock_gettime = real_clock;
}
END_TEST

static bool first_in_line(void)
{
	g.spin_first = true;
	return true;
}

// Where those whose turn it is mostly get on, one whose turn it is waits for longer until it yields again. Not any more when that was
// for nothing.
START_TEST(in_line)
{
	uint32_t before, in_vain = 0;

	stop_the_clock();
	sched.policy = &(const struct policy){
		.name = "test", .charge = charge, .pick = none, .empty = first_in_line};
	spin_yield(&g, 0x1000, now, NULL);
	before = g.spin_patience;
	for (int i = 0; i < 100; i++) {
		now += 100000; // it got on
		spin_yield(&g, 0x1000, now, NULL);
	}
	ck_assert_uint_gt(g.spin_patience, 2 * before);
	while (g.spin_patience > before && in_vain++ < 100)
		spin_yield(&g, 0x1000, g.spin_back, NULL); // the same wait
	ck_assert_uint_lt(in_vain, 20);
	// Who comes out of turn has no use for it.
	for (int i = 0; i < 100; i++) {
		now += 100000;
		spin_yield(&g, 0x1000, now, NULL);
	}
	sched.policy = &(const struct policy){
		.name = "test", .charge = charge, .pick = none, .empty = always};
	now += 100000;
	spin_yield(&g, 0x1000, now, NULL);
	ck_assert_uint_eq(g.spin_patience, before);
	os_vdso_clock_gettime = real_clock;
}
END_TEST

static int named_function_of_this_file(int x)
{
	return x * 3;
}

// Names come from the file, also those that are not exported. No file, no name.
START_TEST(symbols)
{
	int (*volatile fn)(int) = named_function_of_this_file;
	char path[4096];
	long n = sys3(SYS_readlink, "/proc/self/exe", path, sizeof(path) - 1);
	struct symbol s;
	extern const char __ehdr_start[];

	ck_assert_int_gt(n, 0);
	path[n] = 0;
	ck_assert(symbol_at(path, (uintptr_t)fn - (uintptr_t)__ehdr_start, &s));
	ck_assert_str_eq(s.name, "named_function_of_this_file");
	ck_assert_uint_eq(s.offset, 0);
	ck_assert(!symbol_at(path, 1, &s));
	ck_assert(!symbol_at("/proc/nonexistent", 0x1000, &s));
	ck_assert(!symbol_at("/proc/self/maps", 0x1000, &s));
	ck_assert(!symbol_at("/", 0x1000, &s));
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, tries);
	tcase_add_test(tc, tries_alone);
	tcase_add_test(tc, top);
	tcase_add_test(tc, not_charged);
	tcase_add_test(tc, hurry);
	tcase_add_test(tc, in_line);
	tcase_add_test(tc, symbols);
}

int main(void)
{
	return unit_run("spin", add);
}
