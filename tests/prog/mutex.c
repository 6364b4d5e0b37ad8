/*
 * mutex.c - every kind of mutex, by its return values and by what it protects.
 */
#include "prog.h"

#include <sys/mman.h>
#include <sys/syscall.h>

struct mutex_ask {
	pthread_mutex_t *m;
	int (*fn)(pthread_mutex_t *m);
	int ret;
};

static void *ask_main(void *arg)
{
	struct mutex_ask *a = arg;

	a->ret = a->fn(a->m);
	return NULL;
}

/* What another thread gets from fn(m). */
static int other(int (*fn)(pthread_mutex_t *m), pthread_mutex_t *m)
{
	struct mutex_ask a = {m, fn, -1};

	join(spawn(ask_main, &a));
	return a.ret;
}

static int try_and_release(pthread_mutex_t *m)
{
	int r = pthread_mutex_trylock(m);

	if (!r)
		CHECK_EQ(pthread_mutex_unlock(m), 0);
	return r;
}

static void make(pthread_mutex_t *m, int type, int protocol, int pshared, int robust)
{
	pthread_mutexattr_t a;

	CHECK_EQ(pthread_mutexattr_init(&a), 0);
	CHECK_EQ(pthread_mutexattr_settype(&a, type), 0);
	CHECK_EQ(pthread_mutexattr_setprotocol(&a, protocol), 0);
	CHECK_EQ(pthread_mutexattr_setpshared(&a, pshared), 0);
	CHECK_EQ(pthread_mutexattr_setrobust(&a, robust), 0);
	CHECK_EQ(pthread_mutex_init(m, &a), 0);
	CHECK_EQ(pthread_mutexattr_destroy(&a), 0);
}

/* N threads add under the lock; a lock that lets two in loses counts. */
struct counter {
	pthread_mutex_t *m;
	long n, times;
};

static void *counter_main(void *arg)
{
	struct counter *c = arg;

	for (long i = 0; i < c->times; i++) {
		CHECK_EQ(pthread_mutex_lock(c->m), 0);
		long v = c->n;

		if (i % 64 == 0)
			spin(200);
		c->n = v + 1;
		CHECK_EQ(pthread_mutex_unlock(c->m), 0);
	}
	return NULL;
}

static void contend(pthread_mutex_t *m, int threads, long times)
{
	struct counter c = {m, 0, times};
	pthread_t t[64];

	for (int i = 0; i < threads; i++)
		t[i] = spawn(counter_main, &c);
	for (int i = 0; i < threads; i++)
		join(t[i]);
	CHECK_EQ(c.n, threads * times);
}

static void kind(int type, int protocol, int pshared, int robust)
{
	pthread_mutex_t m;

	make(&m, type, protocol, pshared, robust);
	CHECK_EQ(pthread_mutex_lock(&m), 0);
	CHECK_EQ(other(try_and_release, &m), EBUSY);
	switch (type) {
	case PTHREAD_MUTEX_RECURSIVE:
		CHECK_EQ(pthread_mutex_lock(&m), 0);
		CHECK_EQ(pthread_mutex_trylock(&m), 0);
		CHECK_EQ(pthread_mutex_unlock(&m), 0);
		CHECK_EQ(pthread_mutex_unlock(&m), 0);
		CHECK_EQ(other(try_and_release, &m), EBUSY);
		CHECK_EQ(other(pthread_mutex_unlock, &m), EPERM);
		break;
	case PTHREAD_MUTEX_ERRORCHECK:
		CHECK_EQ(pthread_mutex_lock(&m), EDEADLK);
		/* glibc says EDEADLK if it is a priority-inheritance one. */
		CHECK_EQ(pthread_mutex_trylock(&m),
			 protocol == PTHREAD_PRIO_INHERIT ? EDEADLK : EBUSY);
		CHECK_EQ(other(pthread_mutex_unlock, &m), EPERM);
		break;
	default:
		CHECK_EQ(pthread_mutex_trylock(&m), EBUSY);
	}
	CHECK_EQ(pthread_mutex_destroy(&m), EBUSY);
	CHECK_EQ(pthread_mutex_unlock(&m), 0);
	if (type == PTHREAD_MUTEX_RECURSIVE || type == PTHREAD_MUTEX_ERRORCHECK)
		CHECK_EQ(pthread_mutex_unlock(&m), EPERM);
	CHECK_EQ(other(try_and_release, &m), 0);
	contend(&m, 16, 200);
	CHECK_EQ(pthread_mutex_destroy(&m), 0);
}

/* Normal mutex: EBUSY for all while held, destroy refused, exclusion under contention. */
CASE(mutex_normal)
{
	kind(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, 0, 0);
}

/* Recursive mutex: counts, is free only after the last unlock, others get EPERM. */
CASE(mutex_recursive)
{
	kind(PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE, 0, 0);
}

/* Error-checking mutex: EDEADLK on relock, EPERM on unlock by a stranger or when free. */
CASE(mutex_errorcheck)
{
	kind(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE, 0, 0);
}

/* Adaptive mutex. */
CASE(mutex_adaptive)
{
	kind(PTHREAD_MUTEX_ADAPTIVE_NP, PTHREAD_PRIO_NONE, 0, 0);
}

/* Process-shared mutexes of all types, used inside one process. */
CASE(mutex_pshared)
{
	kind(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, 1, 0);
	kind(PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE, 1, 0);
	kind(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE, 1, 0);
}

/* Priority-inheritance mutexes of all types. */
CASE(mutex_pi)
{
	kind(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_INHERIT, 0, 0);
	kind(PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_INHERIT, 0, 0);
	kind(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_INHERIT, 0, 0);
}

static void *die_with_lock(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(arg), 0);
	return NULL;
}

static void robust(int type, int protocol)
{
	pthread_mutex_t m;

	/* The owner dies; the next one is told, repairs it, and all is well. */
	make(&m, type, protocol, 0, PTHREAD_MUTEX_ROBUST);
	join(spawn(die_with_lock, &m));
	CHECK_EQ(pthread_mutex_lock(&m), EOWNERDEAD);
	CHECK_EQ(pthread_mutex_consistent(&m), 0);
	CHECK_EQ(pthread_mutex_unlock(&m), 0);
	CHECK_EQ(other(try_and_release, &m), 0);
	contend(&m, 8, 100);
	/* Not repaired: unusable for ever. */
	join(spawn(die_with_lock, &m));
	CHECK_EQ(pthread_mutex_trylock(&m), EOWNERDEAD);
	CHECK_EQ(pthread_mutex_unlock(&m), 0);
	CHECK_EQ(pthread_mutex_lock(&m), ENOTRECOVERABLE);
	CHECK_EQ(other(try_and_release, &m), ENOTRECOVERABLE);
	CHECK_EQ(pthread_mutex_destroy(&m), 0);
}

/* Robust mutexes: EOWNERDEAD, consistent, ENOTRECOVERABLE. */
CASE(mutex_robust)
{
	robust(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE);
	robust(PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE);
	robust(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE);
	robust(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_INHERIT);
}

/* A waiter that is already parked when the owner of a robust mutex dies is told as well. */
static atomic_int robust_held;

static void *die_later(void *arg)
{
	CHECK_EQ(pthread_mutex_lock(arg), 0);
	atomic_store(&robust_held, 1);
	sleep_ns(20 * MS);
	return NULL;
}

static int lock_dead(pthread_mutex_t *m)
{
	int r = pthread_mutex_lock(m);

	if (r == EOWNERDEAD) {
		CHECK_EQ(pthread_mutex_consistent(m), 0);
		CHECK_EQ(pthread_mutex_unlock(m), 0);
	}
	return r;
}

CASE_STRESS(mutex_robust_waiter)
{
	pthread_mutex_t m;
	pthread_t t;

	make(&m, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, 0, PTHREAD_MUTEX_ROBUST);
	t = spawn(die_later, &m);
	AWAIT(&robust_held, 1);
	CHECK_EQ(other(lock_dead, &m), EOWNERDEAD);
	join(t);
}

/* A robust, process-shared mutex whose owner process dies. */
CASE(mutex_robust_process)
{
	pthread_mutex_t *m =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	CHECK(m != MAP_FAILED);
	make(m, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, 1, PTHREAD_MUTEX_ROBUST);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		CHECK_EQ(pthread_mutex_lock(m), 0);
		_exit(3);
	}
	CHECK_EQ(wait_child(pid), 3 << 8);
	CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
	CHECK_EQ(pthread_mutex_consistent(m), 0);
	CHECK_EQ(pthread_mutex_unlock(m), 0);
}

/* Two processes of four threads each count under one process-shared mutex. */
struct shared_counter {
	pthread_mutex_t m;
	long n;
};

static void *shared_count(void *arg)
{
	struct shared_counter *s = arg;

	for (int i = 0; i < 500; i++) {
		CHECK_EQ(pthread_mutex_lock(&s->m), 0);
		s->n++;
		CHECK_EQ(pthread_mutex_unlock(&s->m), 0);
	}
	return NULL;
}

CASE_STRESS(mutex_pshared_fork)
{
	struct shared_counter *s =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_t t[4];
	pid_t pid;

	CHECK(s != MAP_FAILED);
	make(&s->m, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, 1, 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		watchdog();
	for (int i = 0; i < 4; i++)
		t[i] = spawn(shared_count, s);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	if (pid == 0)
		_exit(0);
	CHECK_EQ(wait_child(pid), 0);
	CHECK_EQ(s->n, 4000);
}

/* Priority ceiling: the owner's ceiling is reported and locks work, where the system allows it. */
CASE(mutex_protect)
{
	pthread_mutexattr_t a;
	pthread_mutex_t m;
	struct sched_param fifo = {.sched_priority = 1};
	int ceiling;

	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &fifo))
		skip("no right to real-time priorities");
	CHECK_EQ(pthread_mutexattr_init(&a), 0);
	CHECK_EQ(pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_PROTECT), 0);
	CHECK_EQ(pthread_mutexattr_setprioceiling(&a, 5), 0);
	CHECK_EQ(pthread_mutex_init(&m, &a), 0);
	CHECK_EQ(pthread_mutex_getprioceiling(&m, &ceiling), 0);
	CHECK_EQ(ceiling, 5);
	CHECK_EQ(pthread_mutex_lock(&m), 0);
	CHECK_EQ(other(try_and_release, &m), EBUSY);
	CHECK_EQ(pthread_mutex_unlock(&m), 0);
	contend(&m, 4, 50);
	CHECK_EQ(pthread_mutex_destroy(&m), 0);
}

/* Timeouts are exact: never early, and within 50 ms when nobody else wants the CPU (the best of
 * ten counts, for the machine may have other work). */
struct timed {
	pthread_mutex_t *m;
	clockid_t clock;
	bool plain;
};

static int timed_lock(struct timed *td, const struct timespec *ts)
{
	return td->plain ? pthread_mutex_timedlock(td->m, ts)
			 : pthread_mutex_clocklock(td->m, td->clock, ts);
}

static void *timed_main(void *arg)
{
	struct timed *td = arg;
	struct timespec ts, bad = {.tv_sec = 1, .tv_nsec = 1000000000};
	long long late = LLONG_MAX;

	for (int i = 0; i < 10 && late >= 50 * MS; i++) {
		ts = after(td->clock, 10 * MS);
		CHECK_EQ(timed_lock(td, &ts), ETIMEDOUT);
		long long d = now(td->clock) - (ts.tv_sec * SEC + ts.tv_nsec);

		CHECK(d >= 0);
		late = d < late ? d : late;
	}
	CHECK(late < 50 * MS);
	ts = after(td->clock, -SEC);
	CHECK_EQ(timed_lock(td, &ts), ETIMEDOUT);
	ts = (struct timespec){0, 0};
	CHECK_EQ(timed_lock(td, &ts), ETIMEDOUT);
	CHECK_EQ(timed_lock(td, &bad), EINVAL);
	bad.tv_nsec = -1;
	CHECK_EQ(timed_lock(td, &bad), EINVAL);
	return NULL;
}

static void timed_variants(pthread_mutex_t *m)
{
	struct timed v[] = {
		{m, CLOCK_REALTIME, true},
		{m, CLOCK_REALTIME, false},
		{m, CLOCK_MONOTONIC, false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		struct timespec ts = after(v[i].clock, SEC);

		CHECK_EQ(timed_lock(&v[i], &ts), 0);
		join(spawn(timed_main, &v[i]));
		CHECK_EQ(pthread_mutex_unlock(m), 0);
		/* Free: taken even if the time is past. */
		ts = (struct timespec){0, 0};
		CHECK_EQ(timed_lock(&v[i], &ts), 0);
		CHECK_EQ(pthread_mutex_unlock(m), 0);
	}
}

/* timedlock and clocklock of normal and adaptive mutexes, on both clocks. */
CASE(mutex_timed)
{
	pthread_mutex_t m;
	struct timespec ts = after(CLOCK_MONOTONIC, SEC);

	make(&m, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, 0, 0);
	timed_variants(&m);
	CHECK_EQ(pthread_mutex_clocklock(&m, CLOCK_PROCESS_CPUTIME_ID, &ts), EINVAL);
	make(&m, PTHREAD_MUTEX_ADAPTIVE_NP, PTHREAD_PRIO_NONE, 0, 0);
	timed_variants(&m);
}

/* The same of recursive and error-checking ones, and the owner's own second call. */
CASE(mutex_timed_types)
{
	pthread_mutex_t m;
	struct timespec ts = after(CLOCK_REALTIME, SEC);

	make(&m, PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE, 0, 0);
	timed_variants(&m);
	CHECK_EQ(pthread_mutex_lock(&m), 0);
	CHECK_EQ(pthread_mutex_timedlock(&m, &ts), 0);
	CHECK_EQ(pthread_mutex_unlock(&m), 0);
	CHECK_EQ(pthread_mutex_unlock(&m), 0);
	CHECK_EQ(pthread_mutex_unlock(&m), EPERM);
	make(&m, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE, 0, 0);
	timed_variants(&m);
	CHECK_EQ(pthread_mutex_lock(&m), 0);
	CHECK_EQ(pthread_mutex_timedlock(&m, &ts), EDEADLK);
	CHECK_EQ(pthread_mutex_unlock(&m), 0);
}

/* The same of process-shared ones. */
CASE(mutex_timed_pshared)
{
	pthread_mutex_t m;

	make(&m, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, 1, 0);
	timed_variants(&m);
}

/* A normal mutex locked twice by its owner with a timeout: waits it out. */
CASE(mutex_timed_self)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	struct timespec ts = after(CLOCK_REALTIME, 20 * MS);

	CHECK_EQ(pthread_mutex_lock(&m), 0);
	CHECK_EQ(pthread_mutex_timedlock(&m, &ts), ETIMEDOUT);
	CHECK(now(CLOCK_REALTIME) >= ts.tv_sec * SEC + ts.tv_nsec);
	CHECK_EQ(pthread_mutex_unlock(&m), 0);
}

/* 64 threads add to one counter under one mutex. */
CASE_STRESS(mutex_contend_64)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;

	contend(&m, 64, 500);
}

/* The same with trylock loops. */
static long try_counter;

static void *try_main(void *arg)
{
	for (int i = 0; i < 100; i++) {
		while (pthread_mutex_trylock(arg) == EBUSY)
			;
		try_counter++;
		CHECK_EQ(pthread_mutex_unlock(arg), 0);
	}
	return NULL;
}

CASE_STRESS(mutex_trylock_loop)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_t t[16];

	for (int i = 0; i < 16; i++)
		t[i] = spawn(try_main, &m);
	for (int i = 0; i < 16; i++)
		join(t[i]);
	CHECK_EQ(try_counter, 1600);
}

/* Locks with short timeouts in contention: who got it holds it alone, who did not does not. */
static long timed_counter;

static void *timed_contend_main(void *arg)
{
	for (int i = 0; i < 200;) {
		struct timespec ts = after(CLOCK_REALTIME, 100000);
		int r = pthread_mutex_timedlock(arg, &ts);

		if (r == ETIMEDOUT)
			continue;
		CHECK_EQ(r, 0);
		long v = timed_counter;

		spin(500);
		timed_counter = v + 1;
		CHECK_EQ(pthread_mutex_unlock(arg), 0);
		i++;
	}
	return NULL;
}

CASE_STRESS(mutex_timed_contend)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_t t[16];

	for (int i = 0; i < 16; i++)
		t[i] = spawn(timed_contend_main, &m);
	for (int i = 0; i < 16; i++)
		join(t[i]);
	CHECK_EQ(timed_counter, 3200);
}

/* glibc lets another thread unlock a normal mutex; programs use that for hand-over. */
static void *unlock_main(void *arg)
{
	pthread_mutex_t *m = arg;

	for (int i = 0; i < 200; i++) {
		CHECK_EQ(pthread_mutex_lock(&m[0]), 0);
		CHECK_EQ(pthread_mutex_unlock(&m[1]), 0);
	}
	return NULL;
}

CASE_STRESS(mutex_unlock_other)
{
	pthread_mutex_t m[2] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
	pthread_t t;

	CHECK_EQ(pthread_mutex_lock(&m[0]), 0);
	CHECK_EQ(pthread_mutex_lock(&m[1]), 0);
	t = spawn(unlock_main, m);
	for (int i = 0; i < 200; i++) {
		CHECK_EQ(pthread_mutex_unlock(&m[0]), 0);
		CHECK_EQ(pthread_mutex_lock(&m[1]), 0);
	}
	join(t);
}

/* The last user destroys and unmaps the object right after its unlock, while the one before it
 * may still be on its way out of unlock: POSIX's reference count pattern. */
struct mapped {
	pthread_mutex_t m;
	int refs;
};

static void *drop_ref(void *arg)
{
	struct mapped *o = arg;
	int left;

	CHECK_EQ(pthread_mutex_lock(&o->m), 0);
	left = --o->refs;
	CHECK_EQ(pthread_mutex_unlock(&o->m), 0);
	if (left == 0) {
		CHECK_EQ(pthread_mutex_destroy(&o->m), 0);
		CHECK_EQ(munmap(o, 4096), 0);
	}
	return NULL;
}

CASE_STRESS(mutex_destroy_after_use)
{
	for (int k = 0; k < 200; k++) {
		struct mapped *o = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pthread_t t[4];

		CHECK(o != MAP_FAILED);
		CHECK_EQ(pthread_mutex_init(&o->m, NULL), 0);
		o->refs = 4;
		for (int i = 0; i < 4; i++)
			t[i] = spawn(drop_ref, o);
		for (int i = 0; i < 4; i++)
			join(t[i]);
	}
}

/* Many locks at once, always in order, of 16 threads: no deadlock of the shim's own making. */
static pthread_mutex_t table[8];
static long table_n[8];

static void *table_main(void *arg)
{
	unsigned seed = (unsigned)(intptr_t)arg + 1;

	for (int k = 0; k < 300; k++) {
		int from = rand_r(&seed) & 7, to = rand_r(&seed) & 7;

		for (int i = from; i <= to; i++)
			CHECK_EQ(pthread_mutex_lock(&table[i]), 0);
		for (int i = from; i <= to; i++)
			table_n[i]++;
		if (k % 8 == 0)
			sched_yield();
		for (int i = from; i <= to; i++) {
			table_n[i]--;
			CHECK_EQ(pthread_mutex_unlock(&table[i]), 0);
		}
	}
	return NULL;
}

CASE_STRESS(mutex_nested)
{
	pthread_t t[16];

	for (int i = 0; i < 8; i++)
		make(&table[i], i & 1 ? PTHREAD_MUTEX_ERRORCHECK : PTHREAD_MUTEX_NORMAL,
		     PTHREAD_PRIO_NONE, 0, 0);
	for (int i = 0; i < 16; i++)
		t[i] = spawn(table_main, (void *)(intptr_t)i);
	for (int i = 0; i < 16; i++)
		join(t[i]);
	for (int i = 0; i < 8; i++)
		CHECK_EQ(table_n[i], 0);
}

/* Threads that are with the scheduler and threads that are not (of the asynchronous cancel type) have one mutex in turn: who waits in libc
 * is woken by who does not, and the other way round, and libc finds its fields as it leaves them. */
static void *libcs_main(void *arg)
{
	CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL), 0);
	counter_main(arg);
	CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, NULL), 0);
	return NULL;
}

static void check_fields(pthread_mutex_t *m)
{
	pthread_mutex_t was = *m;
	pid_t self = gettid();

	for (int i = 0; i < 2; i++) {
		CHECK_EQ(i ? pthread_mutex_trylock(m) : pthread_mutex_lock(m), 0);
		CHECK_EQ(m->__data.__lock, 1);
		CHECK_EQ(m->__data.__owner, self);
		CHECK_EQ(m->__data.__nusers, 1);
		CHECK_EQ(m->__data.__kind, was.__data.__kind);
		CHECK_EQ(pthread_mutex_trylock(m), EBUSY);
		CHECK_EQ(pthread_mutex_unlock(m), 0);
		CHECK_EQ(memcmp(m, &was, sizeof was), 0);
	}
}

CASE_STRESS(mutex_beside_libc)
{
	static const int types[] = {-1, PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ADAPTIVE_NP};

	for (int k = 0; k < 3; k++) {
		pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
		struct counter c = {&m, 0, 300};
		pthread_t t[8];

		if (types[k] >= 0)
			make(&m, types[k], PTHREAD_PRIO_NONE, 0, 0);
		CHECK_EQ(pthread_mutex_lock(&m), 0); /* so they all wait at first */
		for (int i = 0; i < 8; i++)
			t[i] = spawn(i & 1 ? libcs_main : counter_main, &c);
		while (__atomic_load_n(&m.__data.__lock, __ATOMIC_RELAXED) != 2)
			sleep_ns(MS); /* until one waits in libc */
		CHECK_EQ(pthread_mutex_unlock(&m), 0);
		for (int i = 0; i < 8; i++)
			join(t[i]);
		CHECK_EQ(c.n, 8 * 300);
		check_fields(&m);
	}
}

/* A kind of wait that no interposer sees: the word is released behind the shim's back. */
CASE_STRESS(mutex_foreign_unlock)
{
	static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	struct counter c = {&m, 0, 1};
	pthread_t t[4];

	CHECK_EQ(pthread_mutex_lock(&m), 0);
	for (int i = 0; i < 4; i++)
		t[i] = spawn(counter_main, &c);
	sleep_ns(20 * MS);
	/* As unlock inside libc does it: owner and user count, then the word and a wake. */
	m.__data.__owner = 0;
	m.__data.__nusers--;
	if (__atomic_exchange_n(&m.__data.__lock, 0, __ATOMIC_SEQ_CST) > 1)
		__asm__ volatile("syscall"
				 :
				 : "a"(202L), "D"(&m.__data.__lock), "S"(129L), "d"(1L)
				 : "rcx", "r11", "memory");
	for (int i = 0; i < 4; i++)
		join(t[i]);
	CHECK_EQ(c.n, 4);
}
