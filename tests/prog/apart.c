/*
 * apart.c - barriers at which threads meet that the scheduler does not know as such: in a handler on top of a call that
 * blocks, and in the last round of destructors. Both run without a place in the scheduler, and still count.
 */
#include "prog.h"

#include <setjmp.h>

static pthread_barrier_t bar;
static int ends[2]; /* a pipe that has nothing */
static atomic_int begun, came, count;
static sigjmp_buf out;

static void meet(void)
{
	int r = pthread_barrier_wait(&bar);

	CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
}

static void handle(int sig, void (*fn)(int))
{
	struct sigaction sa = {.sa_handler = fn, .sa_flags = SA_RESTART};

	CHECK_EQ(sigaction(sig, &sa, NULL), 0);
}

/* SIGUSR1: waits there, on top of a read. */
static void meets(int sig)
{
	(void)sig;
	atomic_fetch_add(&came, 1);
	meet();
	atomic_fetch_add(&count, 1);
}

static void *reads(void *arg)
{
	char c;

	atomic_fetch_add(&begun, 1);
	CHECK_EQ(read(ends[0], &c, 1), 1);
	return arg;
}

/* The thread is in its handler, and almost certainly at the barrier, on top of its read. */
static pthread_t in_handler(void *(*fn)(void *))
{
	pthread_t t;

	atomic_store(&begun, 0);
	atomic_store(&came, 0);
	t = spawn(fn, NULL);
	AWAIT(&begun, 1); /* where it can jump to is known */
	sleep_ns(2 * MS);
	CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
	AWAIT(&came, 1);
	sleep_ns(2 * MS);
	return t;
}

static void begin(void)
{
	CHECK_EQ(pipe(ends), 0);
	CHECK_EQ(pthread_barrier_init(&bar, NULL, 2), 0);
	handle(SIGUSR1, meets);
}

static void read_ends(pthread_t t)
{
	CHECK_EQ(write(ends[1], "x", 1), 1);
	join(t);
}

/* Whoever comes first, of a thread in a handler and one that is scheduled. */
static void *meets_often(void *arg)
{
	for (int i = 0; i < 20; i++) {
		if (arg)
			sleep_ns(MS / 2);
		meet();
	}
	return arg;
}

static void meets_often_in_handler(int sig)
{
	(void)sig;
	for (int i = 0; i < 20; i++) {
		if (i & 1)
			sleep_ns(MS / 2);
		meet();
	}
}

CASE_STRESS(barrier_in_handler)
{
	begin();
	handle(SIGUSR1, meets_often_in_handler);
	for (intptr_t i = 0; i < 2; i++) {
		pthread_t r = spawn(reads, NULL), t = spawn(meets_often, (void *)i);

		sleep_ns(2 * MS);
		CHECK_EQ(pthread_kill(r, SIGUSR1), 0);
		join(t);
		read_ends(r);
	}
}

/* A jump from place to place in a handler on top of that wait: the barrier opens when the other one comes, not before. */
static void jumps_inside(int sig)
{
	sigjmp_buf env;

	(void)sig;
	if (sigsetjmp(env, 1) == 0)
		siglongjmp(env, 1);
	atomic_fetch_add(&came, 1);
}

CASE_STRESS(barrier_in_handler_jump_inside)
{
	begin();
	handle(SIGUSR2, jumps_inside);
	for (int i = 0; i < 5; i++) {
		pthread_t t = in_handler(reads);

		for (int k = 2; k <= 4; k++) {
			CHECK_EQ(pthread_kill(t, SIGUSR2), 0);
			AWAIT(&came, k);
		}
		sleep_ns(MS);
		CHECK_EQ(atomic_load(&count), i);
		meet();
		AWAIT(&count, i + 1);
		read_ends(t);
	}
}

/* Ways out of it. What was its stack is written over, and the barrier, made anew, counts only who is there. */
__attribute__((noinline)) static void write_over(void)
{
	volatile char over[32768];

	for (size_t i = 0; i < sizeof over; i++)
		over[i] = (char)i;
}

static void *jumps_out(void *arg)
{
	if (sigsetjmp(out, 1) == 0)
		reads(arg);
	write_over();
	return arg;
}

static void jump(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

static void leave(int sig)
{
	(void)sig;
	pthread_exit(NULL);
}

static void *can_be_cancelled(void *arg)
{
	CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL), 0);
	return reads(arg);
}

static void *meets_once(void *arg)
{
	meet();
	return arg;
}

CASE_STRESS(barrier_in_handler_left)
{
	begin();
	for (int i = 0; i < 12; i++) {
		pthread_t t = in_handler(i % 3 == 0   ? jumps_out
					 : i % 3 == 1 ? reads
						      : can_be_cancelled);

		if (i % 3 == 2) {
			CHECK_EQ(pthread_cancel(t), 0);
		} else {
			handle(SIGUSR2, i % 3 == 0 ? jump : leave);
			CHECK_EQ(pthread_kill(t, SIGUSR2), 0);
		}
		CHECK_EQ(pthread_join(t, NULL), 0);
		CHECK_EQ(atomic_load(&count), 0);
		CHECK_EQ(pthread_barrier_init(&bar, NULL, 2), 0);
		t = spawn(meets_once, NULL);
		meet();
		join(t);
	}
}

/* The last destructor that a thread runs meets one that is scheduled. */
static pthread_key_t key;

static void last_of_all(void *round)
{
	uintptr_t n = (uintptr_t)round;

	if (n < PTHREAD_DESTRUCTOR_ITERATIONS)
		CHECK_EQ(pthread_setspecific(key, (void *)(n + 1)), 0);
	else
		meet();
}

static void *has_destructor(void *arg)
{
	CHECK_EQ(pthread_setspecific(key, (void *)1), 0);
	return arg;
}

CASE_STRESS(barrier_in_destructor)
{
	begin();
	CHECK_EQ(pthread_key_create(&key, last_of_all), 0);
	for (int i = 0; i < 40; i++) {
		pthread_t t = spawn(has_destructor, NULL);

		if (i & 1)
			sleep_ns(MS / 2);
		meet();
		join(t);
	}
}
