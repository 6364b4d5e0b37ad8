// tracereport.c: `preempt trace report`: figures and a timeline from a trace.
//
// Figures are of all events. The timeline is for the eye, and a page must open in a moment: each track has a bounded number of pieces. When there
// are more, the shortest are put together with their neighbours, again and again with twice the length; so it is done in one pass, and what is
// longer than a pixel stays.

#include "tracereport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const times_names[TIMES_KINDS][2] = {
	[TIMES_DELAY] = {"run_delay", "Runnable to running"},
	[TIMES_SLICE] = {"slice", "Time with a P"},
	[TIMES_OVERSHOOT] = {"overshoot", "End of slice to P given up"},
	[TIMES_CALL] = {"call", "System calls"},
	[TIMES_LOCK] = {"lock_wait", "Waits for mutexes and rwlocks"},
	[TIMES_WAIT] = {"wait", "Waits for conditions, semaphores, barriers"},
};

enum { PIECES = 200000, PIECES_MIN = 500 };

// --- times ---------------------------------------------------------------------------------------------

static void times_add(struct times *t, int64_t ns)
{
	uint64_t v = ns < 0 ? 0 : (uint64_t)ns;
	unsigned i = (unsigned)v;

	if (v >= 8) {
		unsigned e = 63 - (unsigned)__builtin_clzl(v);

		i = (e - 2) * 8 + (v >> (e - 3) & 7);
	}
	t->bucket[i]++;
	t->n++;
	t->sum += v;
	if (v > t->max)
		t->max = v;
}

uint64_t times_bucket(unsigned i)
{
	return i < 8 ? i : (uint64_t)(8 + i % 8) << (i / 8 - 1);
}

uint64_t times_quantile(const struct times *t, double q)
{
	uint64_t want = (uint64_t)((double)t->n * q), seen = 0;

	for (unsigned i = 0; i < TIMES_BUCKETS; i++) {
		seen += t->bucket[i];
		if (seen > want) {
			uint64_t middle = (times_bucket(i) + times_bucket(i + 1)) / 2;

			return i < 8 ? i : middle < t->max ? middle : t->max;
		}
	}
	return t->max;
}

// --- sites ---------------------------------------------------------------------------------------------

static struct site *site_of(struct sites *s, uint64_t addr, unsigned kind)
{
	size_t h = (addr ^ kind) * 0x9e3779b97f4a7c15u >> 20;

	if (2 * s->n >= s->size) {
		struct sites larger = {.size = s->size ? 2 * s->size : 64};

		larger.v = must(calloc(larger.size, sizeof(*larger.v)));
		for (size_t i = 0; i < s->size; i++)
			if (s->v[i].n)
				*site_of(&larger, s->v[i].addr, s->v[i].kind) = s->v[i];
		larger.n = s->n;
		free(s->v);
		*s = larger;
	}
	for (;; h++) {
		struct site *one = &s->v[h & (s->size - 1)];

		if (one->n && (one->addr != addr || one->kind != kind))
			continue;
		if (!one->n) {
			one->addr = addr;
			one->kind = kind;
			s->n++;
		}
		return one;
	}
}

static int by_time(const void *a, const void *b)
{
	const struct site *x = *(struct site *const *)a, *y = *(struct site *const *)b;

	if (x->ns != y->ns)
		return x->ns < y->ns ? 1 : -1;
	if (x->n != y->n)
		return x->n < y->n ? 1 : -1;
	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

const struct site **sites_sorted(const struct sites *s)
{
	const struct site **list = must(calloc(s->n + 1, sizeof(*list)));
	size_t n = 0;

	for (size_t i = 0; i < s->size; i++)
		if (s->v[i].n)
			list[n++] = &s->v[i];
	qsort(list, n, sizeof(*list), by_time);
	return list;
}

static int by_run_time(const void *a, const void *b)
{
	const struct trace_thread *x = *(struct trace_thread *const *)a,
				  *y = *(struct trace_thread *const *)b;
	uint64_t m = x->ns[THREAD_RUNNING] + x->ns[THREAD_CREDIT],
		 n = y->ns[THREAD_RUNNING] + y->ns[THREAD_CREDIT];

	return m != n ? (m < n ? 1 : -1) : x->g < y->g ? -1 : x->g > y->g;
}

struct trace_thread **threads_sorted(const struct report *r, size_t *ret_n)
{
	struct trace_thread **list = must(calloc(r->states.n + 1, sizeof(*list)));

	*ret_n = r->states.n;
	if (r->states.n)
		memcpy(list, r->states.v, r->states.n * sizeof(*list));
	qsort(list, r->states.n, sizeof(*list), by_run_time);
	return list;
}

// --- the timeline -----------------------------------------------------------------------------------------

static bool is_short(const struct track *tr, const struct piece *p)
{
	return p->end - p->start < tr->least;
}

static bool join(const struct track *tr, struct piece *last, const struct piece *p)
{
	if (!is_short(tr, p) || !is_short(tr, last) || p->start - last->end >= tr->least)
		return false;
	last->end = p->end;
	last->n += p->n;
	if (last->g != p->g || last->state != p->state)
		last->g = 0;
	return true;
}

static void add_piece(struct track *tr, struct piece p, size_t most)
{
	if (tr->n && join(tr, &tr->v[tr->n - 1], &p))
		return;
	while (tr->n >= most) {
		size_t n = 1;

		tr->least = tr->least ? 2 * tr->least : 1000;
		for (size_t i = 1; i < tr->n; i++)
			if (!join(tr, &tr->v[n - 1], &tr->v[i]))
				tr->v[n++] = tr->v[i];
		// One that is longer than all of the trace is split nowhere: the loop ends.
		tr->n = n;
		if (tr->least > INT64_MAX / 4)
			return;
	}
	if (tr->n == tr->cap) {
		tr->cap = tr->cap ? 2 * tr->cap : 64;
		tr->v = must(reallocarray(tr->v, tr->cap, sizeof(*tr->v)));
	}
	tr->v[tr->n++] = p;
}

// --- from the events ----------------------------------------------------------------------------------------

static void slice(void *arg, uint32_t p, struct trace_thread *th, int64_t start, int64_t end,
		  enum slice_end why, unsigned how)
{
	struct report *r = arg;

	times_add(&r->times[TIMES_SLICE], end - start);
	r->p_ns[p] += (uint64_t)(end - start);
	if (why == SLICE_RETAKEN)
		r->retaken[how == 1]++;
	add_piece(&r->ps[p], (struct piece){start, end, th->g, 1, (uint8_t)why, (uint8_t)how},
		  r->pieces_per_track);
}

static void waited(struct report *r, const struct trace_thread *th, int64_t ns)
{
	bool lock = th->detail == TRACE_WAIT_MUTEX || th->detail == TRACE_WAIT_RWLOCK_R ||
		    th->detail == TRACE_WAIT_RWLOCK_W;
	struct site *site = site_of(&r->locks, th->arg, th->detail);

	times_add(&r->times[lock ? TIMES_LOCK : TIMES_WAIT], ns);
	site->n++;
	site->ns += (uint64_t)ns;
	if ((uint64_t)ns > site->max)
		site->max = (uint64_t)ns;
	if (th->owner)
		site->last_owner = th->owner;
}

static size_t place_of(const struct report *r, const struct trace_thread *th)
{
	for (size_t h = th->g * 2654435761u;; h++) {
		uint32_t i = r->states.index[h & (r->states.index_size - 1)];

		if (i && r->states.v[i - 1] == th)
			return i - 1;
	}
}

static void state(void *arg, struct trace_thread *th, int64_t start, int64_t end)
{
	struct report *r = arg;
	size_t i = place_of(r, th);

	if (th->state == THREAD_BLOCKED)
		waited(r, th, end - start);
	else if (th->state == THREAD_CALL)
		times_add(&r->times[TIMES_CALL], end - start);
	if (i < TRACKS_MAX && r->threads)
		add_piece(&r->threads[i],
			  (struct piece){start, end, th->g, 1, (uint8_t)th->state, th->detail},
			  r->pieces_per_track);
}

static void event(void *arg, const struct trace_event *e, struct trace_thread *th)
{
	struct report *r = arg;

	(void)th;
	r->kinds[e->kind]++;
	if (e->kind == TRACE_GO_START && e->detail & TRACE_GRANTED && e->arg < INT64_MAX)
		times_add(&r->times[TIMES_DELAY], (int64_t)e->arg);
	if (e->kind == TRACE_GO_PREEMPT) {
		r->preempted[e->detail % 3]++;
		if (e->arg && e->arg < INT64_MAX)
			times_add(&r->times[TIMES_OVERSHOOT], (int64_t)e->arg);
	}
	if (e->kind == TRACE_REFUSE)
		r->refused[e->detail % 8]++;
	if (e->kind == TRACE_SPIN)
		site_of(&r->spins, e->arg, e->detail)->n++;
}

static void collect(struct report *r)
{
	const struct trace_sink sink = {.slice = slice, .state = state, .event = event, .arg = r};
	size_t tracks;

	trace_names_first(&r->states, r->t);
	tracks = r->states.nps + (r->states.n < TRACKS_MAX ? r->states.n : TRACKS_MAX);
	r->pieces_per_track = PIECES / (tracks ? tracks : 1);
	if (r->pieces_per_track < PIECES_MIN)
		r->pieces_per_track = PIECES_MIN;
	r->ps = must(calloc(r->states.nps + 1, sizeof(*r->ps)));
	r->p_ns = must(calloc(r->states.nps + 1, sizeof(*r->p_ns)));
	r->threads = must(calloc(TRACKS_MAX, sizeof(*r->threads)));
	trace_run(&r->states, r->t, &sink);
}

static void free_report(struct report *r)
{
	for (uint32_t p = 0; p < r->states.nps; p++)
		free(r->ps[p].v);
	for (size_t i = 0; i < TRACKS_MAX; i++)
		free(r->threads[i].v);
	free(r->ps);
	free(r->p_ns);
	free(r->threads);
	free(r->locks.v);
	free(r->spins.v);
	trace_states_free(&r->states);
}

// --- JSON ---------------------------------------------------------------------------------------------------

static json_t *json_times(const struct times *t)
{
	json_t *one = must(json_object());

	json_set(one, "count", json_integer((json_int_t)t->n));
	json_set(one, "mean", json_real(t->n ? (double)t->sum / (double)t->n : 0));
	json_set(one, "p50", json_integer((json_int_t)times_quantile(t, 0.5)));
	json_set(one, "p90", json_integer((json_int_t)times_quantile(t, 0.9)));
	json_set(one, "p99", json_integer((json_int_t)times_quantile(t, 0.99)));
	json_set(one, "max", json_integer((json_int_t)t->max));
	return one;
}

static json_t *json_sites(const struct report *r, const struct sites *sites, bool spin)
{
	const struct site **list = sites_sorted(sites);
	json_t *array = must(json_array());

	for (size_t i = 0; list[i]; i++) {
		json_t *one = must(json_object());
		char addr[32];

		snprintf(addr, sizeof(addr), "0x%lx", (unsigned long)list[i]->addr);
		json_set(one, "address", json_text(addr));
		json_set(one, "name",
			 json_text(trace_name(r->t, list[i]->addr,
					      spin && list[i]->kind != TRACE_SPIN_LOCK)));
		if (!spin) {
			json_set(one, "kind", json_text(trace_waits[list[i]->kind]));
			json_set(one, "wait_ns", json_integer((json_int_t)list[i]->ns));
			json_set(one, "max_ns", json_integer((json_int_t)list[i]->max));
		}
		json_set(one, spin ? "yields" : "waits", json_integer((json_int_t)list[i]->n));
		json_array_append_new(array, one);
	}
	free(list);
	return array;
}

static json_t *json_threads(const struct report *r)
{
	json_t *array = must(json_array());
	size_t n;
	struct trace_thread **list = threads_sorted(r, &n);

	for (size_t i = 0; i < n; i++) {
		const struct trace_thread *th = list[i];
		json_t *one = must(json_object());

		json_set(one, "id", json_integer(th->g));
		json_set(one, "tid", json_integer(th->tid));
		json_set(one, "name", json_text(th->name));
		json_set(one, "run_ns", json_integer((json_int_t)(th->ns[THREAD_RUNNING])));
		json_set(one, "credit_ns", json_integer((json_int_t)(th->ns[THREAD_CREDIT])));
		json_set(one, "runnable_ns", json_integer((json_int_t)(th->ns[THREAD_RUNNABLE])));
		json_set(one, "blocked_ns", json_integer((json_int_t)(th->ns[THREAD_BLOCKED])));
		json_set(one, "call_ns", json_integer((json_int_t)(th->ns[THREAD_CALL])));
		json_set(one, "switches", json_integer((json_int_t)th->switches));
		json_set(one, "preempted", json_integer((json_int_t)th->preempted));
		json_set(one, "yielded", json_integer((json_int_t)th->yielded));
		json_set(one, "blocked", json_integer((json_int_t)th->blocked));
		json_array_append_new(array, one);
	}
	free(list);
	return array;
}

int report_json(const struct report *r, FILE *out)
{
	static const char *const kinds[TRACE_KINDS] = {"",
						       "proc_start",
						       "proc_stop",
						       "go_create",
						       "go_thread",
						       "go_name",
						       "go_start",
						       "go_credit",
						       "go_block",
						       "go_unblock",
						       "go_preempt",
						       "go_sched",
						       "syscall_begin",
						       "syscall_block",
						       "syscall_end",
						       "syscall_blocked",
						       "go_end",
						       "retake",
						       "handoff",
						       "ask",
						       "signal",
						       "refuse",
						       "spin"};
	json_t *report = must(json_object()), *times = must(json_object()),
	       *events = must(json_object());
	uint64_t switches = 0;

	json_set(report, "pid", json_integer(r->t->h.pid));
	json_set(report, "procs", json_integer(r->t->h.procs));
	json_set(report, "elapsed_ns", json_integer(r->states.last - r->states.first));
	json_set(report, "events", json_integer((json_int_t)r->t->events));
	json_set(report, "lost_events", json_integer((json_int_t)r->t->lost));
	for (size_t i = 0; i < r->states.n; i++)
		switches += r->states.v[i]->switches;
	json_set(report, "switches", json_integer((json_int_t)switches));
	for (int i = 1; i < TRACE_KINDS; i++)
		json_set(events, kinds[i], json_integer((json_int_t)r->kinds[i]));
	json_set(report, "kinds", events);
	for (int i = 0; i < TIMES_KINDS; i++)
		json_set(times, times_names[i][0], json_times(&r->times[i]));
	json_set(report, "times_ns", times);
	json_set(report, "locks", json_sites(r, &r->locks, false));
	json_set(report, "spin_sites", json_sites(r, &r->spins, true));
	json_set(report, "threads", json_threads(r));
	return json_print(out, report);
}

// --- the command ----------------------------------------------------------------------------------------------

struct report_options {
	struct trace_files files;
	bool json;
};

enum { OPT_JSON = 0x900 };
static const struct argp_option table[] = {
	{"output", 'o', "FILE", 0, "The page (default: the trace's name and .html)", 0},
	{"json", OPT_JSON, NULL, 0, "Print the figures as JSON instead, to standard output", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct report_options *o = state->input;

	switch (key) {
	case OPT_JSON:
		o->json = true;
		return 0;
	default:
		return trace_words(key, arg, &o->files, state);
	}
}

static const struct argp report_argp = {
	.options = table,
	.parser = parse,
	.args_doc = "FILE",
	.doc = "Make one HTML page of a trace: a timeline to zoom into, histograms, and tables of "
	       "locks, places where threads spin, and threads. It needs no network.",
};

void trace_report_help(FILE *out)
{
	argp_help(&report_argp, out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK,
		  (char *)"preempt trace report");
}

int trace_report(int argc, char **argv)
{
	struct report_options o = {0};
	struct report r = {0};
	struct trace_file t;
	char *path = NULL;
	FILE *out = stdout;
	int status = 0;

	trace_begin(&report_argp, argc, argv, &o, &o.files, &t);
	if (o.files.output)
		path = must(strdup(o.files.output));
	else if (!o.json && asprintf(&path, "%s.html", o.files.input) < 0)
		must(NULL);
	if (path && strcmp(path, "-") != 0 && !(out = fopen(path, "we")))
		die("%s: %s", path, strerror(errno));
	r.t = &t;
	collect(&r);
	if (o.json)
		status = report_json(&r, out);
	else
		report_page(&r, out);
	if (fflush(out) != 0 || ferror(out))
		die("%s: %s", path ? path : "standard output", strerror(errno));
	if (path && out != stdout)
		fprintf(stderr, "preempt: wrote %s\n", path);
	free_report(&r);
	trace_names_free();
	trace_free(&t);
	free(path);
	return status;
}
