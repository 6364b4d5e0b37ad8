// test_os.c: text, locks, futexes, clocks, threads of our own.

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "unit.h"

static void setup(void)
{
	sched.pid = getpid();
}

// --- text
// -----------------------------------------------------------------------------------------

START_TEST(text_formats)
{
	char buf[256];
	struct text t = {.buf = buf, .len = 0, .cap = sizeof(buf)};

	text_printf(&t, "%s|%c|%d|%u|%x|%%|", "str", 'c', -5, 4000000000u, 0xbeefu);
	text_printf(&t, "%ld|%lu|%lx", INT64_MIN, UINT64_MAX, UINT64_MAX);
	ck_assert_str_eq(buf, "str|c|-5|4000000000|beef|%|"
			      "-9223372036854775808|18446744073709551615|ffffffffffffffff");
	ck_assert_uint_eq(t.len, strlen(buf));
	t.len = 0;
	text_printf(&t, "%d|%04u|%02lu|%04x|%d", 0, 7u, 5ul, 0x1fu, INT32_MIN);
	ck_assert_str_eq(buf, "0|0007|05|001f|-2147483648");
	t.len = 0;
	text_printf(&t, "[%5d][%s]", 42, "x");
	ck_assert_str_eq(buf, "[   42][x]");
}
END_TEST

START_TEST(text_is_cut)
{
	char buf[9];
	struct text t = {.buf = buf, .len = 0, .cap = 8};

	buf[8] = 'Z';
	text_printf(&t, "%s", "abcdefghijkl");
	text_printf(&t, "%d", 12345);
	ck_assert_uint_lt(t.len, 9);
	ck_assert_int_eq(buf[8], 'Z');
	ck_assert_int_eq(memcmp(buf, "abcdefg", 7), 0);
}
END_TEST

START_TEST(text_to_fd)
{
	int fd[2];
	char buf[16] = "";
	struct text t = {.buf = "hello", .len = 5, .cap = 5};

	ck_assert_int_eq(pipe(fd), 0);
	ck_assert(text_write_fd(&t, fd[1]));
	ck_assert_int_eq(read(fd[0], buf, sizeof(buf)), 5);
	ck_assert_str_eq(buf, "hello");
	ck_assert(!text_write_fd(&t, -1));
}
END_TEST

START_TEST(strings)
{
	ck_assert(str_eq("", "") && str_eq("ab", "ab"));
	ck_assert(!str_eq("a", "ab") && !str_eq("ab", "a") && !str_eq("a", "b"));
	ck_assert_uint_eq(str_len(""), 0);
	ck_assert_uint_eq(str_len("abc"), 3);
}
END_TEST

// --- lock
// -----------------------------------------------------------------------------------------

static struct lock lock;
static uint64_t counter;

static void *count(void *arg)
{
	(void)arg;
	for (int i = 0; i < 100000; i++) {
		critical_enter();
		lock_acquire(&lock);
		counter++;
		if (i % 1000 == 0)
			sched_yield(); // a holder that is stopped: the others sleep
		lock_release(&lock);
		critical_leave();
	}
	return NULL;
}

START_TEST(lock_excludes)
{
	pthread_t t[8];

	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, count, NULL), 0);
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	ck_assert_uint_eq(counter, 800000);
	ck_assert_uint_eq(lock.word, 0);
}
END_TEST

// --- futex, clocks
// ----------------------------------------------------------------------------------

static int64_t clock_of(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static struct deadline deadline_at(clockid_t clock, int64_t ns)
{
	return (struct deadline){.clock = clock, .at = {ns / 1000000000, ns % 1000000000}};
}

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME};

START_TEST(futex_deadline)
{
	uint32_t word = 5;
	struct deadline d = deadline_at(clocks[_i], clock_of(clocks[_i]) + 20000000);
	int64_t start = clock_of(CLOCK_MONOTONIC), took;

	ck_assert(!os_deadline_passed(&d));
	ck_assert_int_eq(os_futex_wait(&word, 4, &d), -EAGAIN);
	ck_assert_int_eq(os_futex_wait(&word, 5, &d), -ETIMEDOUT);
	took = clock_of(CLOCK_MONOTONIC) - start;
	ck_assert_int_ge(took, 19000000);
	ck_assert_int_lt(took, 2000000000);
	ck_assert(os_deadline_passed(&d));
	ck_assert_int_eq(os_futex_wait(&word, 5, &d), -ETIMEDOUT); // passed already: at once
	d.at.tv_sec = INT64_MAX;
	d.at.tv_nsec = 999999999;
	ck_assert(!os_deadline_passed(&d));
}
END_TEST

static void *wakes(void *word)
{
	usleep(20000);
	store_release((uint32_t *)word, 1); // pairs with the futex's compare
	os_futex_wake(word, 1);
	return NULL;
}

START_TEST(futex_wakes)
{
	uint32_t word = 0;
	pthread_t t;

	ck_assert_int_eq(pthread_create(&t, NULL, wakes, &word), 0);
	while (load_acquire(&word) == 0) // pairs with the store in wakes
		os_futex_wait(&word, 0, NULL);
	pthread_join(t, NULL);
	ck_assert_int_eq(os_futex_wake(&word, 1), 0);
}
END_TEST

START_TEST(times)
{
	int64_t a = clock_of(CLOCK_MONOTONIC), b = os_nanotime(), c = clock_of(CLOCK_MONOTONIC);
	struct deadline d = os_deadline_in(1000000000);

	ck_assert(a <= b && b <= c);
	ck_assert_int_lt(llabs(os_clock(CLOCK_REALTIME) - clock_of(CLOCK_REALTIME)), 1000000000);
	ck_assert_int_lt(os_clock(9999), 0);
	ck_assert_int_eq(d.clock, CLOCK_MONOTONIC);
	ck_assert(!os_deadline_passed(&d));
	d = os_deadline_in(0);
	ck_assert(os_deadline_passed(&d));
	// With the vDSO's function the answers agree.
	os_vdso_clock_gettime = clock_gettime;
	a = clock_of(CLOCK_MONOTONIC);
	b = os_nanotime();
	c = clock_of(CLOCK_MONOTONIC);
	ck_assert(a <= b && b <= c);
}
END_TEST

START_TEST(cputime)
{
	int tid = os_gettid();
	int64_t a = os_thread_cputime(tid), until = os_nanotime() + 30000000, b;

	ck_assert_int_eq(tid, (int)syscall(SYS_gettid));
	ck_assert_int_ge(a, 0);
	while (os_nanotime() < until)
		;
	b = os_thread_cputime(tid);
	ck_assert_int_gt(b, a);
	usleep(30000);
	ck_assert_int_lt(os_thread_cputime(tid) - b, 20000000);
	ck_assert_int_lt(os_thread_cputime(1 << 22), 0);
}
END_TEST

// --- threads
// ----------------------------------------------------------------------------------------

static int sleeper_tid;

static void *sleeper(void *word)
{
	store_release(&sleeper_tid, os_gettid()); // pairs with the load below
	os_futex_wait(word, 0, NULL);
	return NULL;
}

START_TEST(thread_state)
{
	uint32_t word = 0;
	pthread_t t;
	char state = 0;

	ck_assert_int_eq(pthread_create(&t, NULL, sleeper, &word), 0);
	pthread_setname_np(t, "a) R (b"); // must not be taken for the state
	for (int i = 0; i < 500 && state != 'S'; i++) {
		usleep(1000);
		if (load_acquire(&sleeper_tid)) // pairs with the store in sleeper
			state = os_thread_state(sleeper_tid);
	}
	ck_assert_int_eq(state, 'S');
	ck_assert_int_eq(os_thread_state(os_gettid()), 'R');
	store_relaxed(&word, 1);
	os_futex_wake(&word, 1);
	pthread_join(t, NULL);
	ck_assert_int_eq(os_thread_state(1 << 22), 0);
}
END_TEST

START_TEST(thread_waits)
{
	int64_t before = os_thread_waits(os_gettid()), after;

	ck_assert_int_ge(before, 0);
	for (int i = 0; i < 10; i++)
		usleep(1000);
	after = os_thread_waits(os_gettid());
	ck_assert_int_ge(after, before + 10);
	ck_assert_int_le(after, before + 40); // not the number of something else
	ck_assert_int_eq(os_thread_waits(1 << 22), -1);
}
END_TEST

struct spawned {
	uint32_t done;
	int tid;
	bool own_tls, blocked;
	int64_t time;
};

static void in_spawned(void *arg)
{
	struct spawned *s = arg;
	uint64_t mask = 0;

	s->tid = os_gettid();
	s->own_tls = tls.g == NULL && tls.critical == 0;
	tls.critical = 99;
	sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, &mask, 8);
	s->blocked = (mask | 1ul << (SIGKILL - 1) | 1ul << (SIGSTOP - 1)) == ~0ul;
	s->time = os_nanotime();
	xchg(&s->done, 1); // publishes the above to spawn
	os_futex_wake(&s->done, 1);
}

START_TEST(spawn)
{
	static struct g gp;
	static struct spawned s[16];

	tls.g = &gp;
	tls.critical = 7;
	for (int i = 0; i < 16; i++) {
		int tid = os_spawn(in_spawned, &s[i]);
		struct deadline d = os_deadline_in(5000000000);

		ck_assert_int_gt(tid, 0);
		while (!load_acquire(&s[i].done)) // pairs with the xchg in in_spawned
			ck_assert_int_ne(os_futex_wait(&s[i].done, 0, &d), -ETIMEDOUT);
		ck_assert_int_eq(s[i].tid, tid);
		ck_assert_int_ne(tid, os_gettid());
		ck_assert(s[i].own_tls);
		ck_assert(s[i].blocked);
		ck_assert_int_gt(s[i].time, 0);
	}
	ck_assert_ptr_eq(tls.g, &gp);
	ck_assert_uint_eq(tls.critical, 7);
	tls.g = NULL;
	tls.critical = 0;
}
END_TEST

// --- the rest
// ---------------------------------------------------------------------------------------

START_TEST(memory)
{
	char *p = os_mmap(100000);

	ck_assert_ptr_nonnull(p);
	for (int i = 0; i < 100000; i += 100)
		ck_assert_int_eq(p[i], 0);
	memset(p, 1, 100000);
	os_munmap(p, 100000);
	ck_assert_ptr_null(os_mmap((size_t)1 << 62));
}
END_TEST

START_TEST(read_file)
{
	char path[] = "/tmp/unit-os-XXXXXX", buf[8];
	int fd = mkstemp(path);

	ck_assert_int_eq(write(fd, "0123456789", 10), 10);
	ck_assert_int_eq(os_read_file(path, buf, sizeof(buf)), 7);
	ck_assert_str_eq(buf, "0123456");
	ck_assert_int_eq(ftruncate(fd, 3), 0);
	ck_assert_int_eq(os_read_file(path, buf, sizeof(buf)), 3);
	ck_assert_str_eq(buf, "012");
	unlink(path);
	ck_assert_int_eq(os_read_file(path, buf, sizeof(buf)), -ENOENT);
}
END_TEST

// What can be read is told from what cannot, at any alignment and whatever it holds.
START_TEST(readable)
{
	long page = sysconf(_SC_PAGESIZE);
	char *p = mmap(NULL, (size_t)(2 * page), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t values[] = {0, 1, UINT32_MAX};

	ck_assert_ptr_ne(p, MAP_FAILED);
	ck_assert_int_eq(mprotect(p + page, (size_t)page, PROT_NONE), 0);
	ck_assert(os_readable((uintptr_t)p));
	ck_assert(os_readable((uintptr_t)(p + page - 1)));
	ck_assert(!os_readable((uintptr_t)(p + page)));
	ck_assert(!os_readable((uintptr_t)(p + 2 * page - 1)));
	ck_assert(!os_readable(0));
	ck_assert(!os_readable(8));
	ck_assert(!os_readable((uintptr_t)-8));
	for (int i = 0; i < 3; i++)
		ck_assert(os_readable((uintptr_t)&values[i]));
	munmap(p, (size_t)(2 * page));
	ck_assert(!os_readable((uintptr_t)p));
}
END_TEST

START_TEST(errno_untouched)
{
	struct deadline d = os_deadline_in(0);
	uint32_t word = 0;
	char buf[8];

	errno = 123;
	os_read_file("/no/such", buf, sizeof(buf));
	os_futex_wait(&word, 0, &d);
	os_tgkill(1 << 22, 0);
	os_clock(9999);
	ck_assert_int_eq(errno, 123);
}
END_TEST

START_TEST(affinity)
{
	cpu_set_t set;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	ck_assert_int_eq(os_affinity_cpus(0), CPU_COUNT(&set));
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, text_formats);
	tcase_add_test(tc, text_is_cut);
	tcase_add_test(tc, text_to_fd);
	tcase_add_test(tc, strings);
	tcase_add_test(tc, lock_excludes);
	tcase_add_loop_test(tc, futex_deadline, 0, 2);
	tcase_add_test(tc, futex_wakes);
	tcase_add_test(tc, times);
	tcase_add_test(tc, cputime);
	tcase_add_test(tc, thread_state);
	tcase_add_test(tc, thread_waits);
	tcase_add_test(tc, spawn);
	tcase_add_test(tc, memory);
	tcase_add_test(tc, read_file);
	tcase_add_test(tc, readable);
	tcase_add_test(tc, errno_untouched);
	tcase_add_test(tc, affinity);
}

int main(void)
{
	return unit_run("os", add);
}
