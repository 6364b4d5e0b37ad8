// objects.c: four threads use all kinds of pthread objects; unprotected data is published through each of them. Also built
// with sanitizers, which must find nothing.
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_barrier_t barrier;
static pthread_spinlock_t spin;
static sem_t sem;
static long by_mutex, by_rwlock, by_spin, by_sem, by_once, turn, slot[THREADS];

static void init(void)
{
	by_once = 5;
}

static void expect(int good)
{
	if (!good)
		abort();
}

static void *thread(void *arg)
{
	long me = (long)arg;

	pthread_once(&once, init);
	expect(by_once == 5);
	for (int i = 0; i < 200; i++) {
		char *p = malloc(100);

		pthread_mutex_lock(&mutex);
		by_mutex++;
		pthread_mutex_unlock(&mutex);
		pthread_rwlock_wrlock(&rwlock);
		by_rwlock++;
		pthread_rwlock_unlock(&rwlock);
		pthread_rwlock_rdlock(&rwlock);
		expect(by_rwlock > 0);
		pthread_rwlock_unlock(&rwlock);
		pthread_spin_lock(&spin);
		by_spin++;
		pthread_spin_unlock(&spin);
		sem_wait(&sem);
		by_sem++;
		sem_post(&sem);
		free(p);
	}
	for (int i = 0; i < 50; i++) {
		slot[me] = i;
		pthread_barrier_wait(&barrier);
		for (int k = 0; k < THREADS; k++)
			expect(slot[k] == i);
		pthread_barrier_wait(&barrier);
	}
	for (int i = 0; i < 20; i++) {
		pthread_mutex_lock(&mutex);
		while (turn % THREADS != me)
			pthread_cond_wait(&cond, &mutex);
		turn++;
		pthread_cond_broadcast(&cond);
		pthread_mutex_unlock(&mutex);
	}
	for (volatile long i = 0; i < 1000000; i++)
		;
	return NULL;
}

int main(void)
{
	pthread_t t[THREADS];

	pthread_barrier_init(&barrier, NULL, THREADS);
	pthread_spin_init(&spin, 0);
	sem_init(&sem, 0, 1);
	for (long i = 0; i < THREADS; i++)
		expect(pthread_create(&t[i], NULL, thread, (void *)i) == 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	expect(by_mutex == 800 && by_rwlock == 800 && by_spin == 800 && by_sem == 800 &&
	       turn == 80);
	puts("OK");
	return 0;
}
