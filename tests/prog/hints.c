/*
 * hints.c - preempt.h as a program uses it that is built without the library and runs with or without it.
 *
 * hints N: N is how many of the functions must be there. tests/prog/meson.build runs it both ways, linked as PIE and not.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <preempt.h>

static atomic_int lock;
static long counter;

/* A home-made lock, with hints where they can be given. */
static void lock_acquire(void)
{
	int zero = 0;

	if (preempt_lock_begin)
		preempt_lock_begin(&lock);
	while (!atomic_compare_exchange_weak(&lock, &zero, 1)) {
		zero = 0;
		if (preempt_lock_wait)
			preempt_lock_wait(&lock);
	}
}

static void lock_release(void)
{
	atomic_store(&lock, 0);
	if (preempt_lock_end)
		preempt_lock_end(&lock);
}

static void *count(void *arg)
{
	if (preempt_set_weight && preempt_set_weight(200) != 0)
		return NULL;
	for (int i = 0; i < 20000; i++) {
		lock_acquire();
		counter++;
		lock_release();
		if (i % 1000 == 0 && preempt_yield)
			preempt_yield();
	}
	return arg;
}

/* A snapshot while nobody moves. */
static long snapshot(void)
{
	struct preempt_stopped stopped;
	long seen;

	if (!preempt_stop_the_world)
		return counter;
	if (preempt_stop_the_world(10000000000LL, &stopped) != 0)
		return -1;
	seen = counter;
	if (seen != *(volatile long *)&counter || preempt_start_the_world() != 0)
		return -1;
	return seen;
}

int main(int argc, char **argv)
{
	pthread_t t[4];
	int functions = !!preempt_version + !!preempt_yield + !!preempt_disable + !!preempt_enable +
			!!preempt_lock_begin + !!preempt_lock_wait + !!preempt_lock_end +
			!!preempt_set_weight + !!preempt_stop_the_world +
			!!preempt_start_the_world + !!preempt_dump;

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, count, &lock);
	if (snapshot() < 0)
		return 1;
	for (int i = 0; i < 4; i++) {
		void *ok;

		pthread_join(t[i], &ok);
		if (!ok)
			return 1;
	}
	if (counter != 4 * 20000 || snapshot() != counter)
		return 1;
	printf("%d functions\n", functions);
	return argc < 2 || functions != atoi(argv[1]);
}
