// busy.c: threads that compute, lock and sleep until a SIGTERM; then OK and status 7.
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static atomic_int end;
static long count;

static void *thread(void *arg)
{
	for (long n = 0; !end; n++) {
		pthread_mutex_lock(&mutex);
		count++;
		pthread_mutex_unlock(&mutex);
		for (volatile int i = 0; i < 10000; i++)
			;
		if (n % 64 == 0)
			usleep(100);
	}
	return arg;
}

int main(void)
{
	pthread_t t[6];
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < 6; i++)
		if (pthread_create(&t[i], NULL, thread, NULL))
			return 1;
	alarm(100);
	while (sigwait(&set, &sig))
		;
	end = 1;
	for (int i = 0; i < 6; i++)
		pthread_join(t[i], NULL);
	puts("OK");
	return 7;
}
