// topview.c: the figures of `preempt top`: two snapshots become shares and rates, in rows of text or as JSON.

#include "topview.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

const char *const sort_names[SORTS] = {"run", "delay", "for", "switches", "tid", "name"};

// --- rows -----------------------------------------------------------------------------------------------

struct known {
	int tid; // as the process sees it
	int outer;
};

// In a container threads have other numbers inside than outside.
static int outer_tid(const struct target *t, int tid)
{
	static struct known *known;
	static size_t n;
	char path[64], *line = NULL;
	size_t cap = 0;

	if (t->inner == t->pid)
		return tid;
	for (size_t i = 0; i < n; i++) {
		if (known[i].tid == tid)
			return known[i].outer;
	}
	// Numbers are mostly given in order: the distance is that of the process.
	snprintf(path, sizeof path, "/proc/%d/task/%d/status", t->pid, tid + t->pid - t->inner);
	for (FILE *f = fopen(path, "re"); f; f = NULL) {
		while (getline(&line, &cap, f) > 0) {
			if (strncmp(line, "NSpid:", 6) == 0 &&
			    atoi(strrchr(line, '\t') + 1) == tid) {
				known = must(realloc(known, (n + 1) * sizeof *known));
				known[n++] = (struct known){tid, tid + t->pid - t->inner};
			}
		}
		fclose(f);
	}
	free(line);
	return n && known[n - 1].tid == tid ? known[n - 1].outer : -1;
}

static uint64_t cpu_time(int pid, int tid)
{
	unsigned long ns = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", pid, tid);
	f = fopen(path, "re");
	if (f) {
		if (fscanf(f, "%lu", &ns) != 1)
			ns = 0;
		fclose(f);
	}
	return ns;
}

static int by_identity(const void *a, const void *b)
{
	const struct snapshot_thread *x = *(const struct snapshot_thread *const *)a;
	const struct snapshot_thread *y = *(const struct snapshot_thread *const *)b;

	if (x->goid != y->goid)
		return x->goid < y->goid ? -1 : 1;
	return (x->tid > y->tid) - (x->tid < y->tid);
}

static double share(uint64_t now, uint64_t before, double ns)
{
	double part = now > before && ns > 0 ? (double)(now - before) / ns : 0;

	return part < 1 ? part : 1;
}

static double rate(uint64_t now, uint64_t before, double seconds)
{
	return now > before && seconds > 0 ? (double)(now - before) / seconds : 0;
}

static void fill(const struct view *v, struct row *row, const struct snapshot_thread *was)
{
	static const struct snapshot_thread none;
	const struct snapshot_thread *t = row->t;
	double ns = v->seconds * 1e9;
	int tid = outer_tid(&v->target, t->tid);

	if (!was) // all of it is new: it began after the last snapshot, or there is no last one
		was = &none;
	row->run = share(t->run_ns, was->run_ns, ns);
	row->delay = share(t->wait_ns, was->wait_ns, ns);
	row->switches = rate(t->switches, was->switches, v->seconds);
	row->signals = rate(t->signals, was->signals, v->seconds);
	row->in_state = t->since ? v->now.head->now - t->since : -1;
	if (tid > 0) {
		target_comm(v->target.pid, tid, row->name);
		row->cpu_ns = cpu_time(v->target.pid, tid);
	}
}

void view_update(struct view *v, struct snapshot *s)
{
	const struct snapshot_thread **old = NULL;
	const struct snapshot_head *b;
	size_t n_old = 0;

	snapshot_free(&v->before);
	v->before = v->now;
	v->now = *s;
	*s = (struct snapshot){0};
	// Another process, after an exec, or figures that make no sense.
	if (v->before.head && (v->before.head->started != v->now.head->started ||
			       v->before.head->now >= v->now.head->now))
		snapshot_free(&v->before);
	b = v->before.head;
	v->seconds = (double)(v->now.head->now - (b ? b->now : v->now.head->started)) / 1e9;
	if (b) {
		n_old = b->nthreads;
		old = must(calloc(n_old + 1, sizeof *old));
		for (size_t i = 0; i < n_old; i++)
			old[i] = &v->before.threads[i];
		qsort(old, n_old, sizeof *old, by_identity);
	}
	free(v->rows);
	v->n = v->now.head->nthreads;
	v->rows = must(calloc(v->n + 1, sizeof *v->rows));
	for (size_t i = 0; i < v->n; i++) {
		const struct snapshot_thread *t = &v->now.threads[i], **was = NULL;

		v->rows[i].t = t;
		if (old)
			was = bsearch(&t, old, n_old, sizeof *old, by_identity);
		fill(v, &v->rows[i], was ? *was : NULL);
	}
	free(old);
	view_sort(v);
}

void view_free(struct view *v)
{
	snapshot_free(&v->now);
	snapshot_free(&v->before);
	free(v->rows);
	v->rows = NULL;
	v->n = 0;
}

static int compare(double a, double b)
{
	return (a < b) - (a > b); // most first
}

static int by_sort(const void *a, const void *b, void *arg)
{
	const struct row *x = a, *y = b;
	const struct view *v = arg;
	int r = 0;

	switch (v->sort) {
	case SORT_RUN:
		r = compare(x->run, y->run);
		break;
	case SORT_DELAY:
		r = compare(x->delay, y->delay);
		break;
	case SORT_FOR:
		r = compare((double)x->in_state, (double)y->in_state);
		break;
	case SORT_SWITCHES:
		r = compare(x->switches, y->switches);
		break;
	case SORT_NAME:
		r = strcmp(x->name, y->name);
		break;
	case SORT_TID:
	case SORTS:
		break;
	}
	if (r == 0)
		r = (x->t->tid > y->t->tid) - (x->t->tid < y->t->tid);
	return v->reverse ? -r : r;
}

void view_sort(struct view *v)
{
	if (v->n)
		qsort_r(v->rows, v->n, sizeof *v->rows, by_sort, v);
}

// --- words ----------------------------------------------------------------------------------------------

static const struct {
	const char *brief, *name;
} reasons[WAIT_REASONS] = {
	[WAIT_NONE] = {"waiting", "waiting"},
	[WAIT_MUTEX] = {"mutex", "pthread_mutex_lock"},
	[WAIT_COND] = {"cond", "pthread_cond_wait"},
	[WAIT_SEM] = {"sem", "sem_wait"},
	[WAIT_RWLOCK_R] = {"rdlock", "pthread_rwlock_rdlock"},
	[WAIT_RWLOCK_W] = {"wrlock", "pthread_rwlock_wrlock"},
	[WAIT_BARRIER] = {"barrier", "pthread_barrier_wait"},
	[WAIT_ONCE] = {"once", "pthread_once"},
};

static const char *state_of(const struct snapshot_thread *t)
{
	switch ((enum g_status)t->status) {
	case G_RUNNABLE:
		return t->tid ? "runnable" : "starting";
	case G_PREEMPTED:
		return "preempted";
	case G_RUNNING:
		return t->tid ? "running" : "starting";
	case G_SYSCALL:
		return "syscall";
	case G_WAITING:
		return t->tid ? "waiting" : "starting";
	case G_IDLE:
	case G_DEAD:
	default:
		return "?";
	}
}

// What it waits for, or NULL: nothing but a P.
static const char *reason_of(const struct snapshot_thread *t, bool brief)
{
	if (t->status == G_SYSCALL && t->flags & SNAPSHOT_JOINS)
		return brief ? "join" : "pthread_join";
	if (t->status != G_WAITING || !t->tid)
		return NULL;
	if (brief && t->flags & SNAPSHOT_MOVED)
		return "mutex";
	return brief ? reasons[t->reason].brief : reasons[t->reason].name;
}

static void brief_time(char buf[16], int64_t ns)
{
	if (ns < 0)
		strcpy(buf, "-");
	else if (ns < 1000000)
		snprintf(buf, 16, "%ldus", (long)(ns / 1000));
	else if (ns < 10000000000)
		snprintf(buf, 16, "%ldms", (long)(ns / 1000000));
	else if (ns < 6000000000000)
		snprintf(buf, 16, "%lds", (long)(ns / 1000000000));
	else
		snprintf(buf, 16, "%ldmin", (long)(ns / 60000000000));
}

static void brief_count(char buf[16], double v)
{
	if (v < 10 && v > 0)
		snprintf(buf, 16, "%.1f", v);
	else if (v < 100000)
		snprintf(buf, 16, "%.0f", v);
	else if (v < 1e8)
		snprintf(buf, 16, "%.0fk", v / 1e3);
	else
		snprintf(buf, 16, "%.0fM", v < 1e15 ? v / 1e6 : 1e9);
}

void view_clip(char *text, int cols)
{
	char *from = text, *to = text;
	mbstate_t state = {0};

	while (*from) {
		wchar_t c;
		size_t n = mbrtowc(&c, from, strlen(from), &state);
		int width = n == (size_t)-1 || n == (size_t)-2 ? -1 : wcwidth(c);

		if (width < 0) {
			state = (mbstate_t){0};
			n = 1;
			*from = '?';
			width = 1;
		}
		if (width > cols)
			break;
		cols -= width;
		memmove(to, from, n);
		to += n;
		from += n;
	}
	*to = 0;
}

// --- text -------------------------------------------------------------------------------------------------

enum column { C_TID, C_STATE, C_FOR, C_P, C_RUN, C_DELAY, C_SWITCHES, C_SIGNALS, C_OWNER, COLUMNS };
static const struct {
	const char *head;
	int width;
	int drop; // on a narrow terminal, the greatest first; 0: never
} columns[COLUMNS] = {
	[C_TID] = {"TID", 7, 0},	   [C_STATE] = {"STATE", -9, 0},
	[C_FOR] = {"FOR", 7, 1},	   [C_P] = {"P", 3, 5},
	[C_RUN] = {"RUN%", 5, 0},	   [C_DELAY] = {"WAIT%", 5, 2},
	[C_SWITCHES] = {"SWITCH/s", 8, 4}, [C_SIGNALS] = {"SIGNAL/s", 8, 6},
	[C_OWNER] = {"HELD-BY", 7, 3},
};
enum { NAME_LEAST = 8, LINE_MOST = 512 };

static bool shown(int column, int cols)
{
	int left = 6;

	for (; left > 0; left--) {
		int width = NAME_LEAST;

		for (int c = 0; c < COLUMNS; c++)
			width += columns[c].drop <= left ? abs(columns[c].width) + 1 : 0;
		if (width <= cols)
			break;
	}
	return columns[column].drop <= left;
}

static void cell(char buf[16], const struct row *row, int column)
{
	const struct snapshot_thread *t = row->t;
	const char *reason = reason_of(t, true);

	buf[0] = 0;
	switch ((enum column)column) {
	case C_TID:
		snprintf(buf, 16, "%d", t->tid);
		return;
	case C_STATE:
		snprintf(buf, 16, "%s", reason ? reason : state_of(t));
		return;
	case C_FOR:
		brief_time(buf, row->in_state);
		return;
	case C_P:
		snprintf(buf, 16, t->p < 0 ? "-" : "%d", t->p);
		return;
	case C_RUN:
		snprintf(buf, 16, "%.1f", 100 * row->run);
		return;
	case C_DELAY:
		snprintf(buf, 16, "%.1f", 100 * row->delay);
		return;
	case C_SWITCHES:
		brief_count(buf, row->switches);
		return;
	case C_SIGNALS:
		brief_count(buf, row->signals);
		return;
	case C_OWNER:
		if (t->owner)
			snprintf(buf, 16, "%d", t->owner);
		else
			strcpy(buf, "-");
		return;
	case COLUMNS:
		return;
	}
}

static void put_row(int cols, const struct row *row, enum line kind, view_line_fn *line, void *arg)
{
	char text[LINE_MOST], buf[16];
	int at = 0;

	for (int c = 0; c < COLUMNS; c++) {
		if (!shown(c, cols))
			continue;
		if (row)
			cell(buf, row, c);
		at += snprintf(text + at, sizeof text - (size_t)at, "%*s ", columns[c].width,
			       row ? buf : columns[c].head);
	}
	snprintf(text + at, sizeof text - (size_t)at, "%s", row ? row->name : "NAME");
	view_clip(text, cols);
	line(arg, kind, text);
}

void view_columns(int cols, view_line_fn *line, void *arg)
{
	put_row(cols, NULL, LINE_COLUMNS, line, arg);
}

void view_threads(const struct view *v, int cols, size_t first, size_t most, view_line_fn *line,
		  void *arg)
{
	for (size_t i = first; i < v->n && i - first < most; i++) {
		unsigned status = v->rows[i].t->status;

		put_row(cols, &v->rows[i],
			status == G_RUNNING				? LINE_RUNS
			: status == G_RUNNABLE || status == G_PREEMPTED ? LINE_WAITS
									: LINE_THREAD,
			line, arg);
	}
}

struct counts {
	uint32_t running, runnable, waiting, calls;
};

static struct counts count(const struct view *v)
{
	struct counts c = {0};

	for (size_t i = 0; i < v->n; i++) {
		switch ((enum g_status)v->rows[i].t->status) {
		case G_RUNNING:
			c.running++;
			break;
		case G_RUNNABLE:
		case G_PREEMPTED:
			c.runnable++;
			break;
		case G_SYSCALL:
			c.calls++;
			break;
		case G_WAITING:
			c.waiting++;
			break;
		case G_IDLE:
		case G_DEAD:
		default:
			break;
		}
	}
	return c;
}

// Figures of the process, between the two snapshots. Counters are in the order of struct stats.
static double per_second(const struct view *v, size_t offset)
{
	size_t i = offset / sizeof(uint64_t);
	const struct snapshot_head *b = v->before.head;

	return rate(v->now.head->counter[i], b ? b->counter[i] : 0, v->seconds);
}
#define RATE(field) per_second(v, offsetof(struct stats, field))
_Static_assert(offsetof(struct stats, credit_runs) < SNAPSHOT_COUNTERS * sizeof(uint64_t),
	       "all counters are in a snapshot");

static void head_delay(const struct view *v, char *text, size_t size)
{
	const struct histogram *b = v->before.head ? &v->before.head->run_delay : NULL;
	const struct histogram *h = &v->now.head->run_delay;
	char median[32], tail[32];
	uint64_t n, n_tail;

	print_time(median, (double)snapshot_percentile(h, b, 50, &n));
	print_time(tail, (double)snapshot_percentile(h, b, 99, &n_tail));
	if (n)
		snprintf(text, size, "Run-queue delay: median %s, p99 %s", median, tail);
	else
		snprintf(text, size, "Run-queue delay: nobody waited for a P");
}

static void head_spin(const struct view *v, char *text, size_t size)
{
	const struct snapshot_head *h = v->now.head;
	uint64_t sites = h->counter[offsetof(struct stats, spin_sites) / sizeof(uint64_t)];
	char yields[16];
	size_t at;

	brief_count(yields, RATE(spin_yields));
	at = (size_t)snprintf(text, size, "Spinning: %s yields/s; %lu sites", yields,
			      (unsigned long)sites);
	for (uint32_t i = 0; i < h->nmodules && at < size; i++) {
		const char *leaf = strrchr(v->now.modules[i].path, '/');

		at += (size_t)snprintf(text + at, size - at, "%s%s", i ? ", " : " in ",
				       leaf ? leaf + 1 : v->now.modules[i].path);
	}
}

static void head_ps(const struct view *v, char *text, size_t size)
{
	size_t at = (size_t)snprintf(text, size, "Ps:");

	for (uint32_t i = 0; i < v->now.head->nps && at < size; i++) {
		const struct snapshot_p *p = &v->now.ps[i];
		const struct snapshot_thread *t = NULL;

		for (size_t k = 0; k < v->n && p->goid && !t; k++) {
			if (v->rows[k].t->goid == p->goid)
				t = v->rows[k].t;
		}
		if (t)
			at += (size_t)snprintf(text + at, size - at, " %u:%d%s", p->id, t->tid,
					       t->status == G_SYSCALL ? "(call)" : "");
		else
			at += (size_t)snprintf(text + at, size - at, " %u:%s", p->id,
					       p->state == P_IDLE ? "idle" : "-");
		if (p->queued && at < size)
			at += (size_t)snprintf(text + at, size - at, "+%u", p->queued);
	}
}

int view_head(const struct view *v, int cols, int most, view_line_fn *line, void *arg)
{
	const struct snapshot_head *h = v->now.head;
	struct counts c = count(v);
	char text[6][LINE_MOST], up[16], quantum[32], a[16], b[16], d[16], e[16], f[16];
	int n = most < 6 ? most : 6;

	brief_time(up, h->now - h->started);
	print_time(quantum, (double)h->quantum);
	snprintf(text[0], LINE_MOST, "preempt top: %s (%d), up %s, %u Ps, policy %s, quantum %s%s",
		 v->target.name, v->target.pid, up, h->procs, h->policy, quantum,
		 h->stopping ? ", stopped" : "");
	snprintf(text[1], LINE_MOST,
		 "Threads: %u: %u running, %u runnable, %u waiting, %u in calls%s", h->threads,
		 c.running, c.runnable, c.waiting, c.calls,
		 h->left_out ? "; not all are shown" : "");
	head_delay(v, text[2], LINE_MOST);
	brief_count(a, RATE(switches));
	brief_count(b, RATE(preempt_cooperative));
	brief_count(d, RATE(preempt_async));
	brief_count(e, RATE(preempt_forced));
	brief_count(f, RATE(retakes_syscall) + RATE(retakes_opaque));
	snprintf(text[3], LINE_MOST,
		 "Switches/s: %s; preempted/s: %s in calls, %s async, %s forced; retaken/s: %s", a,
		 b, d, e, f);
	head_spin(v, text[4], LINE_MOST);
	head_ps(v, text[5], LINE_MOST);
	for (int i = 0; i < n; i++) {
		view_clip(text[i], cols);
		line(arg, i ? LINE_HEAD : LINE_TITLE, text[i]);
	}
	return n;
}

// --- JSON --------------------------------------------------------------------------------------------------

// JSON's reader takes no numbers beyond those of int64_t, not even as a sum.
static uint64_t at_most(uint64_t v, uint64_t most)
{
	return v < most ? v : most;
}

static void copy_histogram(struct histogram *to, const struct histogram *from)
{
	to->max = at_most(from->max, INT64_MAX);
	for (int i = 0; i < BUCKETS; i++)
		to->bucket[i] = at_most(from->bucket[i], INT64_MAX / BUCKETS);
}

// The object of PREEMPT_STATS, made of the snapshot's counters.
static json_t *figures(const struct snapshot_head *h)
{
	FILE *f = tmpfile();
	json_t *object = NULL;

	memset(&stats, 0, sizeof stats);
	for (int i = 0; i < SNAPSHOT_COUNTERS; i++)
		((uint64_t *)(void *)&stats)[i] = at_most(h->counter[i], INT64_MAX);
	copy_histogram(&histograms.run_delay, &h->run_delay);
	copy_histogram(&histograms.overshoot, &h->overshoot);
	sched.nprocs = h->procs;
	sched.policy = policy_named(h->policy);
	sched.start_time = h->started;
	config.quantum = h->quantum;
	if (f && stats_write(fileno(f))) {
		rewind(f);
		object = json_loadf(f, 0, NULL);
	}
	if (f)
		fclose(f);
	if (!object)
		die("figures: out of memory, or no room in TMPDIR");
	return object;
}

static json_t *json_p(const struct snapshot_p *p, int64_t now)
{
	static const char *const states[] = {"idle",	"running", "syscall",
					     "stopped", "dead",	   "scheduling"};

	return must(json_pack("{s:i, s:s, s:i, s:I, s:i, s:I}", "id", (int)p->id, "state",
			      states[p->state], "thread", (int)p->goid, "slice_ns",
			      (json_int_t)(p->since && p->since < now ? now - p->since : 0),
			      "queued", (int)p->queued, "schedtick", (json_int_t)p->schedtick));
}

static json_t *json_row(const struct row *row)
{
	const struct snapshot_thread *t = row->t;
	const char *reason = reason_of(t, false);
	json_t *o = must(json_pack("{s:i, s:i, s:o, s:s, s:s?}", "thread", (int)t->goid, "tid",
				   t->tid, "name", json_text(row->name), "state", state_of(t),
				   "wait_reason", reason));
	char object[32];

	json_set(o, "in_state_ns", row->in_state < 0 ? json_null() : json_integer(row->in_state));
	json_set(o, "p", t->p < 0 ? json_null() : json_integer(t->p));
	json_set(o, "cpu", json_integer(t->cpu));
	json_set(o, "run_ns", json_integer((json_int_t)t->run_ns));
	json_set(o, "wait_ns", json_integer((json_int_t)t->wait_ns));
	json_set(o, "cpu_ns", json_integer((json_int_t)row->cpu_ns));
	json_set(o, "switches", json_integer((json_int_t)t->switches));
	json_set(o, "signals", json_integer(t->signals));
	json_set(o, "locks", json_integer(t->locks));
	json_set(o, "run_share", json_real(row->run));
	json_set(o, "delay_share", json_real(row->delay));
	json_set(o, "asked", json_boolean(t->flags & SNAPSHOT_ASKED));
	json_set(o, "in_handler", json_boolean(t->flags & SNAPSHOT_HANDLER));
	json_set(o, "on_credit", json_boolean(t->flags & SNAPSHOT_STRAY));
	if (t->object) {
		snprintf(object, sizeof object, "0x%lx", (unsigned long)t->object);
		json_set(o, "object", json_string(object));
	}
	if (t->owner)
		json_set(o, "owner", json_integer(t->owner));
	return o;
}

json_t *view_json(const struct view *v)
{
	const struct snapshot_head *h = v->now.head;
	const struct histogram *b = v->before.head ? &v->before.head->run_delay : NULL;
	json_t *o = figures(h), *threads = must(json_array()), *ps = must(json_array()),
	       *spinning = must(json_array());
	uint64_t n, p50 = snapshot_percentile(&h->run_delay, b, 50, &n),
		    p99 = snapshot_percentile(&h->run_delay, b, 99, &n);

	json_object_del(o, "fairness"); // of the exited threads too, which are not here
	json_object_del(o, "threads");
	json_set(o, "pid", json_integer(v->target.pid));
	json_set(o, "name", json_text(v->target.name));
	json_set(o, "elapsed_ns", json_integer(h->now - h->started));
	json_set(o, "idle_procs", json_integer(h->idle));
	json_set(o, "demand", json_integer(h->demand));
	json_set(o, "threads_live", json_integer(h->threads));
	json_set(o, "threads_left_out", json_integer(h->left_out));
	json_set(o, "stopped", json_boolean(h->stopping));
	json_set(o, "interval",
		 must(json_pack("{s:f, s:f, s:I, s:I, s:I}", "seconds", v->seconds, "switches_rate",
				RATE(switches), "run_delays", (json_int_t)n, "run_delay_p50_ns",
				(json_int_t)p50, "run_delay_p99_ns", (json_int_t)p99)));
	for (uint32_t i = 0; i < h->nps; i++)
		json_array_append_new(ps, json_p(&v->now.ps[i], h->now));
	for (size_t i = 0; i < v->n; i++)
		json_array_append_new(threads, json_row(&v->rows[i]));
	for (uint32_t i = 0; i < h->nmodules; i++)
		json_array_append_new(spinning, json_text(v->now.modules[i].path));
	json_set(o, "ps", ps);
	json_set(o, "spin_modules", spinning);
	json_set(o, "threads", threads);
	return o;
}
