// How long it takes to stop the world while threads compute, a third of them with a mutex held now and then: the time from the call until
// the last one stands still, as the library says. The first half second does not count: tables are loaded then. Without the
// library there is nothing to stop, and nothing is printed.
//
// usage: stops [THREADS] [SECONDS]
#include "bench.h"

#include <preempt.h>

enum { MAX_STOPS = 1 << 14, WARM_MS = 500, PAUSE_US = 3000 };

static double took[MAX_STOPS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t per_us;

static void work(struct worker *w)
{
	while (!stopped(w)) {
		bool locks = w->id % 3 == 0;

		if (locks)
			pthread_mutex_lock(&mutex);
		churn(w->ops, 20 * per_us);
		if (locks)
			pthread_mutex_unlock(&mutex);
		churn(w->ops++, 200 * per_us);
	}
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 16), stops = 0, failed = 0;
	double seconds = arg_seconds(argc, argv, 2, 2);
	struct team team;
	uint64_t start;

	per_us = churn_per_us();
	team_init(&team, threads, work, NULL);
	start = team_start(&team);
	while (preempt_stop_the_world && stops < MAX_STOPS) {
		struct preempt_stopped s;
		uint64_t now = now_ns();

		if ((double)(now - start) > WARM_MS * 1e6 + seconds * 1e9)
			break;
		if (preempt_stop_the_world(1000000000, &s) == 0) {
			preempt_start_the_world();
			if (now - start > WARM_MS * 1000000ULL)
				took[stops++] = (double)s.ns / 1e3;
		} else {
			failed++;
		}
		sleep_for(PAUSE_US / 1e6);
	}
	team_stop(&team);
	team_join(&team);
	team_fini(&team);
	if (failed)
		die("preempt_stop_the_world", 0);
	if (stops) {
		metric("stop_p50", percentile(took, stops, 50), "us", "lower");
		metric("stop_p99", percentile(took, stops, 99), "us", "lower");
		metric("stops", stops, "stops", "higher");
	}
	return 0;
}
