// go_user.c: threads of a C program that call a Go library (argv[1]), and compute beside it.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static long (*work)(long);

static void *thread(void *arg)
{
	for (long i = 0; i < 10; i++) {
		long n = 1000 + i;

		if (work(n) != 28 * (n * (n - 1) / 2) + 8 * n)
			abort();
		for (volatile int k = 0; k < 100000; k++)
			;
	}
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t t[4];
	void *go = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;

	if (!go)
		return 2;
	*(void **)&work = dlsym(go, "Work");
	for (int i = 0; i < 4; i++)
		if (pthread_create(&t[i], NULL, thread, NULL))
			return 1;
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	puts("OK");
	return 0;
}
