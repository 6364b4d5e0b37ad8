/*
 * module.c - a library that leave.c opens and closes while threads run its code.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

extern int __cxa_thread_atexit_impl(void (*fn)(void *), void *obj, void *dso);
extern void *__dso_handle;

void module_start(atomic_long *count);
void module_hold(atomic_long *count);
long module_busy(long n);

enum { THREADS = 4 };
static pthread_t threads[THREADS];
static atomic_int started, stop;

long module_busy(long n)
{
	for (volatile long i = 0; i < n; i++)
		;
	return n;
}

static void *module_main(void *arg)
{
	atomic_long *count = arg;

	while (!stop)
		atomic_fetch_add(count, module_busy(100) > 0);
	return arg;
}

/* Threads that run until the library is closed. */
void module_start(atomic_long *count)
{
	for (int i = 0; i < THREADS; i++)
		started += pthread_create(&threads[i], NULL, module_main, count) == 0;
}

__attribute__((destructor)) static void module_end(void)
{
	stop = 1;
	for (int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

static void held_ends(void *arg)
{
	module_busy(100000);
	atomic_fetch_add((atomic_long *)arg, 1);
}

/* A destructor, as a thread_local object of C++ has it, keeps the library until the calling thread has ended. */
void module_hold(atomic_long *count)
{
	__cxa_thread_atexit_impl(held_ends, count, &__dso_handle);
}
