// top.c: `preempt top`: what the threads of a process do, again and again: on the whole screen, or as lines and JSON for scripts.

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "topview.h"

enum { OPT_JSON = 256, WIDE = 200 };

struct options {
	struct view view;
	const char *pid;
	double delay;
	long count; // 0: until the end
	bool batch, json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	char *end;

	switch (key) {
	case 'b':
		o->batch = true;
		return 0;
	case 'n':
		o->count = parse_count(state, "-n", arg, 1, INT_MAX);
		return 0;
	case 'd':
		o->delay = strtod(arg, &end);
		if (*end || end == arg || !(o->delay >= 0.05 && o->delay <= 3600))
			argp_error(state, "-d %s: not a number of seconds from 0.05 to 3600", arg);
		return 0;
	case 's':
		for (int i = 0; i < SORTS; i++) {
			if (strcmp(arg, sort_names[i]) == 0) {
				o->view.sort = (enum sort)i;
				return 0;
			}
		}
		argp_error(state, "-s %s: not one of run, delay, for, switches, tid, name", arg);
		return 0;
	case OPT_JSON:
		o->json = o->batch = true;
		return 0;
	case ARGP_KEY_ARG:
		if (o->pid)
			argp_error(state, "one process at a time");
		o->pid = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{"batch", 'b', NULL, 0, "Print lines instead of filling the screen; once, without -n", 0},
	{"json", OPT_JSON, NULL, 0, "Print a JSON object in a line for each look", 0},
	{"count", 'n', "N", 0, "Look N times, then end", 0},
	{"delay", 'd', "SECONDS", 0, "Between two looks (1)", 0},
	{"sort", 's', "KEY", 0,
	 "Order of the threads: run (share of time with a P; the default), delay (share of time in "
	 "a "
	 "queue), for (how long in its state), switches, tid, name",
	 0},
	{0},
};

static const struct argp argp = {
	options,
	parse,
	"[PID]",
	"Show what the threads of a process do that runs with libpreempt, again and again.\v"
	"Without PID: of the only such process, or of one that is chosen from a list. Keys: q "
	"quit, "
	"s sort, r reverse, space pause, + and - delay, arrows and pages scroll.",
	NULL,
	NULL,
	NULL,
};

void top_help(FILE *out)
{
	argp_help(&argp, out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK, (char *)"preempt top");
}

// --- lines ------------------------------------------------------------------------------------------------

static void print_line(void *arg, enum line kind, const char *text)
{
	static const enum colour colours[] = {
		[LINE_TITLE] = BOLD, [LINE_COLUMNS] = BOLD, [LINE_WAITS] = WARN,
		[LINE_RUNS] = GOOD,  [LINE_HEAD] = PLAIN,   [LINE_THREAD] = PLAIN};
	bool coloured = kind != LINE_HEAD && kind != LINE_THREAD;

	(void)arg;
	printf("%s%s%s\n", coloured ? colour(stdout, colours[kind]) : "", text,
	       coloured ? colour(stdout, PLAIN) : "");
}

static void print_view(const struct options *o)
{
	const struct view *v = &o->view;

	if (o->json) {
		json_t *object = view_json(v);

		if (json_dumpf(object, stdout,
			       JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6)) != 0)
			die("standard output: %s", strerror(errno ? errno : EIO));
		json_decref(object);
		putchar('\n');
		return;
	}
	view_head(v, WIDE, 6, print_line, NULL);
	view_columns(WIDE, print_line, NULL);
	view_threads(v, WIDE, 0, v->n, print_line, NULL);
}

static int batch(struct options *o)
{
	struct timespec delay = {(time_t)o->delay, lrint(fmod(o->delay, 1) * 1e9) % 1000000000};
	long count = o->count ? o->count : 1;

	for (long i = 0; i < count; i++) {
		struct snapshot s;
		int r;

		if (i) {
			if (!o->json)
				putchar('\n');
			nanosleep(&delay, NULL);
		}
		r = snapshot_take(&o->view.target, &s);
		if (r < 0) {
			fflush(stdout);
			fprintf(stderr, "preempt: process %d %s\n", o->view.target.pid,
				snapshot_error(r));
			// That it ends while it is looked at is no failure.
			return i && r == -ESRCH ? finish_output(0) : EXIT_FAILED;
		}
		view_update(&o->view, &s);
		print_view(o);
		if (fflush(stdout) != 0)
			break;
	}
	return finish_output(0);
}

// The only process there is, for who has not said which. False: there is none, or a choice.
static bool only_one(struct options *o)
{
	struct target *v;
	size_t n = target_list(&v);

	if (n == 1) {
		o->view.target = v[0];
	} else if (n == 0) {
		fprintf(stderr,
			"preempt: no process of yours has threads that libpreempt schedules; "
			"start one with 'preempt run'\n");
	} else if (o->batch) {
		fprintf(stderr, "preempt: which process?");
		for (size_t i = 0; i < n; i++)
			fprintf(stderr, "%s %d (%s)", i ? "," : "", v[i].pid, v[i].name);
		fputc('\n', stderr);
	}
	free(v);
	return n == 1 || (n > 1 && !o->batch);
}

int cmd_top(int argc, char **argv)
{
	struct options o = {.delay = 1};
	int r;

	argp_err_exit_status = EXIT_FAILED;
	errno = argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (errno)
		die("%s", strerror(errno));
	setlocale(LC_CTYPE, "");
	if (!o.batch && !(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)))
		die("standard input and output are no terminal; -b or --json print lines");
	if (o.pid ? !target_parse(&o.view.target, o.pid) || !target_find(&o.view.target)
		  : !only_one(&o))
		return EXIT_FAILED;
	snapshot_tidy();
	r = o.batch ? batch(&o) : top_screen(&o.view, o.delay, o.count);
	view_free(&o.view);
	return r;
}
