// trace.c: `preempt trace`: finds the subcommand; `record` runs a program with PREEMPT_TRACE.

#include "trace.h"

#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	void (*help)(FILE *out);
} verbs[] = {
	{"record", trace_record, trace_record_help},
	{"export", trace_export, trace_export_help},
	{"report", trace_report, trace_report_help},
};
enum { NVERBS = sizeof(verbs) / sizeof(*verbs) };

void trace_help(FILE *out)
{
	for (int i = 0; i < NVERBS; i++) {
		if (i)
			fputc('\n', out);
		verbs[i].help(out);
	}
}

int cmd_trace(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	char *full;

	if (strcmp(name, "--help") == 0 || strcmp(name, "-?") == 0) {
		trace_help(stdout);
		return finish_output(0);
	}
	for (int i = 0; i < NVERBS; i++) {
		if (strcmp(name, verbs[i].name) != 0)
			continue;
		if (asprintf(&full, "preempt trace %s", name) < 0)
			must(NULL);
		argv[1] = full;
		return verbs[i].run(argc - 1, argv + 1);
	}
	die("trace: '%s' is none of record, export and report; see 'preempt help trace'", name);
}

// Of the events, and of what is missing.
const char *trace_lost_text(const struct trace_file *t, char buf[200])
{
	if (!t->lost)
		return "none lost";
	snprintf(buf, 200, "%lu lost%s%s", (unsigned long)t->lost,
		 t->h.error ? ": the file could not be written: " : "",
		 t->h.error ? strerror(t->h.error) : "");
	return buf;
}

// --- export, report ---------------------------------------------------------------------------------

error_t trace_words(int key, char *arg, struct trace_files *f, struct argp_state *state)
{
	switch (key) {
	case 'o':
		f->output = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (f->input)
			argp_error(state, "more than one trace");
		f->input = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no trace given");
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

void trace_begin(const struct argp *argp, int argc, char **argv, void *options,
		 const struct trace_files *f, struct trace_file *ret_trace)
{
	const char *why;
	error_t err;

	argp_err_exit_status = EXIT_FAILED;
	err = argp_parse(argp, argc, argv, 0, NULL, options);
	if (err)
		die("%s", strerror(err));
	why = trace_read(ret_trace, f->input);
	if (why)
		die("%s %s", f->input, why);
}

// --- record -------------------------------------------------------------------------------------------

struct record_options {
	struct launch launch;
	const char *output;
	bool quiet;
};

static const struct argp_option record_table[] = {
	{"output", 'o', "FILE", 0, "The trace; %p in it is the process id (default: preempt.trace)",
	 0},
	{"quiet", 'Q', NULL, 0, "Say nothing at the end", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct record_options *o = state->input;

	switch (key) {
	case 'o':
		o->output = arg;
		return 0;
	case 'Q':
		o->quiet = true;
		return 0;
	default:
		return launch_words(key, &o->launch, state);
	}
}

static const struct argp *record_argp(void)
{
	static struct argp argp = {
		.options = record_table,
		.parser = parse,
		.doc = "Run COMMAND with libpreempt and write a trace of what its threads do.\v"
		       "'preempt trace report FILE' makes a page of it, 'preempt trace export "
		       "FILE' "
		       "is for ui.perfetto.dev. With %p in FILE each process has a trace of its "
		       "own.",
	};

	return launch_argp(&argp, true);
}

void trace_record_help(FILE *out)
{
	argp_help(record_argp(), out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK,
		  (char *)"preempt trace record");
}

// The library takes a path from where the process is when it makes its first thread, which may be elsewhere.
static char *absolute(const char *path)
{
	char *here = getcwd(NULL, 0), *whole;

	if (*path == '/' || !here)
		whole = must(strdup(path));
	else if (asprintf(&whole, "%s/%s", here, path) < 0)
		must(NULL);
	free(here);
	return whole;
}

static void say_one(const char *path)
{
	struct trace_file t;
	char lost[200], span[32];
	struct trace_states s = {0};
	const char *why = trace_read(&t, path);

	if (why) {
		fprintf(stderr, "preempt: %s %s\n", path, why);
	} else {
		trace_names_first(&s, &t);
		print_time(span, (double)(s.last - s.first));
		fprintf(stderr, "preempt: %lu events of %s in %s, %s\n", (unsigned long)t.events,
			span, path, trace_lost_text(&t, lost));
		trace_states_free(&s);
	}
	trace_free(&t);
}

static void say(const char *pattern)
{
	char *p = must(strdup(pattern)), *at = strstr(p, "%p");
	glob_t g;

	if (!at) {
		if (access(p, F_OK) == 0)
			say_one(p);
		else
			fprintf(stderr,
				"preempt: no trace: no process of it made a second thread\n");
		free(p);
		return;
	}
	at[0] = '*';
	memmove(at + 1, at + 2, strlen(at + 2) + 1);
	if (glob(p, 0, NULL, &g) == 0) {
		for (size_t i = 0; i < g.gl_pathc; i++)
			say_one(g.gl_pathv[i]);
	}
	globfree(&g);
	free(p);
}

int trace_record(int argc, char **argv)
{
	struct record_options o = {.output = "preempt.trace"};
	struct child child = {.in = -1, .out = -1, .err = -1};
	char *path;
	int r;

	parse_options(record_argp(), argc, argv, &o);
	path = absolute(o.output);
	if (strlen(path) > 255)
		die("%s: too long", path);
	// An old one would be taken for this program's if that makes none. What is no trace stays, and the library says so.
	if (!strstr(path, "%p")) {
		struct trace_file old;

		if (!trace_read(&old, path) && unlink(path) != 0)
			die("%s: %s", path, strerror(errno));
		trace_free(&old);
	}
	set_env("PREEMPT_TRACE", path);
	launch_prepare(&o.launch);
	child.command = o.launch.command;
	child.library = o.launch.library;
	child_begin();
	r = child_run(&child);
	if (r != 0)
		return r;
	if (!o.quiet)
		say(path);
	free(path);
	return child_exit(&child);
}
