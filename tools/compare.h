// compare.h: what metric.c and busy.c do for compare.c.

#pragma once

#include <regex.h>

#include "command.h"

// --- metric.c: a figure in what the program prints -----------------------------------------------------
struct metric {
	const char *text; // the regular expression; NULL: the time it takes
	regex_t re;
	bool lower; // is better
};
const char *metric_compile(struct metric *m, const char *text); // NULL, or what is wrong
void metric_free(struct metric *m);
// The last match in text. NULL, or what is wrong, in a buffer of this function's.
const char *metric_find(const struct metric *m, const char *text, double *ret);

// --- busy.c: what else the machine did ------------------------------------------------------------------
struct busy {
	double used, stolen,
		wall; // s; used: CPU time by all, on the CPUs that this process may use
	int cpus;
};
bool busy_now(struct busy *b); // false: the kernel does not tell
// CPUs kept busy by others, on average, from a to b, in which our programs used so many s of CPU time; and the share
// of the CPUs that the hypervisor took.
double busy_others(const struct busy *a, const struct busy *b, double own);
double busy_stolen(const struct busy *a, const struct busy *b);
