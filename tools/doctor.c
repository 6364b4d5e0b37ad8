// doctor.c: `preempt doctor`: what will the library do to this program, on this machine, and what should be changed?
//
// It looks at the file, its libraries, the settings and the machine, and starts nothing of the program. Exit code 0: the library
// will work; 1: it will step aside, or is not even loaded.

#include "doctor.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_ASIDE = 1, OPT_JSON = 256 };

// --- options -------------------------------------------------------------------------------------------

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct doctor *d = state->input;

	(void)arg;
	switch (key) {
	case OPT_JSON:
		d->json = true;
		return 0;
	case ARGP_KEY_NO_ARGS:
		return 0; // then it looks at the machine
	default:
		return launch_words(key, &d->launch, state);
	}
}

static const struct argp_option options[] = {
	{"json", OPT_JSON, NULL, 0, "Print JSON", 0},
	{0},
};

static const struct argp *doctor_argp(void)
{
	static struct argp argp = {
		.options = options,
		.parser = parse,
		.args_doc = "[--] [COMMAND [ARG...]]",
		.doc = "Say what libpreempt will do to COMMAND on this machine, and what to "
		       "change. COMMAND is not started. Without it, only the machine is looked "
		       "at.\vThe exit code is 0 if the library will work, 1 if it will step aside.",
	};

	return launch_argp(&argp, true);
}

void doctor_help(FILE *out)
{
	argp_help(doctor_argp(), out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK,
		  (char *)"preempt doctor");
}

// --- findings ------------------------------------------------------------------------------------------

void find_that(struct doctor *d, enum level level, const char *id, const char *advice,
	       const char *fmt, ...)
{
	struct finding *f;
	va_list ap;

	d->v = must(reallocarray(d->v, d->n + 1, sizeof *d->v));
	f = &d->v[d->n++];
	*f = (struct finding){.section = d->section,
			      .id = id,
			      .level = level,
			      .advice = advice ? must(strdup(advice)) : NULL};
	va_start(ap, fmt);
	if (vasprintf(&f->text, fmt, ap) < 0)
		must(NULL);
	va_end(ap);
}

static const struct finding *worst(const struct doctor *d)
{
	for (size_t i = 0; i < d->n; i++) {
		if (d->v[i].level == LEVEL_STOP)
			return &d->v[i];
	}
	return NULL;
}

static size_t count(const struct doctor *d, enum level level)
{
	size_t n = 0;

	for (size_t i = 0; i < d->n; i++)
		n += d->v[i].level == level;
	return n;
}

static const char *const names[] = {"ok", "note", "warning", "stop"};

static void verdict(const struct doctor *d, char buf[400])
{
	const struct finding *stop = worst(d);
	const char *name = d->launch.command ? d->launch.command[0] : "programs";
	size_t warnings = count(d, LEVEL_WARN);

	if (stop)
		snprintf(buf, 400, "libpreempt will step aside for %s: %s", name, stop->text);
	else if (warnings)
		snprintf(buf, 400,
			 "libpreempt will schedule the threads of %s; %zu warning%s above", name,
			 warnings, warnings > 1 ? "s" : "");
	else
		snprintf(buf, 400, "libpreempt will schedule the threads of %s", name);
}

static void print_findings(const struct doctor *d)
{
	static const enum colour colours[] = {GOOD, DIM, WARN, BAD};
	const char *section = "";
	char buf[400];

	for (size_t i = 0; i < d->n; i++) {
		const struct finding *f = &d->v[i];

		if (strcmp(section, f->section) != 0)
			printf("%s%s%s%s\n", *section ? "\n" : "", colour(stdout, BOLD), f->section,
			       colour(stdout, PLAIN));
		section = f->section;
		printf("  %s%-8s%s %s\n", colour(stdout, colours[f->level]), names[f->level],
		       colour(stdout, PLAIN), f->text);
		if (f->advice)
			printf("  %-8s -> %s\n", "", f->advice);
	}
	verdict(d, buf);
	printf("\n%s%s%s\n", colour(stdout, worst(d) ? BAD : GOOD), buf, colour(stdout, PLAIN));
}

static json_t *json_findings(const struct doctor *d)
{
	json_t *report = must(json_object()), *list = must(json_array());
	char buf[400];

	for (size_t i = 0; i < d->n; i++) {
		const struct finding *f = &d->v[i];
		json_t *one = must(json_object());

		json_set(one, "section", json_string(f->section));
		json_set(one, "id", json_string(f->id));
		json_set(one, "level", json_string(names[f->level]));
		json_set(one, "text", json_text(f->text));
		json_set(one, "advice", f->advice ? json_text(f->advice) : json_null());
		if (json_array_append_new(list, one) != 0)
			must(NULL);
	}
	verdict(d, buf);
	if (d->launch.command)
		json_set(report, "command", json_words(d->launch.command));
	if (d->path[0])
		json_set(report, "program", json_text(d->path));
	json_set(report, "library", json_text(d->launch.library));
	json_set(report, "works", json_boolean(!worst(d)));
	json_set(report, "verdict", json_text(buf));
	json_set(report, "findings", list);
	json_set(report, "facts", json_incref(d->facts));
	return report;
}

// --- the command ------------------------------------------------------------------------------------------

// The file that would be executed. 0, or the exit code after a message.
static int find_program(struct doctor *d)
{
	const char *name = d->launch.command[0];
	struct stat st;

	if (!find_command(name, d->path)) {
		fprintf(stderr, "preempt: %s: not found in PATH\n", name);
		return EXIT_NOENT;
	}
	if (stat(d->path, &st) != 0) {
		int err = errno;

		fprintf(stderr, "preempt: %s: %s\n", d->path, strerror(err));
		return err == ENOENT ? EXIT_NOENT : EXIT_NOEXEC;
	}
	if (!S_ISREG(st.st_mode) || access(d->path, X_OK) != 0) {
		fprintf(stderr, "preempt: %s: %s\n", d->path,
			S_ISREG(st.st_mode) ? "not executable by this user; chmod +x it"
					    : "not a program");
		return EXIT_NOEXEC;
	}
	return 0;
}

int cmd_doctor(int argc, char **argv)
{
	struct doctor d = {0};
	int status;

	parse_options(doctor_argp(), argc, argv, &d);
	launch_library(&d.launch);
	d.facts = must(json_object());
	if (d.launch.command) {
		status = find_program(&d);
		if (status != 0)
			return status;
		doctor_program(&d);
	}
	doctor_settings(&d);
	doctor_machine(&d);
	cache_init(config.cache_dir, getenv("XDG_CACHE_HOME"), getenv("HOME"), config.critical);
	if (d.jobs.n)
		doctor_modules(&d);
	doctor_cache(&d);
	status = worst(&d) ? EXIT_ASIDE : 0;
	if (d.json)
		json_print(stdout, json_findings(&d));
	else
		print_findings(&d);
	for (size_t i = 0; i < d.n; i++) {
		free(d.v[i].text);
		free(d.v[i].advice);
	}
	free(d.v);
	jobs_free(&d.jobs);
	json_decref(d.facts);
	return finish_output(status);
}
