// report.h: what is told to people and files: counters, traces, dumps. Included by shim.h, whose rules hold.

#pragma once

#include <ucontext.h>

#include "table.h"
#include "trace.h"
#include "types.h"

// --- trace.c ----------------------------------------------------------------------------------
extern bool trace_on __attribute__((visibility("hidden")));
void trace_open(void);		    // activation, after sched_init
void trace_settle(void);	    // the process ends; signal-safe
void trace_thread_ends(int status); // no thread of ours may be left
void trace_reset_in_child(void);
// pp: the P that the event happened on, or NULL; now: the time, or 0: take it.
void trace_write(enum trace_kind kind, unsigned detail, const struct p *pp, uint32_t g,
		 uint32_t other, uint64_t arg, int64_t now);
void trace_start(const struct p *pp, const struct g *gp, bool inherits, int64_t now);
void trace_block(const struct p *pp, const struct g *gp, int64_t now);
void trace_unblock(const struct g *gp, bool itself, int64_t now);
void trace_yield(const struct p *pp, const struct g *gp, bool forced, bool asked, int64_t now);
void trace_retake(const struct p *pp);
void trace_end_of(const struct g *gp);
// Without a trace all of them are a load and a branch. TRACE(start, pp, ...) is trace_start(pp, ...).
#define TRACE(what, ...)                                                                           \
	do {                                                                                       \
		if (unlikely(load_relaxed(&trace_on)))                                             \
			trace_##what(__VA_ARGS__);                                                 \
	} while (0)

// --- backtrace.c: the callers of a thread that stands still --------------------------------------
struct place {
	uintptr_t pc;
	bool exact; // else a return address
};
bool backtrace_start(const struct g *gp, struct frame *ret); // false: it is not known where it is
int backtrace_walk(const struct g *gp, struct frame f, struct place *v,
		   int max); // how many places

// --- waits.c: whom a waiting G waits for -----------------------------------------------------------
const struct g *wait_owner(const struct g *gp, int *ret_tid);
int mutex_owner(const void *mutex); // tid, or 0
const struct g *g_of_tid(int tid);

// --- dump.c: what all threads do --------------------------------------------------------------------
int64_t dump_poll(int64_t now); // sysmon
enum {
	DUMP_MARK = 0x70726464
}; // in the high half of the value of `preempt dump`'s signal; the low half is a number for the file
void dump_signalled(void);
void dump_wanted(uint32_t nonce);
void dump_deadlock(void);
int dump_to(int fd);
void dump_thread(struct text *t, const struct g *gp, int64_t now);
void dump_all_threads(struct text *t, int64_t now);
void dump_reset_in_child(void);

// --- snapshot.c: what all threads do, for `preempt top`. snapshot.h has the file --------------------
int64_t snapshot_poll(int64_t now); // sysmon
void snapshot_wanted(void);	    // signal-safe
void snapshot_init(const char *dir, bool secure);
void snapshot_leave(void); // any thread: the process ends, or is about to exec
void snapshot_stay(void);  // the exec has failed
void snapshot_reset_in_child(void);

// --- deadlock.c: threads that wait for each other ---------------------------------------------------
int64_t deadlock_poll(int64_t now);   // sysmon
int64_t deadlock_sleeps(int64_t now); // sysmon
void deadlock_suspect(void);
void sysmon_idles(void);
void deadlock_write(struct text *t);
void deadlock_told(void);
void deadlock_reset_in_child(void);

// --- lockstat.c, symbols.c: for the report --------------------------------------------------------------
// A thread waited for it; its holder waited for a P then; its holder was spared a preemption.
enum lock_event { LOCK_WAIT, LOCK_OWNER_WAIT, LOCK_SPARED, LOCK_EVENTS };
struct lock_figures {
	const void *addr;
	uint64_t n[LOCK_EVENTS];
};
void lock_count(const void *addr, enum lock_event what); // NULL: not known
uint32_t lock_top(struct lock_figures *ret, uint32_t n); // how many there are, at most n
void lock_reset_in_child(void);
struct symbol {
	char name[128];
	uint64_t offset;
};
bool symbol_at(const char *path, uint64_t addr, struct symbol *ret); // addr: link-time

// --- stats.c ----------------------------------------------------------------------------------
// Counters; relaxed, exact, read at exit. They and the histograms have pages of their own, for page.c.
struct stats {
	union {
		struct {
			uint64_t threads_created, threads_live, threads_peak, switches,
				signals_sent;
			uint64_t preempt_requested, preempt_cooperative, preempt_async,
				preempt_forced, preempt_spared;
			uint64_t refused_locks, refused_unsafe_pc, refused_no_table,
				refused_critical, refused_shim, refused_stack, refused_syscall;
			uint64_t retakes_syscall, retakes_opaque, handoffs, spin_yields,
				spin_saved_ns;
			uint64_t spin_sites, spin_site_yields;
			uint64_t lock_deferred, lock_handed, eintr_hidden, credit_runs,
				convoy_yields;
		};
		char page[4096];
	};
} __attribute__((aligned(4096)));
extern struct stats stats;
#define STAT(field) count_relaxed(&stats.field, 1)
void stats_run_delay(int64_t ns);	    // runnable to running
void stats_overshoot(int64_t ns);	    // slice end to P given up
void stats_thread_starts(uint32_t live);    // live: threads there are now
void stats_thread_exit(const struct g *gp); // keep its figures for the report
void stats_reset_in_child(void);
// A thread, for reports.
struct record {
	uint32_t published;
	int tid;
	char name[16];
	uint64_t run_ns, wait_ns, switches;
};
void each_thread(void (*fn)(const struct record *r, void *arg), void *arg, int64_t now);
uint32_t threads_left_out(void); // that have exited without a record
uint32_t jain_cpu(int64_t now);	 // in 1/10000
// Times in log-linear buckets: those below 8 have one each; above, 8 for each power of two up to 2^62.
enum { SUB_BITS = 3, SUB = 1 << SUB_BITS, BUCKETS = (63 - SUB_BITS) * SUB + SUB };
struct histogram {
	uint64_t max;
	uint64_t bucket[BUCKETS];
};
struct histograms {
	union {
		struct {
			struct histogram run_delay, overshoot;
		};
		char pages[8192];
	};
} __attribute__((aligned(4096)));
extern struct histograms histograms;
struct summary {
	uint64_t count, p50, p90, p99, max;
};
struct summary summarize(const struct histogram *h);

// --- statsreport.c ----------------------------------------------------------------------------------------
void stats_report(void);			      // as PREEMPT_STATS says; from the destructor
void stats_path(const char *from, struct text *path); // %p replaced
bool stats_write(int fd);			      // the JSON
int utf8(const unsigned char *s); // bytes of the character at s; 0: it is no UTF-8

// --- prometheus.c: the figures in the text format of Prometheus ---------------------------------------
bool is_prometheus(const char *path); // ends in .prom
void prometheus_report(const char *path, bool replace);
bool prometheus_write(int fd);
uint64_t bucket_bound(uint32_t i); // the least value of a bucket of struct histogram

// --- page.c: the counters in a file, while the process runs and when it was killed -----------------
void page_open(void);  // activation: as PREEMPT_STATS_PAGE says
void page_leave(void); // in the child of a fork: the counters are its own again, and 0
int page_load(int fd,
	      int *ret_pid); // not in the library: a file becomes the counters here. 0 or -errno
// --- schedtrace.c -----------------------------------------------------------------------------
// One SCHED line in Go's format, newline included; now is os_nanotime().
void schedtrace_line(struct text *t, int64_t now);
