// pthread_spin_lock shared by many threads: the holder that loses its CPU stops all the others.
// The section adds SECTION times to one shared counter, about 90 ns for a thread alone;
// between sections a thread does nothing. With 64 threads on two CPUs and the kernel's own schedule
// a spin lock then loses 97 % of what two threads get. The counter at the end shows whether the
// lock excluded.
//
// usage: spinlock [THREADS] [SECONDS]
#include "bench.h"

#include <stdio.h>

enum { SECTION = 48 };

static _Alignas(64) pthread_spinlock_t lock;
static _Alignas(64) volatile uint64_t counter;

static void work(struct worker *w)
{
	while (!stopped(w)) {
		pthread_spin_lock(&lock);
		for (int i = 0; i < SECTION; i++)
			counter++;
		pthread_spin_unlock(&lock);
		w->ops++;
	}
}

int main(int argc, char **argv)
{
	unsigned threads = arg_count(argc, argv, 1, 64);
	double seconds = arg_seconds(argc, argv, 2, 1);
	struct team team;
	double elapsed;

	pthread_spin_init(&lock, PTHREAD_PROCESS_PRIVATE);
	team_init(&team, threads, work, NULL);
	elapsed = team_run(&team, seconds);
	if (counter != team_ops(&team) * SECTION) {
		fprintf(stderr, "spinlock: the lock did not exclude\n");
		return 1;
	}
	metric("ops", (double)team_ops(&team) / elapsed, "ops/s", "higher");
	metric("jain", team_jain(&team), "index", "higher");
	team_fini(&team);
	return 0;
}
