// stats.c: counting, and the reports that are made of it.
//
// Problem: figures are taken on hot paths, also in signal handlers, while the report is wanted
// once, at exit, when threads may be parked, dying or running on, and must never hang. Approach:
// counters are relaxed adds. Times go into log-linear histograms (8 buckets per power of two, so a
// percentile is off by 6% at most) of fixed size. Threads that exit leave a record in chunks that
// are mapped as needed and never moved, so writers need no lock: an index by fetch_add, then a flag
// that publishes the record. The report walks records and live Gs; a figure that moves meanwhile is
// taken as it is. Rejected: a record list under sched.lock (exit could wait for a parked thread
// that holds it).

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "shim.h"

#ifndef PREEMPT_VERSION
#define PREEMPT_VERSION "unknown"
#endif

struct stats stats;

// --- histograms
// -----------------------------------------------------------------------------------

struct histograms histograms;

static uint32_t bucket_of(uint64_t v)
{
	uint32_t e;

	if (v < SUB)
		return (uint32_t)v;
	e = 63 - (uint32_t)__builtin_clzl(v);
	return (e - SUB_BITS + 1) * SUB + ((v >> (e - SUB_BITS)) & (SUB - 1));
}

// The middle of a bucket.
static uint64_t bucket_value(uint32_t i)
{
	uint32_t e = i / SUB;

	if (e <= 1)
		return i;
	return ((uint64_t)(SUB + i % SUB) << (e - 1)) + ((uint64_t)1 << (e - 1)) / 2;
}

// Signal-safe.
static void histogram_add(struct histogram *h, int64_t ns)
{
	uint64_t v = ns < 0 ? 0 : (uint64_t)ns, max;

	count_relaxed(&h->bucket[bucket_of(v)], 1);
	while (v > (max = load_relaxed(&h->max))) {
		if (cas(&h->max, max, v)) // competes with other adds only; publishes nothing
			break;
	}
}

struct summary {
	uint64_t count, p50, p90, p99, max;
};

// The value that percent of all counted are not above.
static uint64_t percentile(const uint64_t *bucket, uint64_t count, uint64_t max, uint64_t percent)
{
	uint64_t rank = count / 100 * percent + (count % 100 * percent + 99) / 100, seen = 0;

	for (uint32_t i = 0; i < BUCKETS; i++) {
		seen += load_relaxed(&bucket[i]);
		if (seen >= rank && seen > 0) {
			uint64_t v = bucket_value(i);

			return v < max ? v : max;
		}
	}
	return max;
}

static struct summary summarize(const struct histogram *h)
{
	struct summary s = {0};

	for (uint32_t i = 0; i < BUCKETS; i++)
		s.count += load_relaxed(&h->bucket[i]);
	s.max = load_relaxed(&h->max);
	if (s.count) {
		s.p50 = percentile(h->bucket, s.count, s.max, 50);
		s.p90 = percentile(h->bucket, s.count, s.max, 90);
		s.p99 = percentile(h->bucket, s.count, s.max, 99);
	}
	return s;
}

static void histogram_reset(struct histogram *h)
{
	for (uint32_t i = 0; i < BUCKETS; i++)
		store_relaxed(&h->bucket[i], 0);
	store_relaxed(&h->max, 0);
}

void stats_run_delay(int64_t ns)
{
	histogram_add(&histograms.run_delay, ns);
}

void stats_overshoot(int64_t ns)
{
	histogram_add(&histograms.overshoot, ns);
}

// --- threads
// ----------------------------------------------------------------------------------------

// 65536 records are 3.5 MB; a program that makes more threads than that gets the first ones listed
// and the number of the others.
enum { CHUNK = 1024, CHUNKS = 64 };
static struct record *chunks[CHUNKS];
static uint32_t nrecords;

static void copy_name(char to[16], const char *from)
{
	int i = 0;

	for (; i < 15 && from[i] && from[i] != '\n'; i++)
		to[i] = from[i];
	to[i] = 0;
}

static struct record *record_new(void)
{
	uint32_t i = fetch_add(&nrecords, 1); // gives the index to this thread alone
	struct record *chunk;

	if (i >= CHUNK * CHUNKS)
		return NULL;
	chunk = load_acquire(&chunks[i / CHUNK]); // pairs with the cas below
	if (!chunk) {
		struct record *fresh = os_mmap(CHUNK * sizeof(*fresh));

		if (!fresh)
			return NULL;
		if (cas(&chunks[i / CHUNK], NULL, fresh)) { // publishes the zeroed chunk
			chunk = fresh;
		} else {
			os_munmap(fresh, CHUNK * sizeof(*fresh));
			chunk = load_acquire(&chunks[i / CHUNK]); // pairs with the cas above
		}
	}
	return &chunk[i % CHUNK];
}

void stats_thread_starts(uint32_t live)
{
	uint64_t peak = load_relaxed(&stats.threads_peak);

	STAT(threads_created);
	while (live > peak && !cas(&stats.threads_peak, peak, live)) // a maximum only
		peak = load_relaxed(&stats.threads_peak);
}

void stats_thread_exit(const struct g *gp)
{
	struct record *r;

	if (!config.stats[0])
		return;
	r = record_new();
	if (!r)
		return;
	r->tid = gp->tid;
	os_thread_name(r->name);
	r->run_ns = load_relaxed(&gp->run_ns);
	r->wait_ns = load_relaxed(&gp->wait_ns);
	r->switches = load_relaxed(&gp->switches);
	store_release(&r->published, 1); // pairs with load_acquire in each_thread
}

static bool is_live(uint32_t status)
{
	return status != G_IDLE && status != G_DEAD;
}

// What a live thread has used so far, with the span it is in. The owner may move on while we look:
// then one span is counted in part.
static void live_record(const struct g *gp, uint32_t status, int64_t now, struct record *ret)
{
	char path[64], name[32];
	struct text t = {.buf = path, .len = 0, .cap = sizeof(path)};
	int64_t span;

	ret->tid = gp->tid;
	text_printf(&t, "/proc/self/task/%d/comm", gp->tid);
	copy_name(ret->name, os_read_file(path, name, sizeof(name)) > 0 ? name : "");
	ret->run_ns = load_relaxed(&gp->run_ns);
	ret->wait_ns = load_relaxed(&gp->wait_ns);
	ret->switches = load_relaxed(&gp->switches);
	if (status == G_RUNNING) {
		span = now - load_relaxed(&gp->run_since);
		if (load_relaxed(&gp->run_since) && span > 0)
			ret->run_ns += (uint64_t)span;
	} else if (status == G_RUNNABLE || status == G_PREEMPTED) {
		span = now - load_relaxed(&gp->runnable_since);
		if (load_relaxed(&gp->runnable_since) && span > 0)
			ret->wait_ns += (uint64_t)span;
	}
}

// Exited threads in the order of their exit, then live ones, newest first.
void each_thread(void (*fn)(const struct record *r, void *arg), void *arg, int64_t now)
{
	uint32_t n = load_relaxed(&nrecords);
	struct g *gp;

	for (uint32_t i = 0; i < n && i < CHUNK * CHUNKS; i++) {
		struct record *chunk = load_acquire(&chunks[i / CHUNK]); // pairs with record_new

		if (chunk &&
		    load_acquire(&chunk[i % CHUNK].published)) // pairs with stats_thread_exit
			fn(&chunk[i % CHUNK], arg);
	}
	gp = load_acquire(&sched.allgs); // pairs with the push of a new G
	for (; gp; gp = gp->alllink) {
		uint32_t status = load_relaxed(&gp->status);
		struct record r = {0};

		if (!is_live(status))
			continue;
		live_record(gp, status, now, &r);
		fn(&r, arg);
	}
}

void stats_reset_in_child(void)
{
	uint64_t *counter = (uint64_t *)&stats;

	page_leave();
	for (size_t i = 0; i < sizeof(stats) / sizeof(*counter); i++)
		store_relaxed(&counter[i], 0);
	histogram_reset(&histograms.run_delay);
	histogram_reset(&histograms.overshoot);
	for (uint32_t i = 0; i < CHUNKS; i++) {
		if (chunks[i])
			os_munmap(chunks[i], CHUNK * sizeof(*chunks[i]));
		chunks[i] = NULL;
	}
	nrecords = 0;
	spin_reset_in_child();
	lock_reset_in_child();
}

// --- Jain's index: (sum x)^2 / (n * sum x^2); 1 is fair, 1/n is all for one
// -----------------------

struct jain {
	uint64_t n, max, sum, squares;
	uint32_t shift;
};

static void jain_size(const struct record *r, void *arg)
{
	struct jain *j = arg;

	j->n++;
	if (r->run_ns > j->max)
		j->max = r->run_ns;
}

static void jain_add(const struct record *r, void *arg)
{
	struct jain *j = arg;
	uint64_t x = (r->run_ns < j->max ? r->run_ns : j->max) >> j->shift;

	j->sum += x;
	j->squares += x * x;
}

static uint32_t bits(uint64_t v)
{
	return v ? 64 - (uint32_t)__builtin_clzl(v) : 0;
}

// In 1/10000. There is no floating point and no 128-bit division here: times are scaled so that
// numerator and denominator stay below 2^60, and the quotient is made digit by digit.
uint32_t jain_cpu(int64_t now)
{
	struct jain j = {0};
	uint64_t num, den;
	uint32_t keep, q = 0;

	each_thread(jain_size, &j, now);
	if (!j.n || !j.max)
		return 10000;
	keep = (60 - 2 * bits(j.n)) / 2; // a thread may appear between the two walks: n < 2^bits(n)
	j.shift = bits(j.max) > keep ? bits(j.max) - keep : 0;
	each_thread(jain_add, &j, now);
	num = j.sum * j.sum;
	den = j.n * j.squares;
	if (!den || num >= den)
		return 10000;
	for (int i = 0; i < 4; i++) {
		num *= 10;
		q = q * 10 + (uint32_t)(num / den);
		num %= den;
	}
	return q + (num * 2 >= den);
}

// --- output
// -----------------------------------------------------------------------------------------

// Text of any length through a small buffer.
struct out {
	struct text t;
	int fd;
	bool failed;
	char buf[4096];
};

static void out_flush(struct out *o)
{
	if (o->t.len && !text_write_fd(&o->t, o->fd))
		o->failed = true;
	o->t.len = 0;
}

static void out_init(struct out *o, int fd)
{
	o->t.buf = o->buf;
	o->t.len = 0;
	o->t.cap = sizeof(o->buf);
	o->fd = fd;
	o->failed = false;
}

// Room for the next piece; none here is longer than 1 KB.
static struct text *out_text(struct out *o)
{
	if (o->t.len > sizeof(o->buf) - 1024)
		out_flush(o);
	return &o->t;
}

#define out(o, ...) text_printf(out_text(o), __VA_ARGS__)

// Length of the valid UTF-8 sequence at s, 0 if there is none. The kernel cuts names at 15 bytes,
// perhaps in the middle of a character, and a program may put anything there.
int utf8(const unsigned char *s)
{
	int n = s[0] >= 0xc2 && s[0] < 0xe0   ? 2
		: (s[0] & 0xf0) == 0xe0	      ? 3
		: s[0] >= 0xf0 && s[0] < 0xf5 ? 4
					      : 0;

	for (int i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	// Overlong forms, surrogates, beyond U+10FFFF.
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

static void json_string(struct out *o, const char *str)
{
	const unsigned char *s = (const unsigned char *)str;

	out(o, "\"");
	while (*s) {
		int n = utf8(s);

		if (n) {
			while (n-- > 0)
				out(o, "%c", *s++);
			continue;
		}
		if (*s == '"' || *s == '\\')
			out(o, "\\%c", *s);
		else if (*s < ' ' || *s == 0x7f)
			out(o, "\\u%04x", *s);
		else if (*s > 0x7f)
			out(o, "\\ufffd");
		else
			out(o, "%c", *s);
		s++;
	}
	out(o, "\"");
}

static void json_histogram(struct out *o, const char *key, const struct histogram *h)
{
	struct summary s = summarize(h);

	out(o,
	    "  \"%s\": {\"count\": %lu, \"p50\": %lu, \"p90\": %lu, \"p99\": %lu, \"max\": %lu},\n",
	    key, s.count, s.p50, s.p90, s.p99, s.max);
}

struct json_thread {
	struct out *o;
	bool more;
};

static void json_thread(const struct record *r, void *arg)
{
	struct json_thread *j = arg;

	out(j->o, "%s\n    {\"tid\": %d, \"name\": ", j->more ? "," : "", r->tid);
	json_string(j->o, r->name);
	out(j->o, ", \"run_ns\": %lu, \"wait_ns\": %lu, \"switches\": %lu}", r->run_ns, r->wait_ns,
	    r->switches);
	j->more = true;
}

static const char *policy_name(void)
{
	const struct policy *policy = sched.policy ? sched.policy : config.policy;

	return policy ? policy->name : "none";
}

static int64_t elapsed(int64_t now)
{
	return sched.start_time ? now - sched.start_time : 0;
}

static uint32_t threads_left_out(void)
{
	uint32_t n = load_relaxed(&nrecords);

	return n > CHUNK * CHUNKS ? n - CHUNK * CHUNKS : 0;
}

#define N(field) load_relaxed(&stats.field)

enum { TOP = 8 };

// Where a spin wait is: the module's path, or NULL, and the link-time address.
static const char *place(uintptr_t pc, uint64_t *ret_addr)
{
	uintptr_t bias;
	const struct table *table = modules_find(pc, &bias);
	uint32_t n;

	*ret_addr = pc;
	n = modules ? load_acquire(&modules->n) : 0; // pairs with the store in loading.c
	for (uint32_t i = 0; i < n; i++) {
		const struct mapped *m = &modules->v[i];

		if (pc < m->start || pc >= m->end || !m->path)
			continue;
		*ret_addr = table ? pc - bias : pc - m->start;
		return m->path;
	}
	return NULL;
}

static void json_top(struct out *o)
{
	struct spin_site sites[TOP];
	uint32_t n = spin_top(sites, TOP);

	for (uint32_t i = 0; i < n; i++) {
		struct symbol symbol;
		uint64_t addr;
		const char *path = place(sites[i].pc, &addr);

		out(o, "%s\n    {\"module\": ", i ? "," : "");
		json_string(o, path ? path : "");
		out(o, ", \"offset\": \"0x%lx\", \"function\": ", addr);
		if (path && symbol_at(path, addr, &symbol)) {
			json_string(o, symbol.name);
			out(o, ", \"function_offset\": %lu", symbol.offset);
		} else {
			json_string(o, "");
		}
		out(o, ", \"yields\": %lu, \"saved_ns\": %lu}", sites[i].yields, sites[i].saved_ns);
	}
	out(o, "%s]", n ? "\n  " : "");
}

static void json_locks(struct out *o)
{
	struct lock_figures locks[TOP];
	uint32_t n = lock_top(locks, TOP);

	for (uint32_t i = 0; i < n; i++)
		out(o,
		    "%s\n    {\"address\": \"0x%lx\", \"waits\": %lu, \"owner_waits\": %lu, "
		    "\"spared\": %lu}",
		    i ? "," : "", (uintptr_t)locks[i].addr, locks[i].n[LOCK_WAIT],
		    locks[i].n[LOCK_OWNER_WAIT], locks[i].n[LOCK_SPARED]);
	out(o, "%s]", n ? "\n  " : "");
}

static void report_json(struct out *o, int64_t now)
{
	struct json_thread threads = {.o = o, .more = false};
	uint32_t jain = jain_cpu(now);

	out(o, "{\n  \"version\": ");
	json_string(o, PREEMPT_VERSION);
	out(o, ",\n  \"pid\": %d,\n  \"procs\": %u,\n  \"policy\": ", os_getpid(),
	    load_relaxed(&sched.nprocs));
	json_string(o, policy_name());
	out(o, ",\n  \"quantum_ns\": %ld,\n  \"elapsed_ns\": %ld,\n", config.quantum, elapsed(now));
	out(o, "  \"threads_created\": %lu,\n  \"threads_peak\": %lu,\n  \"switches\": %lu,\n",
	    N(threads_created), N(threads_peak), N(switches));
	out(o,
	    "  \"preempt\": {\"requested\": %lu, \"cooperative\": %lu, \"async\": %lu, "
	    "\"forced\": %lu, \"spared\": %lu},\n",
	    N(preempt_requested), N(preempt_cooperative), N(preempt_async), N(preempt_forced),
	    N(preempt_spared));
	out(o,
	    "  \"refused\": {\"locks\": %lu, \"unsafe_pc\": %lu, \"no_table\": %lu, "
	    "\"critical\": %lu, \"shim\": %lu, \"stack\": %lu, \"syscall\": %lu},\n",
	    N(refused_locks), N(refused_unsafe_pc), N(refused_no_table), N(refused_critical),
	    N(refused_shim), N(refused_stack), N(refused_syscall));
	out(o, "  \"signals_sent\": %lu,\n  \"retakes\": {\"syscall\": %lu, \"opaque\": %lu},\n",
	    N(signals_sent), N(retakes_syscall), N(retakes_opaque));
	out(o,
	    "  \"handoffs\": %lu,\n  \"spin\": {\"yields\": %lu, \"saved_ns\": %lu, "
	    "\"sites\": %lu, \"site_yields\": %lu, \"convoy_yields\": %lu, \"top\": [",
	    N(handoffs), N(spin_yields), N(spin_saved_ns), N(spin_sites), N(spin_site_yields),
	    N(convoy_yields));
	json_top(o);
	out(o, "},\n  \"lock_holder\": {\"deferred\": %lu, \"handed\": %lu, \"top\": [",
	    N(lock_deferred), N(lock_handed));
	json_locks(o);
	out(o, "},\n  \"eintr_hidden\": %lu,\n  \"credit_runs\": %lu,\n", N(eintr_hidden),
	    N(credit_runs));
	json_histogram(o, "run_delay_ns", &histograms.run_delay);
	json_histogram(o, "overshoot_ns", &histograms.overshoot);
	out(o, "  \"fairness\": {\"jain_cpu\": %u.%04u},\n", jain / 10000, jain % 10000);
	out(o, "  \"threads_left_out\": %u,\n  \"threads\": [", threads_left_out());
	each_thread(json_thread, &threads, now);
	out(o, "%s]\n}\n", threads.more ? "\n  " : "");
}

// A time with three significant digits or so: 17 us, 1.25 s.
static void out_time(struct out *o, uint64_t ns)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {{"s", 1000000000}, {"ms", 1000000}, {"us", 1000}};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (ns >= units[i].ns) {
			out(o, "%lu.%02lu %s", ns / units[i].ns,
			    ns % units[i].ns * 100 / units[i].ns, units[i].name);
			return;
		}
	}
	out(o, "%lu ns", ns);
}

static void out_histogram(struct out *o, const char *what, const struct histogram *h)
{
	struct summary s = summarize(h);

	if (!s.count)
		return;
	out(o, "  %s: %lu, median ", what, s.count);
	out_time(o, s.p50);
	out(o, ", p99 ");
	out_time(o, s.p99);
	out(o, ", max ");
	out_time(o, s.max);
	out(o, "\n");
}

static void text_top(struct out *o)
{
	struct spin_site sites[TOP];
	struct lock_figures locks[TOP];
	uint32_t n = spin_top(sites, TOP);

	for (uint32_t i = 0; i < n; i++) {
		struct symbol symbol;
		uint64_t addr;
		const char *path = place(sites[i].pc, &addr), *name = path;

		for (const char *c = path; c && *c; c++)
			name = *c == '/' ? c + 1 : name;
		if (path && symbol_at(path, addr, &symbol))
			out(o, "    spins in %s+0x%lx (%s)", symbol.name, symbol.offset, name);
		else
			out(o, "    spins at 0x%lx (%s)", addr, name ? name : "?");
		out(o, ": %lu yields, ", sites[i].yields);
		out_time(o, sites[i].saved_ns);
		out(o, " saved\n");
	}
	n = lock_top(locks, TOP);
	for (uint32_t i = 0; i < n; i++)
		out(o,
		    "    lock 0x%lx: %lu waits, %lu for a preempted owner, %lu preemptions "
		    "spared\n",
		    (uintptr_t)locks[i].addr, locks[i].n[LOCK_WAIT], locks[i].n[LOCK_OWNER_WAIT],
		    locks[i].n[LOCK_SPARED]);
}

static void report_text(struct out *o, int64_t now)
{
	uint32_t jain = jain_cpu(now);

	out(o, "libpreempt %s: pid %d, %u Ps, policy %s, quantum ", PREEMPT_VERSION, os_getpid(),
	    load_relaxed(&sched.nprocs), policy_name());
	out_time(o, (uint64_t)config.quantum);
	out(o, ", ");
	out_time(o, (uint64_t)elapsed(now));
	out(o, "\n  threads: %lu created, %lu at most at once; %lu switches, %lu hand-offs\n",
	    N(threads_created), N(threads_peak), N(switches), N(handoffs));
	out(o,
	    "  preemption: %lu requested; %lu cooperative, %lu async, %lu forced, %lu spared; "
	    "%lu signals\n",
	    N(preempt_requested), N(preempt_cooperative), N(preempt_async), N(preempt_forced),
	    N(preempt_spared), N(signals_sent));
	out(o,
	    "  refused: %lu locks, %lu unsafe pc, %lu no table, %lu critical, %lu shim, "
	    "%lu stack, %lu syscall\n",
	    N(refused_locks), N(refused_unsafe_pc), N(refused_no_table), N(refused_critical),
	    N(refused_shim), N(refused_stack), N(refused_syscall));
	out(o, "  retaken: %lu in system calls, %lu opaque; %lu runs on credit; %lu EINTR hidden\n",
	    N(retakes_syscall), N(retakes_opaque), N(credit_runs), N(eintr_hidden));
	out(o, "  spinning: %lu yields (%lu at %lu rewritten instructions), %lu before a line, ",
	    N(spin_yields), N(spin_site_yields), N(spin_sites), N(convoy_yields));
	out_time(o, N(spin_saved_ns));
	out(o, " saved; lock holders: %lu deferred, %lu handed a P\n", N(lock_deferred),
	    N(lock_handed));
	text_top(o);
	out_histogram(o, "runnable to running", &histograms.run_delay);
	out_histogram(o, "beyond the slice", &histograms.overshoot);
	out(o, "  fairness: Jain index of CPU time %u.%04u\n", jain / 10000, jain % 10000);
}

// Cut at the end of path, which is longer than any sane one.
void stats_path(const char *from, struct text *path)
{
	for (const char *s = from; *s; s++) {
		if (s[0] == '%' && s[1] == 'p') {
			text_printf(path, "%d", os_getpid());
			s++;
		} else {
			text_printf(path, "%c", *s);
		}
	}
}

bool stats_write(int fd)
{
	struct out o;

	out_init(&o, fd);
	report_json(&o, os_nanotime());
	out_flush(&o);
	return !o.failed;
}

void stats_report(void)
{
	char buf[512];
	struct text path = {.buf = buf, .len = 0, .cap = sizeof(buf)};
	int64_t now = os_nanotime();
	int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY;
	struct out o;
	long fd;

	if (!config.stats[0])
		return;
	if (str_eq(config.stats, "1")) {
		if (!N(threads_created))
			return; // never had threads: a shell, say, on the way to the program that has
		out_init(&o, 2);
		report_text(&o, now);
		out_flush(&o);
		return;
	}
	stats_path(config.stats, &path);
	if (is_prometheus(buf)) {
		prometheus_report(buf, N(threads_created) != 0);
		return;
	}
	// A process that never had threads writes zeros. It must not do so over the figures of the
	// child it waited for: "sh -c program" with one path for both is common.
	flags |= N(threads_created) ? O_TRUNC : O_EXCL;
	fd = sys4(SYS_openat, AT_FDCWD, buf, flags, 0666);
	if (fd == -EEXIST && !N(threads_created))
		return;
	if (fd < 0) {
		log_line(LOG_ERROR, "PREEMPT_STATS: cannot write %s: error %d", buf, (int)-fd);
		return;
	}
	if (!stats_write((int)fd))
		log_line(LOG_ERROR, "PREEMPT_STATS: writing %s failed", buf);
	(void)sys1(SYS_close, fd);
}
