// weight.c: how large a G's share is: PREEMPT_WEIGHTS, and what the program itself asked the kernel for.
//
// A weight is in 1/1024 of the unit of PREEMPT_WEIGHTS, where 100 is ordinary. The name's weight is multiplied by 1.25 for each
// nice level, as the kernel shares its CPUs between threads of different nice values; a thread of SCHED_IDLE gets
// the kernel's 3/1024, and one of a real-time class the most there is. The kernel keeps a nice value for each thread, so setpriority
// and nice act on one thread. (pthread priorities mean something in the real-time classes only.)
//
// Problem: names and priorities change at any time, by calls from anywhere, also from other processes. Approach: a G reads its own when
// it has run, 10 ms after it began and then more and more seldom, up to once a second. That costs under a microsecond each time, and
// nobody has to walk over all Gs. Rejected: an interposer for each of the ten calls, which would miss the raw ones.

#include <sched.h>
#include <sys/syscall.h>

#include "shim.h"

enum { UNIT = 1024, LEAST = 1 * UNIT, MOST = 10000 * UNIT, NAME = 16 };

// * and ? as in the shell. Backtracks to the last star only, which is enough.
static bool glob(const char *p, const char *end, const char *s)
{
	const char *star = NULL, *back = NULL;

	while (*s) {
		if (p < end && *p == '*') {
			star = p++;
			back = s;
		} else if (p < end && (*p == '?' || *p == *s)) {
			p++;
			s++;
		} else if (star) {
			p = star + 1;
			s = ++back;
		} else {
			return false;
		}
	}
	while (p < end && *p == '*')
		p++;
	return p == end;
}

// list: GLOB:WEIGHT,... as env.c has checked it. The first glob that matches; 100 if none does.
uint32_t weight_of_name(const char *list, const char *name)
{
	while (*list) {
		const char *start = list, *colon = NULL;
		uint32_t weight = 0;

		for (; *list && *list != ','; list++)
			if (*list == ':')
				colon = list;
		if (colon && glob(start, colon, name)) {
			for (const char *d = colon + 1; d < list; d++)
				weight = weight * 10 + (uint32_t)(*d - '0');
			return weight;
		}
		if (*list)
			list++;
	}
	return 100;
}

uint32_t weight_from(uint32_t named, int class, int nice)
{
	uint64_t w = (uint64_t)named * UNIT;

	if (class == SCHED_FIFO || class == SCHED_RR || class == 6 /* SCHED_DEADLINE */)
		return MOST;
	if (class == SCHED_IDLE)
		w = w * 3 / 1024;
	for (; class != SCHED_IDLE && nice > 0; nice--)
		w = w * 4 / 5;
	for (; class != SCHED_IDLE && nice < 0; nice++)
		w = w * 5 / 4;
	return w < LEAST ? LEAST : w > MOST ? MOST : (uint32_t)w;
}

// Executed by gp's thread. In a sandbox (seccomp) the weight stays what it was: to ask may be deadly there.
void weigh(struct g *gp)
{
	char name[NAME + 1] = "";
	uint32_t named = 100;
	int class, nice;

	if (os_confined())
		return;
	if (config.weights[0]) {
		sys5(SYS_prctl, 16 /* PR_GET_NAME */, name, 0, 0, 0);
		named = weight_of_name(config.weights, name);
	}
	if (tls.weight)
		named = tls.weight;
	class = (int)sys1(SYS_sched_getscheduler, 0) & ~SCHED_RESET_ON_FORK;
	nice = 20 - (int)sys2(SYS_getpriority, 0 /* PRIO_PROCESS */, 0); // it returns 20 - nice
	if (nice < -20 || nice > 19)
		nice = 0;
	store_relaxed(&gp->weight, weight_from(named, class, nice));
}
