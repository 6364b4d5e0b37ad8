// What the benchmark programs share: a clock, a team of threads that start together and stop
// together, and the METRIC lines that tests/bench/run reads.
//
// A line is "METRIC name value unit higher|lower"; the last word says which direction is better.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// One member of a team. A cache line each, so that counting costs no sharing.
struct worker {
	_Alignas(64) uint64_t ops;
	unsigned id;
	void *arg;
	struct team *team;
	pthread_t thread;
};

struct team {
	unsigned n;
	struct worker *workers;
	void (*fn)(struct worker *);
	atomic_bool stop;

	pthread_mutex_t gate_lock;
	pthread_cond_t gate;
	bool open;	// gate_lock
	unsigned ready; // gate_lock
};

uint64_t now_ns(void);

// Creates n threads, all waiting at the gate. Give workers their arg before team_start.
void team_init(struct team *team, unsigned n, void (*fn)(struct worker *), void *arg);
// Opens the gate when all have arrived; returns the time just before.
uint64_t team_start(struct team *team);
// Sets the stop flag and returns the time of that; team_join then waits for the threads.
uint64_t team_stop(struct team *team);
void team_join(struct team *team);
void team_fini(struct team *team);
// All of it: returns the seconds between the gate's opening and the stop flag.
double team_run(struct team *team, double seconds);

static inline bool stopped(struct worker *w)
{
	return atomic_load_explicit(&w->team->stop, memory_order_relaxed);
}

uint64_t team_ops(const struct team *team);
// Jain's index of the members' ops: 1 when all are equal, 1/n when one has everything.
double team_jain(const struct team *team);

// A second thread that sleeps in pthread_cond_wait for the rest of the program.
void start_sleeper(void);

// CPU work that touches no memory: steps of a linear congruential generator.
uint64_t churn(uint64_t seed, uint64_t steps);
// Steps of churn that take one microsecond here, measured; call it before any load starts.
uint64_t churn_per_us(void);

void sleep_for(double seconds);
double percentile(double *samples, size_t n, double p); // sorts

// Times batches of fn(arg, batch) for the given seconds; prints NAME_median and NAME_mean.
void time_batches(const char *name, void (*fn)(void *, unsigned), void *arg, unsigned batch,
		  double seconds, const char *unit, double ns_per_unit);

void metric(const char *name, double value, const char *unit, const char *better);
unsigned arg_count(int argc, char **argv, int i, unsigned dflt);
double arg_seconds(int argc, char **argv, int i, double dflt);
_Noreturn void die(const char *what, int err);
