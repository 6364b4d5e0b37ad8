/* victim_module.c - what victim.c opens and closes. */
long victim_module(long n);

long victim_module(long n)
{
	long sum = 0;

	for (volatile long i = 0; i < n; i++)
		sum += i;
	return sum;
}
