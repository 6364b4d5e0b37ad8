// wrapper.c: a preloaded library that interposes pthread functions as well, as lock profilers do. At the end it says
// on stderr whether each lock was let go of.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define NEXT(name)                                                                                 \
	static __typeof__(name) *next;                                                             \
	if (!next)                                                                                 \
	*(void **)&next = dlsym(RTLD_NEXT, #name)

static atomic_long held, locks, waits;

int pthread_mutex_lock(pthread_mutex_t *m)
{
	NEXT(pthread_mutex_lock);
	int r = next(m);
	held += r == 0;
	locks++;
	return r;
}

int pthread_mutex_trylock(pthread_mutex_t *m)
{
	NEXT(pthread_mutex_trylock);
	int r = next(m);
	held += r == 0;
	locks++;
	return r;
}

int pthread_mutex_unlock(pthread_mutex_t *m)
{
	NEXT(pthread_mutex_unlock);
	int r = next(m);
	held -= r == 0;
	return r;
}

int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
	NEXT(pthread_cond_wait);
	waits++;
	return next(c, m);
}

__attribute__((destructor)) static void report(void)
{
	const char *text = held == 0 && locks >= 880 ? "balanced\n" : "not balanced\n";

	if (write(2, text, held == 0 && locks >= 880 ? 9 : 13) < 0)
		_exit(3);
}
