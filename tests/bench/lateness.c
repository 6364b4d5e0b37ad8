// A thread sleeps 1 ms and then needs 200 us of CPU, again and again, among hogs that compute
// without a pause. Lateness is how long after the millisecond it runs again; a turn is the whole:
// 1.2 ms on an idle machine. The hogs' work is printed too, for it pays for a prompt sleeper; and all work, as the
// sleeper computes 200 us in each turn, so the more the more often it comes.
//
// usage: lateness [HOGS] [SECONDS]
#include "bench.h"

#include <time.h>

enum { MAX_TURNS = 1 << 16, SLEEP_US = 1000, WORK_US = 200 };

static double late[MAX_TURNS], turn[MAX_TURNS];
static size_t turns;
static uint64_t per_us;

static void sleeper(struct worker *w)
{
	while (!stopped(w) && turns < MAX_TURNS) {
		uint64_t start = now_ns(), woken;

		sleep_for(SLEEP_US / 1e6);
		woken = now_ns();
		churn(woken, WORK_US * per_us);
		w->ops += WORK_US;
		late[turns] = (double)(woken - start) / 1e3 - SLEEP_US;
		turn[turns++] = (double)(now_ns() - start) / 1e3;
	}
}

static void work(struct worker *w)
{
	if (w->id == 0) {
		sleeper(w);
		return;
	}
	while (!stopped(w)) {
		churn(w->ops, per_us);
		w->ops++;
	}
}

int main(int argc, char **argv)
{
	unsigned hogs = arg_count(argc, argv, 1, 16);
	double seconds = arg_seconds(argc, argv, 2, 1);
	struct team team;
	double elapsed;

	per_us = churn_per_us();
	team_init(&team, hogs + 1, work, NULL);
	elapsed = team_run(&team, seconds);
	metric("late_p50", percentile(late, turns, 50), "us", "lower");
	metric("late_p99", percentile(late, turns, 99), "us", "lower");
	metric("turn_p99", percentile(turn, turns, 99), "us", "lower");
	metric("turns", (double)turns / elapsed, "turns/s", "higher");
	metric("hogs", (double)(team_ops(&team) - team.workers[0].ops) / elapsed, "us/s", "higher");
	metric("work", (double)team_ops(&team) / elapsed, "us/s", "higher");
	team_fini(&team);
	return 0;
}
