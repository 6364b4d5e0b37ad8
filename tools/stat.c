// stat.c: `preempt stat`: runs a program with the library, then prints what the scheduler did, as perf stat does.
//
// The figures are those of PREEMPT_STATS: each process writes them at its exit to a file in a directory of ours. Of processes
// that are killed, or still run when the command ends, the counters are in another file there (PREEMPT_STATS_PAGE).

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "figures.h"

enum { OPT_JSON = 256, MAX_RUNS = 1000 };

struct stat_options {
	struct launch launch;
	int runs;
	bool json, threads;
	const char *output;
};

// One run.
struct run {
	struct child child;
	struct figures figures;
};

// --- options --------------------------------------------------------------------------------------------

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct stat_options *o = state->input;

	switch (key) {
	case 'r':
		o->runs = (int)parse_count(state, "--repeat", arg, 1, MAX_RUNS);
		return 0;
	case 'o':
		o->output = arg;
		return 0;
	case 't':
		o->threads = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	default:
		return launch_words(key, &o->launch, state);
	}
}

static const struct argp_option options[] = {
	{"repeat", 'r', "N", 0, "Run N times; print means and their spread", 0},
	{"output", 'o', "FILE", 0,
	 "Print to FILE (default: standard error; JSON: standard output, after the program's)", 0},
	{"threads", 't', NULL, 0, "List the threads as well", 0},
	{"json", OPT_JSON, NULL, 0, "Print JSON: all figures, of each process and together", 0},
	{0},
};

static const struct argp *stat_argp(void)
{
	static struct argp argp = {
		.options = options,
		.parser = parse,
		.doc = "Run COMMAND with libpreempt, then print what the scheduler did.\vThe exit "
		       "code is that of COMMAND.",
	};

	return launch_argp(&argp, false);
}

void stat_help(FILE *out)
{
	argp_help(stat_argp(), out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK,
		  (char *)"preempt stat");
}

// --- the table -------------------------------------------------------------------------------------------

enum unit { COUNT, TIME, INDEX };

struct part {
	const char *key, *word;
};

static const struct row {
	const char *key; // NULL: the sum of the parts
	const char *label;
	enum unit unit;
	struct part parts[8];
} rows[] = {
	{"threads_created", "threads", COUNT, {{"threads_peak", "at most at once"}}},
	{"switches", "switches", COUNT, {{0}}},
	{"handoffs", "hand-offs", COUNT, {{0}}},
	{"preempt.requested",
	 "preemptions requested",
	 COUNT,
	 {{"preempt.cooperative", "cooperative"},
	  {"preempt.async", "async"},
	  {"preempt.forced", "forced"},
	  {"preempt.spared", "spared"}}},
	{"signals_sent", "preemption signals", COUNT, {{0}}},
	{NULL,
	 "signals refused",
	 COUNT,
	 {{"refused.locks", "locks held"},
	  {"refused.unsafe_pc", "unsafe pc"},
	  {"refused.no_table", "no table"},
	  {"refused.critical", "critical"},
	  {"refused.shim", "in the library"},
	  {"refused.stack", "stack"},
	  {"refused.syscall", "system call"}}},
	{"retakes.syscall",
	 "Ps retaken in system calls",
	 COUNT,
	 {{"retakes.opaque", "in other waits"}}},
	{"credit_runs", "runs on credit", COUNT, {{0}}},
	{"spin.yields", "yields of spinning threads", COUNT, {{0}}},
	{"lock_holder.deferred",
	 "lock holders spared",
	 COUNT,
	 {{"lock_holder.handed", "handed a P"}}},
	{"eintr_hidden", "EINTR hidden", COUNT, {{0}}},
	{"run_delay_ns.p50",
	 "runnable to running, median",
	 TIME,
	 {{"run_delay_ns.p99", "p99"}, {"run_delay_ns.max", "max"}}},
	{"overshoot_ns.p50",
	 "beyond the slice, median",
	 TIME,
	 {{"overshoot_ns.p99", "p99"}, {"overshoot_ns.max", "max"}}},
	{"fairness.jain_cpu", "Jain index of CPU time", INDEX, {{0}}},
};

static void print_value(char buf[32], double v, enum unit unit)
{
	switch (unit) {
	case TIME:
		print_time(buf, v);
		return;
	case INDEX:
		snprintf(buf, 32, "%.4f", v);
		return;
	case COUNT:
		print_count(buf, v);
		return;
	}
}

static void collect(struct sample *s, const struct run *runs, int n, const char *key)
{
	for (int i = 0; i < n; i++) {
		if (json_object_get(runs[i].figures.total, key))
			sample_add(s, figures_get(runs[i].figures.total, key));
	}
}

static void print_spread(FILE *out, const struct sample *s)
{
	double mean = sample_mean(s);

	if (s->n > 1 && mean != 0)
		fprintf(out, "%s  ( +- %.1f%% )%s", colour(out, DIM),
			100 * sample_deviation(s) / mean, colour(out, PLAIN));
}

// The parts that are not 0.
static void print_parts(FILE *out, const struct row *row, const struct run *runs, int n)
{
	const char *before = "#";
	char buf[32];

	for (const struct part *part = row->parts; part->key; part++) {
		struct sample s = {0};
		double mean;

		collect(&s, runs, n, part->key);
		mean = sample_mean(&s);
		sample_free(&s);
		if (mean == 0)
			continue;
		print_value(buf, mean, row->unit);
		fprintf(out, "%s %s %s", before, row->unit == TIME ? part->word : buf,
			row->unit == TIME ? buf : part->word);
		before = ",";
	}
}

static void print_row(FILE *out, const struct row *row, const struct run *runs, int n)
{
	struct sample s = {0};
	char buf[32];

	if (row->key) {
		collect(&s, runs, n, row->key);
	} else {
		for (int i = 0; i < n; i++) {
			double sum = 0;

			for (const struct part *part = row->parts; part->key; part++)
				sum += figures_get(runs[i].figures.total, part->key);
			sample_add(&s, sum);
		}
	}
	if (s.n && (row->unit == COUNT || sample_max(&s) > 0)) { // a histogram may be empty
		print_value(buf, sample_mean(&s), row->unit);
		fprintf(out, "%s%18s%s   %-28s", colour(out, BOLD), buf, colour(out, PLAIN),
			row->label);
		print_parts(out, row, runs, n);
		print_spread(out, &s);
		fputc('\n', out);
	}
	sample_free(&s);
}

static void print_clock(FILE *out, const char *label, const struct sample *s)
{
	char buf[32];

	snprintf(buf, sizeof buf, "%.6f s", sample_mean(s) / 1e9);
	fprintf(out, "%s%18s%s   %-28s", colour(out, BOLD), buf, colour(out, PLAIN), label);
	print_spread(out, s);
	fputc('\n', out);
}

static void print_clocks(FILE *out, const struct run *runs, int n)
{
	struct sample wall = {0}, user = {0}, sys = {0};

	for (int i = 0; i < n; i++) {
		sample_add(&wall, (double)runs[i].child.wall);
		sample_add(&user, (double)runs[i].child.user);
		sample_add(&sys, (double)runs[i].child.sys);
	}
	fputc('\n', out);
	print_clock(out, "elapsed", &wall);
	print_clock(out, "user", &user);
	print_clock(out, "system", &sys);
	sample_free(&wall);
	sample_free(&user);
	sample_free(&sys);
}

static void print_processes(FILE *out, const struct figures *f)
{
	json_t *process;
	size_t i;

	if (f->threaded < 2)
		return;
	fprintf(out, "\n%s%10s  %-16s %8s %12s %10s %12s%s\n", colour(out, BOLD), "PID", "NAME",
		"THREADS", "SWITCHES", "PREEMPTED", "DELAY-P99", colour(out, PLAIN));
	json_array_foreach(f->processes, i, process)
	{
		json_t *p = json_object_get(process, "preempt");
		char switches[32], preempted[32], delay[32];

		if (i >= f->threaded)
			break;
		print_count(switches, figures_get(process, "switches"));
		print_count(preempted, figures_get(p, "cooperative") + figures_get(p, "async") +
					       figures_get(p, "forced"));
		print_time(delay, figures_get(json_object_get(process, "run_delay_ns"), "p99"));
		fprintf(out, "%10.0f  %-16s %8.0f %12s %10s %12s\n", figures_get(process, "pid"),
			figures_name(process), figures_get(process, "threads_created"), switches,
			preempted, delay);
	}
}

static int by_run_time(const void *a, const void *b)
{
	double x = figures_get(*(json_t *const *)a, "run_ns");
	double y = figures_get(*(json_t *const *)b, "run_ns");

	return (x < y) - (x > y);
}

static void print_threads(FILE *out, const json_t *process)
{
	json_t *threads = json_object_get(process, "threads"), **v;
	size_t n = json_array_size(threads);

	v = must(calloc(n + 1, sizeof *v));
	for (size_t i = 0; i < n; i++)
		v[i] = json_array_get(threads, i);
	qsort(v, n, sizeof *v, by_run_time);
	fprintf(out, "\n%s%10s  %-16s %12s %12s %12s%s   of process %.0f\n", colour(out, BOLD),
		"TID", "NAME", "RAN", "WAITED", "SWITCHES", colour(out, PLAIN),
		figures_get(process, "pid"));
	for (size_t i = 0; i < n; i++) {
		const char *name = json_string_value(json_object_get(v[i], "name"));
		char ran[32], waited[32], switches[32];

		print_time(ran, figures_get(v[i], "run_ns"));
		print_time(waited, figures_get(v[i], "wait_ns"));
		print_count(switches, figures_get(v[i], "switches"));
		fprintf(out, "%10.0f  %-16s %12s %12s %12s\n", figures_get(v[i], "tid"),
			name ? name : "?", ran, waited, switches);
	}
	free(v);
}

static void print_command(FILE *out, char *const *command)
{
	size_t room = 60;

	for (; *command && room; command++) {
		int n = fprintf(out, "%.*s", (int)room, *command);

		room -= n > 0 && (size_t)n < room ? (size_t)n : room;
		if (command[1] && room)
			fputc(' ', out);
	}
	if (!room)
		fputs("...", out);
}

// Why there is nothing to print.
static void print_nothing(FILE *out, const struct run *run, const char *name)
{
	char buf[64];

	if (json_array_size(run->figures.processes))
		fputs("  no process of it made a second thread: the library had nothing to do\n",
		      out);
	else if (WIFSIGNALED(run->child.status))
		fprintf(out, "  no figures: it was %s before it made a second thread\n",
			child_ended(&run->child, buf));
	else
		fprintf(out,
			"  no figures: it ended by _exit, or the library was not loaded, as by "
			"static and set-user-ID programs;\n  'preempt doctor %s' says more\n",
			name);
}

static void print_table(FILE *out, const struct stat_options *o, const struct run *runs, int n)
{
	const struct run *last = &runs[n - 1];
	json_t *first = json_array_get(last->figures.processes, 0), *process;
	char quantum[32], buf[64];
	size_t i;

	fputs("\n Scheduling of '", out);
	print_command(out, o->launch.command);
	fputc('\'', out);
	if (last->figures.threaded) {
		print_time(quantum, figures_get(first, "quantum_ns"));
		fprintf(out, " (policy %s, %.0f Ps, quantum %s",
			json_string_value(json_object_get(first, "policy")),
			figures_get(last->figures.total, "procs"), quantum);
		if (last->figures.threaded > 1)
			fprintf(out, ", %zu processes with threads", last->figures.threaded);
		if (n > 1)
			fprintf(out, ", means of %d runs", n);
		fputc(')', out);
	}
	fputs(":\n\n", out);
	if (!last->figures.threaded)
		print_nothing(out, last, o->launch.command[0]);
	else
		for (i = 0; i < sizeof rows / sizeof *rows; i++)
			print_row(out, &rows[i], runs, n);
	if (last->figures.partial)
		fprintf(out,
			"\n  %zu of them did not come to its end, or ended by _exit: only its "
			"counters are known\n",
			last->figures.partial);
	if (last->figures.damaged)
		fprintf(out, "  %zu processes left no readable figures\n", last->figures.damaged);
	print_processes(out, &last->figures);
	if (o->threads) {
		json_array_foreach(last->figures.processes, i, process)
		{
			if (i < last->figures.threaded)
				print_threads(out, process);
		}
	}
	print_clocks(out, runs, n);
	if (child_failed(&last->child))
		fprintf(out, "\n  %s%s%s\n", colour(out, WARN), child_ended(&last->child, buf),
			colour(out, PLAIN));
	fputc('\n', out);
}

// --- JSON --------------------------------------------------------------------------------------------------

// With the keys of PREEMPT_STATS: "preempt.async" is "async" of the object "preempt".
static json_t *nested(const json_t *flat)
{
	json_t *object = must(json_object()), *value;
	const char *key;

	json_object_foreach((json_t *)flat, key, value)
	{
		const char *dot = strchr(key, '.');
		char outer[200];
		json_t *inner;

		if (!dot) {
			json_set(object, key, json_incref(value));
			continue;
		}
		snprintf(outer, sizeof outer, "%.*s", (int)(dot - key), key);
		inner = json_object_get(object, outer);
		if (!json_is_object(inner)) {
			inner = must(json_object());
			json_set(object, outer, inner);
		}
		json_set(inner, dot + 1, json_incref(value));
	}
	return object;
}

static json_t *json_run(const struct run *run)
{
	json_t *object = must(json_object());

	if (WIFSIGNALED(run->child.status))
		json_set(object, "signal", json_integer(WTERMSIG(run->child.status)));
	else
		json_set(object, "exit_code", json_integer(WEXITSTATUS(run->child.status)));
	json_set(object, "elapsed_ns", json_integer(run->child.wall));
	json_set(object, "user_ns", json_integer(run->child.user));
	json_set(object, "system_ns", json_integer(run->child.sys));
	json_set(object, "max_rss_kib", json_integer(run->child.max_rss));
	json_set(object, "partial", json_integer((json_int_t)run->figures.partial));
	json_set(object, "damaged", json_integer((json_int_t)run->figures.damaged));
	json_set(object, "total", nested(run->figures.total));
	json_set(object, "processes", json_incref(run->figures.processes));
	return object;
}

static void json_summary(json_t *summary, const char *key, const struct sample *s)
{
	json_t *one = must(json_object());

	json_set(one, "mean", json_real(sample_mean(s)));
	json_set(one, "stddev", json_real(sample_deviation(s)));
	json_set(one, "min", json_real(sample_min(s)));
	json_set(one, "max", json_real(sample_max(s)));
	json_set(summary, key, one);
}

static json_t *json_report(const struct stat_options *o, const struct run *runs, int n)
{
	json_t *report = must(json_object()), *array = must(json_array());
	json_t *summary = must(json_object()), *value;
	struct sample wall = {0};
	const char *key;

	json_set(report, "command", json_words(o->launch.command));
	json_set(report, "library", json_text(o->launch.library));
	for (int i = 0; i < n; i++) {
		sample_add(&wall, (double)runs[i].child.wall);
		if (json_array_append_new(array, json_run(&runs[i])) != 0)
			must(NULL);
	}
	json_set(report, "runs", array);
	json_summary(summary, "wall_ns", &wall);
	sample_free(&wall);
	json_object_foreach(runs[n - 1].figures.total, key, value)
	{
		struct sample s = {0};

		collect(&s, runs, n, key);
		json_summary(summary, key, &s);
		sample_free(&s);
	}
	json_set(report, "summary", summary);
	return report;
}

// --- the command ----------------------------------------------------------------------------------------------

static int run_once(const struct stat_options *o, struct run *run)
{
	int r;

	*run = (struct run){.child = {
				    .command = o->launch.command,
				    .library = o->launch.library,
				    .stats = figures_pattern(),
				    .in = -1,
				    .out = -1,
				    .err = -1,
			    }};
	r = child_run(&run->child);
	figures_read(&run->figures);
	return r;
}

int cmd_stat(int argc, char **argv)
{
	struct stat_options o = {.runs = 1};
	int n = 0, status = 0, r;
	struct run *runs;
	FILE *out;

	parse_options(stat_argp(), argc, argv, &o);
	out = o.json ? stdout : stderr;
	if (o.output && !(out = fopen(o.output, "we")))
		die("%s: %s", o.output, strerror(errno));
	figures_pattern(); // before tables are built, as it may fail
	launch_prepare(&o.launch);
	runs = must(calloc((size_t)o.runs, sizeof *runs));
	child_begin();
	while (n < o.runs) {
		struct run *run = &runs[n++];

		r = run_once(&o, run);
		if (r != 0)
			return r;
		if (run->child.interrupted)
			break;
	}
	if (o.json)
		status = json_print(out, json_report(&o, runs, n));
	else
		print_table(out, &o, runs, n);
	if (fflush(out) != 0 || ferror(out))
		die("%s: %s", o.output ? o.output : "the report", strerror(errno));
	if (status)
		return status;
	// The first that failed, if one did.
	r = n - 1;
	for (int i = n - 1; i >= 0; i--) {
		if (child_failed(&runs[i].child))
			r = i;
	}
	figures_end();
	status = child_exit(&runs[r].child);
	for (int i = 0; i < n; i++)
		figures_free(&runs[i].figures);
	free(runs);
	return status;
}
