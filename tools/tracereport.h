// tracereport.h: the figures of `preempt trace report` (tracereport.c), which tracepage.c prints.

#pragma once

#include "trace.h"

// Eight buckets for each power of two.
enum { TIMES_BUCKETS = 64 * 8 };
struct times {
	uint64_t n, max, sum;
	uint64_t bucket[TIMES_BUCKETS];
};
uint64_t times_quantile(const struct times *t, double q);
uint64_t times_bucket(unsigned i); // the least value in it

enum times_kind {
	TIMES_DELAY, // runnable to running
	TIMES_SLICE, // with a P
	TIMES_OVERSHOOT,
	TIMES_CALL,
	TIMES_LOCK, // waits for mutexes and rwlocks
	TIMES_WAIT, // all others
	TIMES_KINDS,
};
extern const char *const times_names[TIMES_KINDS][2]; // a word, and what it is

// A lock or another object that was waited for; or a place in the program.
struct site {
	uint64_t addr;
	unsigned kind; // enum trace_wait; of spin sites enum trace_spin
	uint64_t n, ns, max;
	uint32_t last_owner; // tid
};
struct sites {
	struct site *v;
	size_t n, size; // open addressing; size is a power of two
};

enum { TRACKS_MAX = 400 }; // threads in the timeline
// One piece of the timeline: on a P a thread, or several that ran shorter than can be seen.
struct piece {
	int64_t start, end;
	uint32_t g; // 0: several
	uint32_t n;
	uint8_t state; // of a thread's: enum thread_state; of a P's: enum slice_end
	uint8_t detail;
};
struct track {
	struct piece *v;
	size_t n, cap;
	int64_t least; // shorter ones are put together
};

struct report {
	const struct trace_file *t;
	struct trace_states states;
	struct times times[TIMES_KINDS];
	struct sites locks, spins;
	struct track *ps, *threads; // threads: by place in states.v
	uint64_t *p_ns;
	uint64_t kinds[TRACE_KINDS], preempted[3], retaken[2], refused[8];
	uint64_t pieces_per_track;
};
void report_page(const struct report *r, FILE *out);
int report_json(const struct report *r, FILE *out);
// The largest first; NULL-ended, to be freed.
const struct site **sites_sorted(const struct sites *s);
struct trace_thread **threads_sorted(const struct report *r, size_t *ret_n); // by the time they ran
