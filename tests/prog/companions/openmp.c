// openmp.c: parallel regions, barriers, tasks and locks; built for libgomp and for libomp.
#include <omp.h>
#include <stdio.h>

static long fib(int n)
{
	long a, b;

	if (n < 2)
		return n;
#pragma omp task shared(a) if (n > 8)
	a = fib(n - 1);
	b = fib(n - 2);
#pragma omp taskwait
	return a + b;
}

int main(void)
{
	long sum = 0, locked = 0, f = 0;
	omp_lock_t lock;

	omp_init_lock(&lock);
	for (int round = 0; round < 20; round++) {
#pragma omp parallel num_threads(8) reduction(+ : sum)
		{
			for (int i = 0; i < 10; i++) {
				sum++;
#pragma omp barrier
			}
			omp_set_lock(&lock);
			locked++;
			omp_unset_lock(&lock);
		}
	}
#pragma omp parallel num_threads(8)
#pragma omp single
	f = fib(16);
	if (sum != 20 * 80 || locked != 20 * 8 || f != 987)
		return 1;
	puts("OK");
	return 0;
}
