/*
 * storm_module.c - what storm.c opens and closes: code that is preempted often, and then is gone.
 */
#include <stdint.h>

uint64_t storm_sum(uint64_t n);

uint64_t storm_sum(uint64_t n)
{
	volatile uint64_t sum = 0;

	for (uint64_t i = 1; i <= n; i++)
		sum = sum + i;
	return sum;
}
