// busy.c: was the machine busy with something else meanwhile? Then a comparison says little.
//
// /proc/stat counts in ticks of 10 ms, so this is asked over all runs together, not for each one. CPUs that this process may
// not use do not count. Where the hypervisor gave the CPU to another machine, the kernel knows it as stolen time.

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "compare.h"

static void add_line(struct busy *b, const char *line, const cpu_set_t *mine)
{
	// user nice system idle iowait irq softirq steal; guest time is in user already
	unsigned long long v[8] = {0};
	double tick = 1.0 / (double)sysconf(_SC_CLK_TCK);
	int cpu;

	if (sscanf(line, "cpu%d %llu %llu %llu %llu %llu %llu %llu %llu", &cpu, &v[0], &v[1], &v[2],
		   &v[3], &v[4], &v[5], &v[6], &v[7]) < 5)
		return;
	if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, mine))
		return;
	b->used += tick * (double)(v[0] + v[1] + v[2] + v[5] + v[6]);
	b->stolen += tick * (double)v[7];
	b->cpus++;
}

bool busy_now(struct busy *b)
{
	FILE *f = fopen("/proc/stat", "re");
	struct timespec t;
	cpu_set_t mine;
	char line[512];

	*b = (struct busy){0};
	if (!f)
		return false;
	if (sched_getaffinity(0, sizeof mine, &mine) != 0)
		memset(&mine, 0xff, sizeof mine);
	while (fgets(line, sizeof line, f)) {
		if (strncmp(line, "cpu", 3) == 0 && line[3] != ' ')
			add_line(b, line, &mine);
	}
	fclose(f);
	clock_gettime(CLOCK_MONOTONIC, &t);
	b->wall = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
	return b->cpus > 0;
}

double busy_others(const struct busy *a, const struct busy *b, double own)
{
	double wall = b->wall - a->wall, others = b->used - a->used - own;

	// A few ticks are rounding.
	return wall > 0 && others > 0.05 ? others / wall : 0;
}

double busy_stolen(const struct busy *a, const struct busy *b)
{
	double wall = b->wall - a->wall, stolen = b->stolen - a->stolen;

	return wall > 0 && stolen > 0.05 && b->cpus ? stolen / wall / b->cpus : 0;
}
