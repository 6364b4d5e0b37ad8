/*
 * thread.c - the life of a thread: join in all forms, detach, exit, destructors, cancellation, and
 * the same through C11's names.
 */
#include "prog.h"

#include <poll.h>
#include <threads.h>

static atomic_int go;

static void *return_arg(void *arg)
{
	return arg;
}

static void *exit_arg(void *arg)
{
	pthread_exit(arg);
}

static void *wait_go(void *arg)
{
	while (!atomic_load(&go))
		sleep_ns(100000);
	return arg;
}

/* join gives what the thread returned or exited with, also long after its end; joining oneself is
 * EDEADLK. */
CASE_STRESS(join_values)
{
	pthread_t t[64];

	for (intptr_t i = 0; i < 64; i++)
		t[i] = spawn(i & 1 ? return_arg : exit_arg, (void *)i);
	for (intptr_t i = 63; i >= 0; i--)
		CHECK_EQ((intptr_t)join(t[i]), i);
	CHECK_EQ(pthread_join(pthread_self(), NULL), EDEADLK);
}

/* tryjoin, timedjoin and clockjoin: EBUSY and exact ETIMEDOUT while it runs, then its value. */
CASE(join_timed)
{
	pthread_t t = spawn(wait_go, (void *)7);
	struct timespec ts;
	void *ret;

	CHECK_EQ(pthread_tryjoin_np(t, &ret), EBUSY);
	ts = after(CLOCK_REALTIME, 10 * MS);
	CHECK_EQ(pthread_timedjoin_np(t, &ret, &ts), ETIMEDOUT);
	CHECK(now(CLOCK_REALTIME) >= ts.tv_sec * SEC + ts.tv_nsec);
	ts = after(CLOCK_MONOTONIC, 10 * MS);
	CHECK_EQ(pthread_clockjoin_np(t, &ret, CLOCK_MONOTONIC, &ts), ETIMEDOUT);
	CHECK(now(CLOCK_MONOTONIC) >= ts.tv_sec * SEC + ts.tv_nsec);
	ts = after(CLOCK_REALTIME, 20 * SEC);
	atomic_store(&go, 1);
	CHECK_EQ(pthread_timedjoin_np(t, &ret, &ts), 0);
	CHECK_EQ((intptr_t)ret, 7);
	t = spawn(return_arg, (void *)8);
	ts = after(CLOCK_MONOTONIC, 20 * SEC);
	CHECK_EQ(pthread_clockjoin_np(t, &ret, CLOCK_MONOTONIC, &ts), 0);
	CHECK_EQ((intptr_t)ret, 8);
	t = spawn(return_arg, (void *)9);
	for (;;) {
		int r = pthread_tryjoin_np(t, &ret);

		if (!r)
			break;
		CHECK_EQ(r, EBUSY);
		sched_yield();
	}
	CHECK_EQ((intptr_t)ret, 9);
}

/* Detached threads, made so before, after or by themselves, run to their end. */
static atomic_int detached_done;

static void *detached_main(void *arg)
{
	if (arg)
		CHECK_EQ(pthread_detach(pthread_self()), 0);
	atomic_fetch_add(&detached_done, 1);
	return NULL;
}

CASE_STRESS(detach)
{
	pthread_attr_t attr;
	pthread_t t;

	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED), 0);
	for (int i = 0; i < 20; i++) {
		CHECK_EQ(pthread_create(&t, &attr, detached_main, NULL), 0);
		t = spawn(detached_main, NULL);
		CHECK_EQ(pthread_detach(t), 0);
		spawn(detached_main, &go);
	}
	AWAIT(&detached_done, 60);
}

/* main leaves by pthread_exit, the others run on, the last one ends the process with 0. */
static void *outlive(void *arg)
{
	sleep_ns(20 * MS);
	spin(100000);
	return arg;
}

static void exit_main_first(void *arg)
{
	(void)arg;
	for (int i = 0; i < 4; i++)
		spawn(outlive, NULL);
	pthread_exit(NULL);
}

CASE_STRESS(main_pthread_exit)
{
	CHECK_EQ(in_child(exit_main_first, NULL), 0);
}

/* Another thread can join main. */
static pthread_t main_thread;
static void *join_main(void *arg)
{
	(void)arg;
	CHECK_EQ((intptr_t)join(main_thread), 5);
	exit(23);
}

static void be_joined(void *arg)
{
	(void)arg;
	main_thread = pthread_self();
	spawn(join_main, NULL);
	pthread_exit((void *)5);
}

CASE_STRESS(main_joined)
{
	CHECK_EQ(in_child(be_joined, NULL), 23 << 8);
}

/* Destructors of thread-specific data run at the thread's end, and may lock, sleep and wait. */
static pthread_key_t key;
static pthread_mutex_t tsd_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int tsd_ran;
static __thread int tls_value;

static void tsd_destroy(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(&tsd_lock), 0);
	sleep_ns(100000);
	CHECK_EQ(tls_value, (intptr_t)arg);
	CHECK_EQ(pthread_mutex_unlock(&tsd_lock), 0);
	if (atomic_fetch_add(&tsd_ran, 1) % 2 == 0)
		CHECK_EQ(pthread_setspecific(key, arg), 0); /* another round */
}

static void *tsd_main(void *arg)
{
	tls_value = (int)(intptr_t)arg;
	CHECK_EQ(pthread_setspecific(key, arg), 0);
	sched_yield();
	CHECK(pthread_getspecific(key) == arg);
	CHECK_EQ(tls_value, (intptr_t)arg);
	if ((intptr_t)arg % 3 == 0)
		pthread_exit(arg);
	if ((intptr_t)arg % 3 == 1) {
		pthread_cancel(pthread_self());
		pthread_testcancel();
	}
	return arg;
}

CASE_STRESS(tsd_destructors)
{
	pthread_t t[16];
	int n;

	CHECK_EQ(pthread_key_create(&key, tsd_destroy), 0);
	for (intptr_t i = 0; i < 16; i++)
		t[i] = spawn(tsd_main, (void *)(i + 1));
	for (int i = 0; i < 16; i++)
		join(t[i]);
	n = atomic_load(&tsd_ran);
	/* Each at least once; whose turn it was to be run again depends on the order. */
	CHECK(n >= 16 && n <= 16 * PTHREAD_DESTRUCTOR_ITERATIONS);
}

/* C++'s thread_local destructors come through this entry of libc; they may block too. */
extern int __cxa_thread_atexit_impl(void (*fn)(void *), void *obj, void *dso);
extern void *__dso_handle;
static atomic_int cxa_ran;

static void cxa_destroy(void *obj)
{
	CHECK(obj == &cxa_ran);
	CHECK_EQ(pthread_mutex_lock(&tsd_lock), 0);
	sleep_ns(100000);
	CHECK_EQ(pthread_mutex_unlock(&tsd_lock), 0);
	atomic_fetch_add(&cxa_ran, 1);
}

static void *cxa_main(void *arg)
{
	CHECK_EQ(__cxa_thread_atexit_impl(cxa_destroy, &cxa_ran, &__dso_handle), 0);
	return arg;
}

CASE_STRESS(thread_local_destructors)
{
	pthread_t t[16];

	for (int i = 0; i < 16; i++)
		t[i] = spawn(cxa_main, NULL);
	for (int i = 0; i < 16; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&cxa_ran), 16);
}

/* Cancellation takes effect in every kind of blocking call, with the clean-up handler run. */
static atomic_int c_in, c_cleaned;
static int c_pipe[2];
static pthread_t c_target;
static atomic_int c_target_end;
static sem_t c_sem;

/* Outlives every thread that tries to join it: the next join would find it gone. */
static void *c_target_main(void *arg)
{
	while (!atomic_load(&c_target_end))
		sleep_ns(100000);
	return arg;
}

static void c_cleanup(void *arg)
{
	(void)arg;
	atomic_fetch_add(&c_cleaned, 1);
}

static void *cancel_in(void *arg)
{
	struct timespec ts = {.tv_sec = 100}, abs = after(CLOCK_REALTIME, 100 * SEC);
	struct pollfd pfd = {.fd = c_pipe[0], .events = POLLIN};
	siginfo_t si;
	sigset_t set;
	fd_set fds;
	char c;

	pthread_cleanup_push(c_cleanup, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	FD_ZERO(&fds);
	FD_SET(c_pipe[0], &fds);
	atomic_fetch_add(&c_in, 1);
	for (;;)
		switch ((intptr_t)arg) {
		case 0:
			CHECK(read(c_pipe[0], &c, 1) > 0);
			break;
		case 1:
			sleep(100);
			break;
		case 2:
			nanosleep(&ts, NULL);
			break;
		case 3:
			pthread_join(c_target, NULL);
			break;
		case 4:
			poll(&pfd, 1, -1);
			break;
		case 5:
			select(c_pipe[0] + 1, &fds, NULL, NULL, NULL);
			break;
		case 6:
			sem_wait(&c_sem);
			break;
		case 7:
			sem_timedwait(&c_sem, &abs);
			break;
		case 8:
			pause();
			break;
		case 9:
			sigwaitinfo(&set, &si);
			break;
		case 10:
			clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
			break;
		case 11:
			usleep(100000000);
			break;
		default:
			pthread_testcancel();
			sched_yield();
		}
	pthread_cleanup_pop(0);
	return NULL;
}

#define CANCEL_KINDS 13

CASE_STRESS(cancel_blocking)
{
	pthread_t t[CANCEL_KINDS];

	CHECK_EQ(pipe(c_pipe), 0);
	CHECK_EQ(sem_init(&c_sem, 0, 0), 0);
	c_target = spawn(c_target_main, NULL);
	for (intptr_t i = 0; i < CANCEL_KINDS; i++)
		t[i] = spawn(cancel_in, (void *)i);
	AWAIT(&c_in, CANCEL_KINDS);
	sleep_ns(5 * MS);
	for (int i = 0; i < CANCEL_KINDS; i++)
		CHECK_EQ(pthread_cancel(t[i]), 0);
	for (int i = 0; i < CANCEL_KINDS; i++)
		CHECK(join(t[i]) == PTHREAD_CANCELED);
	CHECK_EQ(atomic_load(&c_cleaned), CANCEL_KINDS);
	atomic_store(&c_target_end, 1);
	join(c_target);
}

/* A request that is already there takes effect at the next cancellation point, never before. */
static void *cancel_early(void *arg)
{
	int old;

	CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old), 0);
	CHECK_EQ(old, PTHREAD_CANCEL_ENABLE);
	atomic_fetch_add(&c_in, 1);
	while (!atomic_load(&go))
		sleep_ns(100000); /* a cancellation point, but disabled */
	pthread_testcancel();
	CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old), 0);
	CHECK_EQ(old, PTHREAD_CANCEL_DISABLE);
	pthread_mutex_lock(&tsd_lock); /* no cancellation point */
	pthread_mutex_unlock(&tsd_lock);
	atomic_fetch_add(&c_cleaned, 1);
	cancel_in(arg);
	return NULL;
}

CASE_STRESS(cancel_disabled)
{
	pthread_t t[CANCEL_KINDS];

	CHECK_EQ(pipe(c_pipe), 0);
	CHECK_EQ(sem_init(&c_sem, 0, 0), 0);
	c_target = spawn(c_target_main, NULL);
	for (intptr_t i = 0; i < CANCEL_KINDS; i++)
		t[i] = spawn(cancel_early, (void *)i);
	AWAIT(&c_in, CANCEL_KINDS);
	for (int i = 0; i < CANCEL_KINDS; i++)
		CHECK_EQ(pthread_cancel(t[i]), 0);
	sleep_ns(2 * MS);
	CHECK_EQ(atomic_load(&c_cleaned), 0);
	atomic_store(&go, 1);
	for (int i = 0; i < CANCEL_KINDS; i++)
		CHECK(join(t[i]) == PTHREAD_CANCELED);
	CHECK_EQ(atomic_load(&c_cleaned), 2 * CANCEL_KINDS);
	atomic_store(&c_target_end, 1);
	join(c_target);
}

/* Asynchronous cancellation ends a loop without calls. */
static void *cancel_busy(void *arg)
{
	int old;

	(void)arg;
	CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old), 0);
	CHECK_EQ(old, PTHREAD_CANCEL_DEFERRED);
	atomic_fetch_add(&c_in, 1);
	for (;;)
		__asm__ volatile("");
	return NULL;
}

CASE_STRESS(cancel_async)
{
	pthread_t t[8];

	for (int i = 0; i < 8; i++)
		t[i] = spawn(cancel_busy, NULL);
	AWAIT(&c_in, 8);
	for (int i = 0; i < 8; i++)
		CHECK_EQ(pthread_cancel(t[i]), 0);
	for (int i = 0; i < 8; i++)
		CHECK(join(t[i]) == PTHREAD_CANCELED);
}

/* pthread_mutex_lock is no cancellation point, even when it waits long. */
static void *no_cancel_point(void *arg)
{
	atomic_fetch_add(&c_in, 1);
	CHECK_EQ(pthread_mutex_lock(&tsd_lock), 0);
	atomic_fetch_add(&c_cleaned, 1);
	CHECK_EQ(pthread_mutex_unlock(&tsd_lock), 0);
	pthread_testcancel();
	return arg;
}

CASE_STRESS(cancel_not_in_mutex)
{
	pthread_t t;

	CHECK_EQ(pthread_mutex_lock(&tsd_lock), 0);
	t = spawn(no_cancel_point, NULL);
	AWAIT(&c_in, 1);
	sleep_ns(5 * MS);
	CHECK_EQ(pthread_cancel(t), 0);
	sleep_ns(5 * MS);
	CHECK_EQ(pthread_mutex_unlock(&tsd_lock), 0);
	CHECK(join(t) == PTHREAD_CANCELED);
	CHECK_EQ(atomic_load(&c_cleaned), 1);
}

/* Names, attributes, ids and kill(0) of threads, of parked ones too. */
CASE(thread_queries)
{
	pthread_t t = spawn(wait_go, NULL);
	pthread_attr_t attr;
	cpu_set_t set;
	char name[16];
	clockid_t clock;
	size_t size;
	void *base;

	CHECK_EQ(pthread_setname_np(t, "named"), 0);
	CHECK_EQ(pthread_getname_np(t, name, sizeof(name)), 0);
	CHECK(!strcmp(name, "named"));
	CHECK_EQ(pthread_getattr_np(t, &attr), 0);
	CHECK_EQ(pthread_attr_getstack(&attr, &base, &size), 0);
	CHECK(base != NULL && size >= 65536);
	CHECK_EQ(pthread_getaffinity_np(t, sizeof(set), &set), 0);
	CHECK(CPU_COUNT(&set) >= 1);
	CHECK_EQ(pthread_getcpuclockid(t, &clock), 0);
	CHECK(now(clock) >= 0);
	CHECK_EQ(pthread_kill(t, 0), 0);
	CHECK(!pthread_equal(t, pthread_self()));
	atomic_store(&go, 1);
	join(t);
	CHECK_EQ(pthread_attr_destroy(&attr), 0);
}

/* C11: mutexes, conditions, once, thread-specific storage, join values and timeouts. */
static mtx_t c_mtx;
static cnd_t c_cnd;
static once_flag c_once = ONCE_FLAG_INIT;
static tss_t c_tss;
static int c_once_n, c_turn;
static atomic_int c_tss_n;

static void c_once_init(void)
{
	c_once_n++;
	thrd_sleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void c_tss_destroy(void *arg)
{
	CHECK(arg == &c_mtx);
	CHECK_EQ(mtx_lock(&c_mtx), thrd_success);
	CHECK_EQ(mtx_unlock(&c_mtx), thrd_success);
	atomic_fetch_add(&c_tss_n, 1);
}

static int c_main(void *arg)
{
	int me = (int)(intptr_t)arg;

	call_once(&c_once, c_once_init);
	CHECK_EQ(tss_set(c_tss, &c_mtx), thrd_success);
	for (int i = 0; i < 50; i++) {
		CHECK_EQ(mtx_lock(&c_mtx), thrd_success);
		while (c_turn != me)
			CHECK_EQ(cnd_wait(&c_cnd, &c_mtx), thrd_success);
		c_turn = (me + 1) % 8;
		CHECK_EQ(cnd_broadcast(&c_cnd), thrd_success);
		CHECK_EQ(mtx_unlock(&c_mtx), thrd_success);
		thrd_yield();
	}
	CHECK(tss_get(c_tss) == &c_mtx);
	if (me & 1)
		thrd_exit(me);
	return me;
}

CASE_STRESS(c11_threads)
{
	thrd_t t[8];

	CHECK_EQ(mtx_init(&c_mtx, mtx_plain), thrd_success);
	CHECK_EQ(cnd_init(&c_cnd), thrd_success);
	CHECK_EQ(tss_create(&c_tss, c_tss_destroy), thrd_success);
	for (int i = 0; i < 8; i++)
		CHECK_EQ(thrd_create(&t[i], c_main, (void *)(intptr_t)i), thrd_success);
	for (int i = 0; i < 8; i++) {
		int ret = -1;

		CHECK_EQ(thrd_join(t[i], &ret), thrd_success);
		CHECK_EQ(ret, i);
	}
	CHECK_EQ(c_once_n, 1);
	CHECK_EQ(atomic_load(&c_tss_n), 8);
	cnd_destroy(&c_cnd);
	mtx_destroy(&c_mtx);
}

static int c_timed_main(void *arg)
{
	struct timespec ts = after(CLOCK_REALTIME, 10 * MS);

	CHECK_EQ(mtx_trylock(arg), thrd_busy);
	CHECK_EQ(mtx_timedlock(arg, &ts), thrd_timedout);
	CHECK(now(CLOCK_REALTIME) >= ts.tv_sec * SEC + ts.tv_nsec);
	return 3;
}

CASE(c11_timed)
{
	struct timespec ts;
	mtx_t m;
	thrd_t t;
	int ret, r;

	CHECK_EQ(mtx_init(&m, mtx_timed | mtx_recursive), thrd_success);
	CHECK_EQ(mtx_lock(&m), thrd_success);
	CHECK_EQ(mtx_trylock(&m), thrd_success);
	CHECK_EQ(mtx_unlock(&m), thrd_success);
	CHECK_EQ(thrd_create(&t, c_timed_main, &m), thrd_success);
	CHECK_EQ(thrd_join(t, &ret), thrd_success);
	CHECK_EQ(ret, 3);
	CHECK_EQ(cnd_init(&c_cnd), thrd_success);
	ts = after(CLOCK_REALTIME, 10 * MS);
	do
		r = cnd_timedwait(&c_cnd, &m, &ts);
	while (r == thrd_success);
	CHECK_EQ(r, thrd_timedout);
	CHECK(now(CLOCK_REALTIME) >= ts.tv_sec * SEC + ts.tv_nsec);
	CHECK_EQ(mtx_unlock(&m), thrd_success);
}

/* Thread names with quotes, backslashes and control characters are names like any other. */
CASE(odd_name)
{
	pthread_t t[4];
	const char *names[] = {"a\"b\\c", "\001\n\t", "\377\376", "{\"}]"};
	char name[16];

	for (int i = 0; i < 4; i++) {
		t[i] = spawn(wait_go, NULL);
		CHECK_EQ(pthread_setname_np(t[i], names[i]), 0);
		CHECK_EQ(pthread_getname_np(t[i], name, sizeof(name)), 0);
		CHECK(!strcmp(name, names[i]));
	}
	atomic_store(&go, 1);
	for (int i = 0; i < 4; i++)
		join(t[i]);
}

/* A handler that ends its thread, found in cond_wait or sem_wait: the cleanup handlers run, the
 * condition, the mutex and the semaphore serve the others. */
static pthread_mutex_t end_lock = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
static pthread_cond_t end_cond;
static sem_t end_sem;
static int end_go;
static atomic_int end_in, end_cleaned;

static void end_handler(int sig)
{
	(void)sig;
	pthread_exit(&end_go);
}

static void end_unlock(void *arg)
{
	CHECK_EQ(pthread_mutex_unlock(arg), 0); /* it is ours, as in a cancelled wait */
	atomic_fetch_add(&end_cleaned, 1);
}

static void *end_in_cond(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(&end_lock), 0);
	pthread_cleanup_push(end_unlock, &end_lock);
	atomic_store((atomic_int *)arg, gettid());
	atomic_fetch_add(&end_in, 1);
	while (!end_go)
		CHECK_EQ(pthread_cond_wait(&end_cond, &end_lock), 0);
	pthread_cleanup_pop(1);
	return NULL;
}

static void *end_in_sem(void *arg)
{
	atomic_store((atomic_int *)arg, gettid());
	atomic_fetch_add(&end_in, 1);
	CHECK_EQ(sem_wait(&end_sem), 0);
	return NULL;
}

/* Until the kernel has it asleep. */
static void end_asleep(int tid)
{
	char path[64], line[512];

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	for (int same = 0; same < 3;) {
		FILE *f = fopen(path, "r");
		char *p;

		if (!f)
			skip("no /proc");
		CHECK(fgets(line, sizeof(line), f) != NULL);
		fclose(f);
		p = strrchr(line, ')');
		same = p && p[2] == 'S' ? same + 1 : 0;
		sleep_ns(200000);
	}
}

CASE_STRESS(exit_in_handler)
{
	struct sigaction sa = {.sa_handler = end_handler};
	pthread_t t[4];
	atomic_int tid[4];

	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	for (int k = 0; k < 50; k++) {
		CHECK_EQ(pthread_cond_init(&end_cond, NULL), 0);
		CHECK_EQ(sem_init(&end_sem, 0, 0), 0);
		end_go = 0;
		atomic_store(&end_in, 0);
		atomic_store(&end_cleaned, 0);
		for (int i = 0; i < 4; i++)
			t[i] = spawn(i < 2 ? end_in_cond : end_in_sem, &tid[i]);
		AWAIT(&end_in, 4);
		CHECK_EQ(pthread_mutex_lock(&end_lock), 0); /* so both have released it */
		CHECK_EQ(pthread_mutex_unlock(&end_lock), 0);
		for (int i = 0; i < 4; i += 2) {
			end_asleep(atomic_load(&tid[i]));
			CHECK_EQ(pthread_kill(t[i], SIGUSR1), 0);
			CHECK(join(t[i]) == &end_go);
		}
		CHECK_EQ(atomic_load(&end_cleaned), 1);
		CHECK_EQ(pthread_mutex_lock(&end_lock), 0);
		end_go = 1;
		CHECK_EQ(pthread_cond_broadcast(&end_cond), 0);
		CHECK_EQ(pthread_mutex_unlock(&end_lock), 0);
		CHECK_EQ(sem_post(&end_sem), 0);
		CHECK(join(t[1]) == NULL);
		CHECK(join(t[3]) == NULL);
		CHECK_EQ(atomic_load(&end_cleaned), 2);
		CHECK_EQ(pthread_cond_destroy(&end_cond), 0);
		CHECK_EQ(sem_destroy(&end_sem), 0);
	}
}
