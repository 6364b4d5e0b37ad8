// test_snapshots.c: what `preempt top` accepts from a process, which may be hostile: snapshots that lie in every field are
// refused, and what is accepted can be shown without a step outside of it.

#include "unit.h"

#include "topview.h"

enum { THREADS = 3, ROOM = 64 * 1024 };

// A good one, with Ps, threads and a module.
static size_t make(void *bytes)
{
	struct snapshot_head *h = bytes;
	struct snapshot_p *ps;
	struct snapshot_thread *threads;
	struct snapshot_module *spinning;

	memset(bytes, 0, ROOM);
	memcpy(h->magic, SNAPSHOT_MAGIC, sizeof h->magic);
	h->layout = SNAPSHOT_LAYOUT;
	h->head_size = sizeof *h;
	h->seq = 2;
	strcpy(h->version, PREEMPT_VERSION);
	strcpy(h->policy, "go");
	h->pid = getpid();
	h->procs = h->nps = 2;
	h->threads = h->nthreads = THREADS;
	h->started = 1000000000;
	h->now = 3000000000;
	h->nmodules = 1;
	h->at_modules = h->head_size;
	h->at_ps = h->at_modules + sizeof *spinning;
	h->at_threads = h->at_ps + 2 * sizeof *ps;
	spinning = (void *)((char *)bytes + h->at_modules);
	strcpy(spinning->path, "/usr/lib/libspin.so");
	ps = (void *)((char *)bytes + h->at_ps);
	ps[0] = (struct snapshot_p){.id = 0, .state = P_RUNNING, .goid = 1, .since = 2999000000};
	ps[1] = (struct snapshot_p){.id = 1, .state = P_IDLE, .queued = 7};
	threads = (void *)((char *)bytes + h->at_threads);
	threads[0] = (struct snapshot_thread){
		.goid = 1, .tid = 10, .status = G_RUNNING, .p = 0, .run_ns = 1000000000};
	threads[1] = (struct snapshot_thread){.goid = 2,
					      .tid = 11,
					      .status = G_WAITING,
					      .p = -1,
					      .reason = WAIT_MUTEX,
					      .owner = 10,
					      .since = 1500000000,
					      .object = 4096};
	threads[2] = (struct snapshot_thread){.goid = 3,
					      .tid = 12,
					      .status = G_RUNNABLE,
					      .p = -1,
					      .wait_ns = 500000000,
					      .since = 2500000000};
	h->file_size = h->at_threads + THREADS * sizeof *threads;
	return h->file_size;
}

static uint64_t buf[ROOM / 8];
static struct snapshot_head *const head = (struct snapshot_head *)buf;

static int check_it(size_t size)
{
	struct snapshot s;
	void *copy = malloc(size); // so that memory checkers see its end
	int r;

	memcpy(copy, buf, size);
	r = snapshot_check(copy, size, &s);
	free(copy);
	return r;
}

static struct snapshot_thread *thread(int i)
{
	return (struct snapshot_thread *)((char *)buf + head->at_threads) + i;
}

START_TEST(good)
{
	struct snapshot s;
	size_t size = make(buf);

	ck_assert_int_eq(snapshot_check(buf, size, &s), 0);
	ck_assert_uint_eq(s.head->nthreads, THREADS);
	ck_assert_int_eq(s.threads[1].owner, 10);
	ck_assert_uint_eq(s.ps[1].queued, 7);
	ck_assert_str_eq(s.modules[0].path, "/usr/lib/libspin.so");
}
END_TEST

// One field each.
#define LIE(field, value, error)                                                                   \
	do {                                                                                       \
		size_t size_ = make(buf);                                                          \
		ck_assert_int_eq(check_it(size_), 0);                                              \
		field = value;                                                                     \
		ck_assert_msg(check_it(size_) == (error), "%s = %s", #field, #value);              \
	} while (0)

START_TEST(lies)
{
	LIE(head->magic[7], 9, -EBADMSG);
	LIE(head->layout, 99, -EPROTO);
	LIE(head->head_size, 8, -EPROTO);
	LIE(head->version[0], 'x', -EPROTO);
	LIE(head->seq, 3, -EBADMSG); // being written
	LIE(head->seq, 0, -EBADMSG);
	LIE(head->file_size, head->file_size + 8, -EBADMSG);
	LIE(head->nthreads, THREADS + 1, -EBADMSG);
	LIE(head->nthreads, UINT32_MAX, -EBADMSG);
	LIE(head->nps, MAX_PROCS + 1, -EBADMSG);
	LIE(head->procs, MAX_PROCS + 1, -EBADMSG);
	LIE(head->nmodules, SNAPSHOT_MODULES + 1, -EBADMSG);
	LIE(head->at_threads, 0, -EBADMSG);
	LIE(head->at_threads, head->at_threads + 4, -EBADMSG);
	LIE(head->at_threads, UINT32_MAX - 7, -EBADMSG);
	LIE(head->at_ps, head->file_size, -EBADMSG);
	LIE(head->at_modules, 8, -EBADMSG);
	LIE(head->started, head->now + 1, -EBADMSG);
	LIE(head->started, -1, -EBADMSG);
	LIE(thread(0)->status, G_DEAD, -EBADMSG);
	LIE(thread(0)->status, 200, -EBADMSG);
	LIE(thread(1)->reason, WAIT_REASONS, -EBADMSG);
	LIE(thread(1)->owner, -5, -EBADMSG);
	LIE(thread(0)->tid, -1, -EBADMSG);
	LIE(thread(0)->p, MAX_PROCS, -EBADMSG);
	LIE(thread(0)->p, -2, -EBADMSG);
	LIE(thread(1)->since, head->now + 1, -EBADMSG);
	LIE(thread(1)->since, INT64_MIN, -EBADMSG);
}
END_TEST

// Texts without an end.
START_TEST(endless)
{
	size_t size = make(buf);

	memset(head->policy, 'p', sizeof head->policy);
	ck_assert_int_eq(check_it(size), -EBADMSG);
	make(buf);
	memset(head->version, 'v', sizeof head->version);
	ck_assert_int_eq(check_it(size), -EPROTO);
	make(buf);
	memset((char *)buf + head->at_modules, 'm', sizeof(struct snapshot_module));
	ck_assert_int_eq(check_it(size), -EBADMSG);
}
END_TEST

START_TEST(cut_short)
{
	size_t size = make(buf);

	for (size_t n = 0; n < size; n++)
		ck_assert_int_ne(check_it(n), 0);
}
END_TEST

static char shown[64 * 1024];

static void show(void *arg, enum line kind, const char *text)
{
	int cols = *(int *)arg;

	(void)kind;
	ck_assert_uint_le(strlen(text), (size_t)cols);
	strcat(strcat(shown, text), "\n");
}

// Two snapshots, a second apart, become shares of that second; lines are never longer than the terminal.
START_TEST(figures)
{
	struct view v = {.target = {.pid = getpid(), .inner = getpid(), .name = "test\033[2J"}};
	struct snapshot s;
	int cols;

	for (int i = 0; i < 2; i++) {
		size_t size = make(buf);
		void *copy = malloc(size);

		head->now += i * 1000000000;
		thread(0)->run_ns += i * 250000000;
		thread(2)->wait_ns += i * 1000000000;
		thread(2)->switches += i * 30;
		head->run_delay.bucket[80] = 5 + 10 * i;
		head->run_delay.max = 1 << 20;
		memcpy(copy, buf, size);
		ck_assert_int_eq(snapshot_check(copy, size, &s), 0);
		view_update(&v, &s);
	}
	ck_assert_uint_eq(v.n, THREADS);
	ck_assert_int_eq(v.rows[0].t->tid, 10); // most of the time first
	ck_assert(v.rows[0].run > 0.249 && v.rows[0].run < 0.251);
	ck_assert(v.rows[2].delay == 1 && v.rows[2].switches == 30);
	ck_assert_int_eq(v.rows[1].in_state, 2500000000);
	v.sort = SORT_DELAY;
	view_sort(&v);
	ck_assert_int_eq(v.rows[0].t->tid, 12);
	for (cols = 30; cols < 200; cols++) {
		*shown = 0;
		view_head(&v, cols, 6, show, &cols);
		view_columns(cols, show, &cols);
		view_threads(&v, cols, 0, 10, show, &cols);
		ck_assert_ptr_eq(strchr(shown, '\033'), NULL); // a name cannot command the terminal
		ck_assert_ptr_nonnull(strstr(shown, "mutex"));
	}
	ck_assert_ptr_nonnull(strstr(shown, "libspin.so"));
	ck_assert_ptr_nonnull(strstr(shown, "1:idle+7"));
	json_decref(view_json(&v));
	view_free(&v);
}
END_TEST

// Buckets have no gaps, and a percentile is that of the time between two snapshots.
START_TEST(percentiles)
{
	static struct histogram now, before;
	uint64_t n;

	for (uint32_t i = 0; i + 1 < BUCKETS; i++)
		ck_assert_uint_lt(bucket_bound(i), bucket_bound(i + 1));
	before.bucket[40] = 1000;
	now.bucket[40] = 1000;
	now.max = UINT64_MAX;
	ck_assert_uint_eq(snapshot_percentile(&now, &before, 50, &n), 0);
	ck_assert_uint_eq(n, 0);
	now.bucket[100] = 9;
	now.bucket[200] = 1;
	ck_assert_uint_ge(snapshot_percentile(&now, &before, 50, &n), bucket_bound(100));
	ck_assert_uint_lt(snapshot_percentile(&now, &before, 50, &n), bucket_bound(101));
	ck_assert_uint_ge(snapshot_percentile(&now, &before, 99, &n), bucket_bound(200));
	ck_assert_uint_eq(n, 10);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, good);
	tcase_add_test(tc, lies);
	tcase_add_test(tc, endless);
	tcase_add_test(tc, cut_short);
	tcase_add_test(tc, figures);
	tcase_add_test(tc, percentiles);
}

int main(void)
{
	return unit_run("snapshots", add);
}
