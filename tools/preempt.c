// preempt.c: the command: finds the subcommand, and prints help.
//
// Exit codes follow env(1): 125 when preempt itself fails, 126 when the program cannot be executed,
// 127 when it is not found, else the program's own.

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "doctor.h"

const char *argp_program_version = "preempt " PREEMPT_VERSION;

static const struct verb {
	const char *name;
	int (*run)(int argc, char **argv);
	void (*help)(FILE *out);
	const char *args;
	const char *what;
} verbs[] = {
	{"run", cmd_run, run_help, "[OPTION...] [--] COMMAND [ARG...]",
	 "run COMMAND with its threads scheduled by libpreempt"},
	{"stat", cmd_stat, stat_help, "[OPTION...] [--] COMMAND [ARG...]",
	 "the same, then print what the scheduler did"},
	{"compare", cmd_compare, compare_help, "[OPTION...] [--] COMMAND [ARG...]",
	 "run COMMAND with and without, say whether it helps"},
	{"doctor", cmd_doctor, doctor_help, "[OPTION...] [--] [COMMAND]",
	 "say what the library will do to COMMAND here"},
	{"tables", cmd_tables, tables_help, "build|check|dump [OPTION...] FILE...",
	 "tables of safe points of programs and libraries"},
	{"top", cmd_top, top_help, "[OPTION...] [PID]", "watch what the threads of a process do"},
	{"trace", cmd_trace, trace_help, "record|export|report [OPTION...] ...",
	 "a record of all that the threads did, as pictures"},
	{"dump", cmd_dump, dump_help, "[OPTION...] PID", "print what all threads of a process do"},
};
enum { NVERBS = sizeof verbs / sizeof *verbs };

static const struct verb *find_verb(const char *name)
{
	for (int i = 0; i < NVERBS; i++) {
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	}
	return NULL;
}

static void usage(FILE *out)
{
	for (int i = 0; i < NVERBS; i++)
		fprintf(out, "%s preempt %s %s\n", i ? "      " : "Usage:", verbs[i].name,
			verbs[i].args);
	fputs("       preempt help [", out);
	for (int i = 0; i < NVERBS; i++)
		fprintf(out, "%s|", verbs[i].name);
	fputs("env]\n"
	      "       preempt --version\n"
	      "\n"
	      "Runs an unmodified program with libpreempt, which schedules its threads.\n"
	      "\n",
	      out);
	for (int i = 0; i < NVERBS; i++)
		fprintf(out, "  %-9s  %s\n", verbs[i].name, verbs[i].what);
	fputs("  help NAME  the options of a command\n"
	      "  help env   the settings (environment variables)\n",
	      out);
}

static int help_env(void)
{
	static char buf[64 * 1024];
	struct text text = {.buf = buf, .cap = sizeof(buf)};

	env_help(&text);
	fwrite(text.buf, 1, text.len, stdout);
	return finish_output(0);
}

static int cmd_help(int argc, char **argv)
{
	const struct verb *verb;

	if (argc < 2) {
		usage(stdout);
		return finish_output(0);
	}
	if (strcmp(argv[1], "env") == 0)
		return help_env();
	verb = find_verb(argv[1]);
	if (verb) {
		verb->help(stdout);
		return finish_output(0);
	}
	fprintf(stderr, "preempt: no help on '%s'; there is help on ", argv[1]);
	for (int i = 0; i < NVERBS; i++)
		fprintf(stderr, "%s, ", verbs[i].name);
	fputs("and env\n", stderr);
	return EXIT_FAILED;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	const struct verb *verb;
	char *full;

	if (!name) {
		usage(stderr);
		return EXIT_FAILED;
	}
	verb = find_verb(name);
	if (verb) {
		if (asprintf(&full, "preempt %s", name) < 0)
			must(NULL);
		argv[1] = full;
		return verb->run(argc - 1, argv + 1);
	}
	if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		return cmd_help(argc - 1, argv + 1);
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
		puts(argp_program_version);
		return finish_output(0);
	}
	if (strcmp(name, DOCTOR_TRIAL) == 0)
		return doctor_trial();
	fprintf(stderr,
		"preempt: '%s' is not a command; try 'preempt help', or 'preempt run %s' "
		"to run a program\n",
		name, name);
	return EXIT_FAILED;
}
