// statsreport.c: what PREEMPT_STATS writes at exit: a summary for people, or JSON (prometheus.c has the third form).
//
// There is no stdio here: text of any length goes through a small buffer, and names that a program may have set to
// anything come out as valid JSON.

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "shim.h"

#ifndef PREEMPT_VERSION
#define PREEMPT_VERSION "unknown"
#endif

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
