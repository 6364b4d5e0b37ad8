/*
 * spinning.c - threads that wait by spinning, in ways of their own and by calls that are repeated; locks whose holders have
 * no CPU. tables.py looks at what the library did.
 */
#include "prog.h"

#include <sys/mman.h>

enum { TEAM = 6, ROUNDS = 300 };

/* --- a lock of the program, in functions that are named as such -------------------------------------- */

static atomic_uint next_ticket, now_serving;
static long plain_count; /* protected by the lock at hand */

static inline void my_ticket_lock(void)
{
	unsigned mine = atomic_fetch_add(&next_ticket, 1);

	while (atomic_load_explicit(&now_serving, memory_order_acquire) != mine)
		__asm__ volatile("pause" ::: "memory");
}

static inline void my_ticket_unlock(void)
{
	atomic_fetch_add_explicit(&now_serving, 1, memory_order_release);
}

static long long lasting(void)
{
	const char *s = getenv("PROGS_SITES");

	return (s ? atoi(s) : 60) * MS;
}

static void *takes_tickets(void *arg)
{
	long long end = now(CLOCK_MONOTONIC) + lasting();

	do {
		my_ticket_lock();
		if (++plain_count % 64 == 0)
			sched_yield(); /* in the section: others do wait for it, whoever is preempted where */
		my_ticket_unlock();
		atomic_fetch_add((atomic_long *)arg, 1);
		spin(200);
	} while (now(CLOCK_MONOTONIC) < end);
	return NULL;
}

/* Proves: waiting in a function that takes locks is waiting; the lock excludes. */
CASE_STRESS(spin_named_lock)
{
	atomic_long all = 0;
	pthread_t t[TEAM];

	for (int i = 0; i < TEAM; i++)
		t[i] = spawn(takes_tickets, &all);
	for (int i = 0; i < TEAM; i++)
		join(t[i]);
	CHECK_EQ(plain_count, atomic_load(&all));
}

/* --- a lock in whose line each waits at a word of its own (MCS) ----------------------------------------- */

struct place {
	_Alignas(64) _Atomic(struct place *) next;
	atomic_bool waits;
};
static _Atomic(struct place *) line_end;

static void get_in_line(struct place *p)
{
	struct place *before;

	atomic_store_explicit(&p->next, NULL, memory_order_relaxed);
	atomic_store_explicit(&p->waits, true, memory_order_relaxed);
	before = atomic_exchange(&line_end, p);
	if (!before)
		return;
	atomic_store_explicit(&before->next, p, memory_order_release);
	while (atomic_load_explicit(&p->waits, memory_order_acquire))
		__asm__ volatile("pause" ::: "memory");
}

static void leave_line(struct place *p)
{
	struct place *next = atomic_load_explicit(&p->next, memory_order_acquire), *me = p;

	if (!next) {
		if (atomic_compare_exchange_strong(&line_end, &me, NULL))
			return;
		while (!(next = atomic_load_explicit(&p->next, memory_order_acquire)))
			__asm__ volatile("pause" ::: "memory");
	}
	atomic_store_explicit(&next->waits, false, memory_order_release);
}

static void *stands_in_line(void *arg)
{
	long long end = now(CLOCK_MONOTONIC) + lasting();
	struct place p;

	do {
		for (int i = 0; i < 10; i++) {
			get_in_line(&p);
			plain_count++;
			leave_line(&p);
			atomic_fetch_add((atomic_long *)arg, 1);
			spin(200);
		}
	} while (now(CLOCK_MONOTONIC) < end);
	return NULL;
}

/* For tables.py: how many sections there were. */
static void tell_sections(long n)
{
	const char *path = getenv("PROGS_SECTIONS");
	FILE *f = path ? fopen(path, "w") : NULL;

	if (f) {
		fprintf(f, "%ld\n", n);
		CHECK_EQ(fclose(f), 0);
	}
}

/* Proves: a lock whose line the library looks after excludes, and nobody is forgotten outside. */
CASE_STRESS(spin_in_line)
{
	enum { LONG_LINE = 16 };
	atomic_long all = 0;
	pthread_t t[LONG_LINE];

	for (int i = 0; i < LONG_LINE; i++)
		t[i] = spawn(stands_in_line, &all);
	for (int i = 0; i < LONG_LINE; i++)
		join(t[i]);
	CHECK_EQ(plain_count, atomic_load(&all));
	tell_sections(plain_count);
}

/* --- mutexes ------------------------------------------------------------------------------------------ */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long count;

static void *lends_its_cpu(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		CHECK_EQ(pthread_mutex_lock(&mutex), 0);
		count++;
		sched_yield();
		CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
		sched_yield();
	}
	return arg;
}

/* Proves: who waits for a mutex whose holder wants a CPU may give it its own, and nobody is lost by that. */
CASE_STRESS(spin_owner_waits)
{
	pthread_t t[TEAM];

	for (int i = 0; i < TEAM; i++)
		t[i] = spawn(lends_its_cpu, NULL);
	for (int i = 0; i < TEAM; i++)
		join(t[i]);
	CHECK_EQ(count, TEAM * ROUNDS);
}

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;

static void *reads_and_writes(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		CHECK_EQ(i % 4 ? pthread_rwlock_rdlock(&rwlock) : pthread_rwlock_wrlock(&rwlock),
			 0);
		if (i % 4 == 0)
			count++;
		sched_yield();
		CHECK_EQ(pthread_rwlock_unlock(&rwlock), 0);
	}
	return arg;
}

/* The same of locks for reading and writing. */
CASE_STRESS(spin_writer_waits)
{
	pthread_t t[TEAM];

	for (int i = 0; i < TEAM; i++)
		t[i] = spawn(reads_and_writes, NULL);
	for (int i = 0; i < TEAM; i++)
		join(t[i]);
	CHECK_EQ(count, TEAM * ROUNDS / 4);
}

static void *tries(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		while (pthread_mutex_trylock(&mutex) != 0)
			;
		count++;
		spin(2000);
		CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
	}
	return arg;
}

static void *locks(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		CHECK_EQ(pthread_mutex_lock(&mutex), 0);
		count++;
		spin(2000);
		CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
	}
	return arg;
}

/* Proves: a mutex can be waited for by trying it again and again. */
CASE_STRESS(spin_tries)
{
	pthread_t t[TEAM];

	for (int i = 0; i < TEAM; i++)
		t[i] = spawn(tries, NULL);
	for (int i = 0; i < TEAM; i++)
		join(t[i]);
	CHECK_EQ(count, TEAM * ROUNDS);
}

static atomic_bool stop_trying;

/* A number of tries in a loop; whether they succeed or not, it then stays away for a while. */
static void *gives_up(void *arg)
{
	while (!atomic_load(&stop_trying)) {
		for (int i = 0; i < 200; i++) {
			int r = pthread_mutex_trylock(&mutex);

			CHECK(r == 0 || r == EBUSY);
			if (r == 0)
				CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
		}
		sleep_ns(MS / 2);
	}
	return arg;
}

/* Proves: those who try, and those who try and then go away, take no wake-up from those who are in pthread_mutex_lock. */
CASE_STRESS(spin_tries_and_locks)
{
	pthread_t t[TEAM], away[2];

	for (int i = 0; i < 2; i++)
		away[i] = spawn(gives_up, NULL);
	for (int i = 0; i < TEAM; i++)
		t[i] = spawn(i % 2 ? tries : locks, NULL);
	for (int i = 0; i < TEAM; i++)
		join(t[i]);
	CHECK_EQ(count, TEAM * ROUNDS);
	atomic_store(&stop_trying, true);
	for (int i = 0; i < 2; i++)
		join(away[i]);
}

/* A try never blocks: with the mutex held by a thread that sleeps, thousands of tries end in time, and all fail. */
CASE(spin_tries_fail)
{
	pthread_t t[2];

	CHECK_EQ(pthread_mutex_lock(&mutex), 0);
	for (int i = 0; i < 2; i++)
		t[i] = spawn(gives_up, NULL);
	sleep_ns(100 * MS);
	atomic_store(&stop_trying, true);
	for (int i = 0; i < 2; i++)
		join(t[i]);
	CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
}

/* --- code that was made at run time -------------------------------------------------------------------- */

static atomic_int made_turn;

static void *waits_in_made_code(void *arg)
{
	/* 1: pause; cmp %esi,(%rdi); jne 1b; ret */
	static const unsigned char code[] = {0xf3, 0x90, 0x39, 0x37, 0x75, 0xfa, 0xc3};
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int me = (int)(intptr_t)arg;

	CHECK(page != MAP_FAILED);
	memcpy(page, code, sizeof(code));
	CHECK_EQ(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
	for (int i = 0; i < 30; i++) {
		((void (*)(atomic_int *, int))page)(&made_turn, me);
		atomic_store(&made_turn, (me + 1) % 4);
	}
	CHECK_EQ(munmap(page, 4096), 0);
	return NULL;
}

/* Proves: threads that spin in code of which there is no table all get on. */
CASE_STRESS(spin_made_code)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		t[i] = spawn(waits_in_made_code, (void *)(intptr_t)i);
	for (int i = 0; i < 4; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&made_turn), 0);
}

/* --- sched_yield -------------------------------------------------------------------------------------- */

static atomic_int turn;

static void *yields(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		while (atomic_load(&turn) != me)
			sched_yield();
		spin(1000);
		atomic_store(&turn, (me + 1) % TEAM);
	}
	return NULL;
}

/* Proves: threads that wait for their turn by sched_yield all get it. */
CASE_STRESS(spin_yields)
{
	pthread_t t[TEAM];

	for (int i = 0; i < TEAM; i++)
		t[i] = spawn(yields, (void *)(intptr_t)i);
	for (int i = 0; i < TEAM; i++)
		join(t[i]);
	CHECK_EQ(atomic_load(&turn), 0);
}

static pthread_spinlock_t spinlock;

static void *tries_spinlock(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		while (pthread_spin_trylock(&spinlock) != 0)
			;
		count++;
		sched_yield(); /* with the lock held */
		CHECK_EQ(pthread_spin_unlock(&spinlock), 0);
		CHECK_EQ(pthread_spin_lock(&spinlock), 0);
		count++;
		sched_yield();
		CHECK_EQ(pthread_spin_unlock(&spinlock), 0);
	}
	return arg;
}

/* Proves: a spin lock whose holder has no CPU is had by all in the end. */
CASE_STRESS(spin_holder_waits)
{
	pthread_t t[TEAM];

	CHECK_EQ(pthread_spin_init(&spinlock, PTHREAD_PROCESS_PRIVATE), 0);
	for (int i = 0; i < TEAM; i++)
		t[i] = spawn(tries_spinlock, NULL);
	for (int i = 0; i < TEAM; i++)
		join(t[i]);
	CHECK_EQ(count, 2 * TEAM * ROUNDS);
}
