// policies.c: the policies by number, for files that tell which one it was.

#include "shim.h"

// What files have: append only.
static const struct policy *const numbered[] = {&policy_go, &policy_fair, &policy_chaos};
enum { N = sizeof numbered / sizeof numbered[0] };

uint32_t policy_number(const struct policy *policy)
{
	uint32_t i = 0;

	while (i < N - 1 && numbered[i] != policy)
		i++;
	return i;
}

const struct policy *policy_numbered(uint32_t number)
{
	return number < N ? numbered[number] : NULL;
}

const struct policy *policy_named(const char *name)
{
	for (int i = 0; i < N; i++)
		if (str_eq(numbered[i]->name, name))
			return numbered[i];
	return NULL;
}
