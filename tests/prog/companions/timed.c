// timed.c: timed waits take as long as they should by the kernel's clock, whatever time a library shows to the program.
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t sem;

static double kernel_time(void)
{
	struct timespec t;

	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void took(const char *what, double begin, int result)
{
	double time = kernel_time() - begin;

	if (result == ETIMEDOUT && time > 0.099 && time < 20)
		return;
	printf("%s: result %d after %.3f s\n", what, result, time);
	exit(1);
}

static void *thread(void *arg)
{
	struct timespec t;
	double begin;

	for (int i = 0; i < 2; i++) {
		begin = kernel_time();
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 100000000;
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		if (i == 0) {
			pthread_mutex_lock(&mutex);
			took("cond", begin, pthread_cond_timedwait(&cond, &mutex, &t));
			pthread_mutex_unlock(&mutex);
		} else {
			took("sem", begin, sem_timedwait(&sem, &t) ? errno : 0);
		}
	}
	return arg;
}

int main(void)
{
	pthread_t t[2];

	sem_init(&sem, 0, 0);
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, thread, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	puts("OK");
	return 0;
}
