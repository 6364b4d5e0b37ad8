// prometheus.c: the figures of PREEMPT_STATS in the text format of Prometheus, for a path that ends in .prom.
//
// For the textfile collector of node_exporter and its like: they read a directory at any time, so the file appears whole, by a rename; and
// they put many files together, so each sample says of which process it is. Histograms have a bucket for each power of two; a sum is not
// counted, so it is made of the middles of the finer buckets that are, and off by 6% at most.

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "shim.h"

#ifndef PREEMPT_VERSION
#define PREEMPT_VERSION "unknown"
#endif

// Buckets end at 2^FIRST to 2^LAST ns: 1 us to 137 s.
enum { FIRST = 10, LAST = 37 };

struct sink {
	struct text t;
	int fd;
	bool failed;
	char labels[128]; // of each sample: pid="1",command="x"
	char buf[8192];
};

static void flush(struct sink *s)
{
	if (s->t.len && !text_write_fd(&s->t, s->fd))
		s->failed = true;
	s->t.len = 0;
}

// No piece is longer than 1 KB.
static struct text *room(struct sink *s)
{
	if (s->t.len > sizeof s->buf - 1024)
		flush(s);
	return &s->t;
}

#define put(s, ...) text_printf(room(s), __VA_ARGS__)

static void put_escaped(struct text *t, const char *value)
{
	const unsigned char *v = (const unsigned char *)value;

	while (*v) {
		int n = utf8(v);

		if (n) {
			while (n-- > 0)
				text_printf(t, "%c", *v++);
			continue;
		}
		if (*v == '"' || *v == '\\')
			text_printf(t, "\\%c", *v);
		else if (*v == '\n')
			text_printf(t, "\\n");
		else if (*v > 0x7f)
			text_printf(t, "\xef\xbf\xbd"); // U+FFFD
		else
			text_printf(t, "%c", *v);
		v++;
	}
}

static void metric(struct sink *s, const char *name, const char *type, const char *help)
{
	put(s, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

// One sample; label and value may be NULL.
static void sample(struct sink *s, const char *name, const char *label, const char *value)
{
	put(s, "%s{%s", name, s->labels);
	if (label)
		put(s, ",%s=\"%s\"", label, value);
	put(s, "} ");
}

// ns as seconds, exactly.
static void seconds(struct sink *s, uint64_t ns)
{
	char digits[10];

	for (int i = 8; i >= 0; i--, ns /= 10)
		digits[i] = (char)('0' + ns % 10);
	digits[9] = 0;
	put(s, "%lu.%s", ns, digits);
}

static void number(struct sink *s, const char *name, const char *type, const char *help, uint64_t v)
{
	metric(s, name, type, help);
	sample(s, name, NULL, NULL);
	put(s, "%lu\n", v);
}

static void duration(struct sink *s, const char *name, const char *type, const char *help,
		     uint64_t ns)
{
	metric(s, name, type, help);
	sample(s, name, NULL, NULL);
	seconds(s, ns);
	put(s, "\n");
}

// Samples of one metric that differ in a label.
struct part {
	const char *value;
	uint64_t v;
};
static void parts(struct sink *s, const char *name, const char *help, const char *label,
		  const struct part *v, int n)
{
	metric(s, name, "counter", help);
	for (int i = 0; i < n; i++) {
		sample(s, name, label, v[i].value);
		put(s, "%lu\n", v[i].v);
	}
}
#define PARTS(s, name, help, label, ...)                                                           \
	do {                                                                                       \
		const struct part v_[] = {__VA_ARGS__};                                            \
		parts(s, name, help, label, v_, sizeof v_ / sizeof *v_);                           \
	} while (0)

// --- histograms -----------------------------------------------------------------------------------------

uint64_t bucket_bound(uint32_t i)
{
	return i < SUB ? i : (uint64_t)(SUB + i % SUB) << (i / SUB - 1);
}

static void histogram(struct sink *s, const char *name, const char *help, const struct histogram *h)
{
	uint64_t seen = 0, sum = 0;
	uint32_t i = 0;

	metric(s, name, "histogram", help);
	for (int power = FIRST; power <= LAST; power++) {
		uint64_t end = (uint64_t)1 << power;

		for (; i < BUCKETS && bucket_bound(i) < end; i++) {
			uint64_t n = load_relaxed(&h->bucket[i]);

			seen += n;
			sum += n * ((bucket_bound(i) + bucket_bound(i + 1)) / 2);
		}
		put(s, "%s_bucket{%s,le=\"", name, s->labels);
		seconds(s, end - 1); // times are whole ns, and le includes its own value
		put(s, "\"} %lu\n", seen);
	}
	for (; i < BUCKETS; i++) {
		uint64_t n = load_relaxed(&h->bucket[i]);

		seen += n;
		sum += n * bucket_bound(i);
	}
	put(s, "%s_bucket{%s,le=\"+Inf\"} %lu\n%s_sum{%s} ", name, s->labels, seen, name,
	    s->labels);
	seconds(s, sum);
	put(s, "\n%s_count{%s} %lu\n", name, s->labels, seen);
}

// --- threads --------------------------------------------------------------------------------------------

struct threads {
	struct sink *s;
	const char *name;
	enum { RUN, WAIT, SWITCHES } what;
	uint32_t n;
};

// Thread ids are used again, so threads have numbers as well: those that have ended in the order of that, then the others.
static void thread(const struct record *r, void *arg)
{
	struct threads *t = arg;

	put(t->s, "%s{%s,thread=\"%u\",tid=\"%d\",name=\"", t->name, t->s->labels, ++t->n, r->tid);
	put_escaped(room(t->s), r->name);
	put(t->s, "\"} ");
	if (t->what == SWITCHES)
		put(t->s, "%lu", r->switches);
	else
		seconds(t->s, t->what == RUN ? r->run_ns : r->wait_ns);
	put(t->s, "\n");
}

static void all_threads(struct sink *s, int64_t now)
{
	struct threads run = {s, "preempt_thread_run_seconds_total", RUN, 0},
		       wait = {s, "preempt_thread_wait_seconds_total", WAIT, 0},
		       switches = {s, "preempt_thread_switches_total", SWITCHES, 0};

	metric(s, run.name, "counter", "Time for which a thread held a virtual processor.");
	each_thread(thread, &run, now);
	metric(s, wait.name, "counter", "Time for which a thread waited for one.");
	each_thread(thread, &wait, now);
	metric(s, switches.name, "counter", "How often a thread was given one.");
	each_thread(thread, &switches, now);
}

// --- all of it --------------------------------------------------------------------------------------------

#define N(field) load_relaxed(&stats.field)
#define COUNTER(name, help, field) number(s, "preempt_" name "_total", "counter", help, N(field))

static void counters(struct sink *s)
{
	COUNTER("threads_created", "Threads that were scheduled.", threads_created);
	number(s, "preempt_threads_peak", "gauge", "Most of them at once.", N(threads_peak));
	COUNTER("switches", "Virtual processors given to waiting threads.", switches);
	COUNTER("handoffs", "Virtual processors handed on before a call that blocks.", handoffs);
	COUNTER("preemptions_requested", "Slices that ended while somebody waited.",
		preempt_requested);
	PARTS(s, "preempt_preemptions_total", "Threads preempted.", "how",
	      {"cooperative", N(preempt_cooperative)}, {"async", N(preempt_async)},
	      {"forced", N(preempt_forced)});
	COUNTER("preemptions_spared", "Preemptions put off for a lock that the thread held.",
		preempt_spared);
	COUNTER("signals_sent", "Preemption signals.", signals_sent);
	PARTS(s, "preempt_signals_refused_total", "Preemption signals that came at a bad place.",
	      "reason", {"locks", N(refused_locks)}, {"unsafe_pc", N(refused_unsafe_pc)},
	      {"no_table", N(refused_no_table)}, {"critical", N(refused_critical)},
	      {"shim", N(refused_shim)}, {"stack", N(refused_stack)},
	      {"syscall", N(refused_syscall)});
	PARTS(s, "preempt_retakes_total", "Virtual processors taken from threads that block.",
	      "where", {"syscall", N(retakes_syscall)}, {"opaque", N(retakes_opaque)});
	COUNTER("spin_yields", "Yields of threads that spin.", spin_yields);
	COUNTER("spin_site_yields", "Of these, at rewritten instructions.", spin_site_yields);
	COUNTER("convoy_yields", "Threads that let others run before they got in line.",
		convoy_yields);
	number(s, "preempt_spin_sites", "gauge", "Rewritten instructions.", N(spin_sites));
	duration(s, "preempt_spin_saved_seconds_total", "counter",
		 "Rests of slices that spinning threads gave up.", N(spin_saved_ns));
	COUNTER("lock_holders_deferred", "Lock holders spared.", lock_deferred);
	COUNTER("lock_holders_handed", "Lock holders handed a virtual processor.", lock_handed);
	COUNTER("eintr_hidden", "Interrupted calls repeated.", eintr_hidden);
	COUNTER("credit_runs", "Returns from waits that ran on credit.", credit_runs);
}

static void labels_of_process(struct sink *s)
{
	struct text t = {s->labels, 0, sizeof s->labels};
	char name[32] = "";

	os_thread_name(name);
	if (os_read_file("/proc/self/comm", name, sizeof name) > 0) // of the main thread
		for (char *c = name; *c; c++)
			if (*c == '\n' && !c[1])
				*c = 0;
	text_printf(&t, "pid=\"%d\",command=\"", os_getpid());
	put_escaped(&t, name);
	text_printf(&t, "\"");
}

bool prometheus_write(int fd)
{
	const struct policy *policy = sched.policy ? sched.policy : config.policy;
	int64_t now = os_nanotime();
	struct sink sink, *s = &sink;
	uint32_t jain;

	s->t = (struct text){s->buf, 0, sizeof s->buf};
	s->fd = fd;
	s->failed = false;
	labels_of_process(s);
	jain = jain_cpu(now);
	metric(s, "preempt_info", "gauge", "Always 1.");
	put(s, "preempt_info{%s,version=\"%s\",policy=\"%s\"} 1\n", s->labels, PREEMPT_VERSION,
	    policy ? policy->name : "none");
	number(s, "preempt_procs", "gauge", "Virtual processors.", load_relaxed(&sched.nprocs));
	duration(s, "preempt_quantum_seconds", "gauge", "The time slice.",
		 (uint64_t)config.quantum);
	duration(s, "preempt_elapsed_seconds", "gauge", "Since the first thread was created.",
		 sched.start_time ? (uint64_t)(now - sched.start_time) : 0);
	metric(s, "preempt_fairness_jain", "gauge", "Jain index of the threads' shares of time.");
	sample(s, "preempt_fairness_jain", NULL, NULL);
	put(s, "%u.%04u\n", jain / 10000, jain % 10000);
	counters(s);
	histogram(s, "preempt_run_delay_seconds", "From runnable to running; the sum is estimated.",
		  &histograms.run_delay);
	histogram(s, "preempt_overshoot_seconds",
		  "From the end of a slice to the next thread, when one waited; the sum is "
		  "estimated.",
		  &histograms.overshoot);
	all_threads(s, now);
	flush(s);
	return !s->failed;
}

bool is_prometheus(const char *path)
{
	size_t n = str_len(path);

	return n > 5 && str_eq(path + n - 5, ".prom");
}

// replace: also a file that is there. A process that never had threads does not write over the figures of one that had.
void prometheus_report(const char *path, bool replace)
{
	enum { NOREPLACE = 1 }; // RENAME_NOREPLACE
	char draft[560];
	struct text t = {draft, 0, sizeof draft};
	long fd, r;

	text_printf(&t, "%s.%d", path, os_getpid()); // no collector takes it for its own
	fd = sys4(SYS_openat, AT_FDCWD, draft,
		  O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0666);
	if (fd < 0) {
		log_line(LOG_ERROR, "PREEMPT_STATS: cannot write %s: error %d", draft, (int)-fd);
		return;
	}
	r = prometheus_write((int)fd) ? 0 : -EIO;
	(void)sys1(SYS_close, fd);
	if (r == 0)
		r = sys5(SYS_renameat2, AT_FDCWD, draft, AT_FDCWD, path, replace ? 0 : NOREPLACE);
	if (r == 0)
		return;
	sys1(SYS_unlink, draft);
	if (replace)
		log_line(LOG_ERROR, "PREEMPT_STATS: writing %s failed: error %d", path, (int)-r);
}
