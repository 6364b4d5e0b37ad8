// trace.h: what the parts of `preempt trace` share.

#pragma once

#include "command.h"
#include "../shim/trace.h"

// --- tracefile.c: a trace, checked ------------------------------------------------------------------
// Events of one ring that follow one another.
struct trace_run {
	const struct trace_event *v;
	uint32_t n;
	uint64_t lost; // of the ring, up to then: before or behind these
};
struct trace_runs {
	struct trace_run *v;
	size_t n, cap;
	uint64_t next, lost, unfinished;
};
struct trace_file {
	struct trace_header h;
	struct trace_runs *rings;
	const struct trace_module **modules; // their paths lie behind them, NUL-ended
	size_t nmodules;
	uint64_t events, lost; // lost: also those that were never finished
	void *map, *copy;
	size_t map_size;
};
// data and rings must outlive t; rings: the part of data behind the header, or an earlier copy of it. NULL, or what is wrong.
const char *trace_parse(struct trace_file *t, const void *data, size_t size, const void *rings);
const char *trace_read(struct trace_file *t,
		       const char *path); // of a file; also while it is written
void trace_free(struct trace_file *t);
const char *trace_policy(const struct trace_header *h);

// All events by time; those of one ring in their true order.
struct trace_walk {
	const struct trace_file *t;
	struct {
		size_t run;
		uint32_t at;
		int64_t time; // of the next one, not below those before
		bool told;
	} ring[TRACE_RINGS_MAX];
	uint64_t lost; // with an event TRACE_NONE: so many of this ring were lost about here
	uint32_t lost_ring;
};
void trace_walk_begin(struct trace_walk *w, const struct trace_file *t);
bool trace_walk_next(struct trace_walk *w, struct trace_event *ret); // false: that was all

// --- tracestates.c: events become slices of Ps and states of threads ----------------------------------
enum thread_state {
	THREAD_NONE,
	THREAD_STARTING,
	THREAD_RUNNABLE,
	THREAD_RUNNING, // with a P
	THREAD_CREDIT,	// without
	THREAD_BLOCKED, // detail: enum trace_wait, arg: the object
	THREAD_CALL,	// arg: where
	THREAD_ENDED,
	THREAD_STATES,
};
struct trace_thread {
	uint32_t g, tid;
	char name[17];
	uint64_t start_routine;

	enum thread_state state;
	uint8_t detail;
	uint64_t arg;
	uint32_t owner; // tid of the owner of the mutex that it waits for
	int64_t since;
	int p;		   // held, or -1
	int64_t call_on_p; // since when its call is on that P
	int64_t woken_at, early;
	uint32_t woken_by;

	uint64_t ns[THREAD_STATES], switches, preempted, yielded, blocked, spins;
};
enum slice_end {
	SLICE_CUT, // the trace ends, or events were lost
	SLICE_BLOCK,
	SLICE_PREEMPT,
	SLICE_YIELD,
	SLICE_CALL,
	SLICE_RETAKEN,
};
struct trace_sink {
	// Any may be NULL. Times are those of the trace; end >= start.
	void (*slice)(void *arg, uint32_t p, struct trace_thread *th, int64_t start, int64_t end,
		      enum slice_end why, unsigned how);
	void (*call_on_p)(void *arg, uint32_t p, struct trace_thread *th, int64_t start,
			  int64_t end);
	void (*state)(void *arg, struct trace_thread *th, int64_t start,
		      int64_t end); // the state that it leaves
	// th is granted a P; from: who woke it, at that time, or who gave it the P.
	void (*flow)(void *arg, bool wake_up, struct trace_thread *from, int64_t at,
		     struct trace_thread *to, int64_t then);
	void (*event)(void *arg, const struct trace_event *e,
		      struct trace_thread *th); // every one, before it counts
	void (*lost)(void *arg, int64_t at, uint32_t ring, uint64_t n);
	void *arg;
};
struct trace_states {
	struct trace_thread **v; // by first appearance
	size_t n, cap;
	uint32_t *index; // open addressing
	size_t index_size;
	struct {
		struct trace_thread *holder;
		int64_t since;
	} p[1024];
	uint32_t nps; // the highest that was seen + 1
	int64_t first, last;
};
struct trace_thread *trace_thread_of(struct trace_states *s, uint32_t g);
void trace_names_first(struct trace_states *s,
		       const struct trace_file *t); // tids and names of all threads
void trace_run(struct trace_states *s, const struct trace_file *t, const struct trace_sink *sink);
void trace_states_free(struct trace_states *s);

// --- tracenames.c: names of addresses ---------------------------------------------------------------
// "function+0x12 (file:line)", "object", "module+0x123", or "0x7f...". code: an instruction, else data. Stays until trace_names_free.
const char *trace_name(const struct trace_file *t, uint64_t addr, bool code);
const char *trace_function(const struct trace_file *t, uint64_t addr); // without offset and line
void trace_names_free(void);
const char *trace_label(const struct trace_file *t, const struct trace_thread *th, char buf[80]);
extern const char *const trace_waits[TRACE_WAITS];

// --- the subcommands --------------------------------------------------------------------------------
// Their options; argv[0] is "preempt trace NAME".
int trace_record(int argc, char **argv);
int trace_export(int argc, char **argv);
int trace_report(int argc, char **argv);
void trace_record_help(FILE *out);
void trace_export_help(FILE *out);
void trace_report_help(FILE *out);
// Those that read a trace. trace_words is what their parsers return for what is not their own: the trace, and -o. trace_begin parses and reads, or dies.
struct trace_files {
	const char *input, *output;
};
error_t trace_words(int key, char *arg, struct trace_files *f, struct argp_state *state);
void trace_begin(const struct argp *argp, int argc, char **argv, void *options,
		 const struct trace_files *f, struct trace_file *ret_trace);
const char *trace_lost_text(const struct trace_file *t, char buf[200]);
void json_quote(FILE *out, const char *s); // as a JSON string; also right inside of <script>
