// preempt.c: the command. Sets the PREEMPT_* variables and LD_PRELOAD, then becomes the program.
//
// Exit codes follow env(1): 125 when preempt itself fails, 126 when the program cannot be executed,
// 127 when it is not found, else the program's own.

#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tables.h"

enum { EXIT_NOEXEC = 126, EXIT_NOENT = 127 };

const char *argp_program_version = "preempt " PREEMPT_VERSION;

enum { OPT_POLICY = 256, OPT_STATS, OPT_SCHEDTRACE, OPT_STRICT, OPT_LIBRARY, OPT_NO_TABLES };

struct run {
	const char *library;
	bool no_tables;
	char **command;
};

static void set(const char *name, const char *value)
{
	if (setenv(name, value, 1) != 0) {
		fprintf(stderr, "preempt: %s: %s\n", name, strerror(errno));
		exit(EXIT_FAILED);
	}
}

static error_t run_parse(int key, char *arg, struct argp_state *state)
{
	struct run *run = state->input;

	switch (key) {
	case 'p':
		set("PREEMPT_PROCS", arg);
		return 0;
	case 'q':
		set("PREEMPT_QUANTUM", arg);
		return 0;
	case OPT_POLICY:
		set("PREEMPT_POLICY", arg);
		return 0;
	case OPT_STATS:
		set("PREEMPT_STATS", arg ? arg : "1");
		return 0;
	case OPT_SCHEDTRACE:
		set("PREEMPT_SCHEDTRACE", arg);
		return 0;
	case OPT_STRICT:
		set("PREEMPT_STRICT", "1");
		return 0;
	case OPT_LIBRARY:
		run->library = arg;
		return 0;
	case OPT_NO_TABLES:
		run->no_tables = true;
		return 0;
	case ARGP_KEY_ARGS:
		run->command = state->argv + state->next;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no command given");
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option run_options[] = {
	{"procs", 'p', "N", 0, "Number of Ps, the threads that run at once (default: auto)", 0},
	{"quantum", 'q', "DUR", 0, "Time slice, such as 500us or 10ms", 0},
	{"policy", OPT_POLICY, "NAME", 0, "Scheduling policy", 0},
	{"stats", OPT_STATS, "FILE", OPTION_ARG_OPTIONAL,
	 "Print a summary at exit, or write JSON to FILE (%p: the process id)", 0},
	{"schedtrace", OPT_SCHEDTRACE, "MS", 0, "Print a SCHED line every MS milliseconds", 0},
	{"strict", OPT_STRICT, NULL, 0, "Refuse to start the program when a setting is bad", 0},
	{"no-tables", OPT_NO_TABLES, NULL, 0, "Do not build missing tables of safe points first",
	 0},
	{"library", OPT_LIBRARY, "FILE", 0, "Preload this libpreempt.so", 0},
	{0},
};

static const struct argp run_argp = {
	run_options,
	run_parse,
	"[--] COMMAND [ARG...]",
	"Run COMMAND with libpreempt.\vEvery option sets the variable that `preempt help env` "
	"lists.",
	NULL,
	NULL,
	NULL,
};

// Find the library: in the build tree beside this command, in the libdir beside this bindir, or
// where it was to be installed. Fails with a message.
static void find_library(char ret_path[PATH_MAX])
{
	static const char *const beside[] = {
		"../shim/libpreempt.so",
		"../" PREEMPT_LIBDIR_NAME "/libpreempt.so",
	};
	char self[PATH_MAX], path[2 * PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n > 0) {
		self[n] = 0;
		*(strrchr(self, '/') + 1) = 0;
		for (size_t i = 0; i < sizeof(beside) / sizeof(*beside); i++) {
			snprintf(path, sizeof(path), "%s%s", self, beside[i]);
			if (realpath(path, ret_path))
				return;
		}
	}
	if (realpath(PREEMPT_LIBDIR "/libpreempt.so", ret_path))
		return;
	fprintf(stderr, "preempt: libpreempt.so not found beside this command or in %s\n",
		PREEMPT_LIBDIR);
	exit(EXIT_FAILED);
}

// Put the library first in LD_PRELOAD and keep what is there already.
static void preload(const char *library)
{
	const char *old = getenv("LD_PRELOAD");
	char *value;

	// The dynamic linker splits the list at these and has no way to quote them.
	if (strpbrk(library, " :")) {
		fprintf(stderr,
			"preempt: %s: LD_PRELOAD cannot name a path with a space or colon\n",
			library);
		exit(EXIT_FAILED);
	}
	if (!old || !*old) {
		set("LD_PRELOAD", library);
		return;
	}
	if (asprintf(&value, "%s:%s", library, old) < 0) {
		fprintf(stderr, "preempt: %s\n", strerror(ENOMEM));
		exit(EXIT_FAILED);
	}
	set("LD_PRELOAD", value);
	free(value);
}

static int cmd_run(int argc, char **argv)
{
	struct run run = {0};
	char found[PATH_MAX];
	error_t err;

	argp_err_exit_status = EXIT_FAILED;
	err = argp_parse(&run_argp, argc, argv, ARGP_IN_ORDER, NULL, &run);
	if (err) {
		fprintf(stderr, "preempt: %s\n", strerror(err));
		return EXIT_FAILED;
	}

	if (!run.library)
		find_library(found);
	else if (!realpath(run.library, found)) {
		fprintf(stderr, "preempt: %s: %s\n", run.library, strerror(errno));
		return EXIT_FAILED;
	}
	if (!run.no_tables)
		tables_before_run(run.command[0], found);
	preload(found);

	execvp(run.command[0], run.command);
	err = errno;
	fprintf(stderr, "preempt: %s: %s\n", run.command[0], strerror(err));
	return err == ENOENT ? EXIT_NOENT : EXIT_NOEXEC;
}

static const char usage[] =
	"Usage: preempt run [-p N] [-q DUR] [--policy NAME] [OPTION...] [--] COMMAND [ARG...]\n"
	"       preempt tables build|check|dump [OPTION...] FILE...\n"
	"       preempt dump PID\n"
	"       preempt help [run|tables|dump|env]\n"
	"       preempt --version\n"
	"\n"
	"Runs an unmodified program with libpreempt, which schedules its threads.\n"
	"\n"
	"  run          run COMMAND with the library preloaded\n"
	"  tables       build, check or print the tables of safe points of programs and libraries\n"
	"  dump         print what all threads of a process do\n"
	"  help run     the options of run\n"
	"  help tables  the options of tables\n"
	"  help env     the settings (environment variables)\n";

static int finish(void)
{
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "preempt: standard output: %s\n", strerror(errno));
		return EXIT_FAILED;
	}
	return 0;
}

static int help_env(void)
{
	static char buf[64 * 1024];
	struct text text = {.buf = buf, .cap = sizeof(buf)};

	env_help(&text);
	fwrite(text.buf, 1, text.len, stdout);
	return finish();
}

static int cmd_help(int argc, char **argv)
{
	if (argc < 2) {
		fputs(usage, stdout);
		return finish();
	}
	if (strcmp(argv[1], "env") == 0)
		return help_env();
	if (strcmp(argv[1], "run") == 0) {
		argp_help(&run_argp, stdout, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK,
			  (char *)"preempt run");
		return finish();
	}
	if (strcmp(argv[1], "tables") == 0) {
		tables_help();
		return finish();
	}
	if (strcmp(argv[1], "dump") == 0) {
		dump_help();
		return finish();
	}
	fprintf(stderr, "preempt: no help on '%s'; there is help on run, tables, dump and env\n",
		argv[1]);
	return EXIT_FAILED;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : NULL;

	if (!verb) {
		fputs(usage, stderr);
		return EXIT_FAILED;
	}
	if (strcmp(verb, "run") == 0) {
		argv[1] = (char *)"preempt run";
		return cmd_run(argc - 1, argv + 1);
	}
	if (strcmp(verb, "tables") == 0)
		return cmd_tables(argc - 1, argv + 1);
	if (strcmp(verb, "dump") == 0) {
		argv[1] = (char *)"preempt dump";
		return cmd_dump(argc - 1, argv + 1);
	}
	if (strcmp(verb, "help") == 0 || strcmp(verb, "--help") == 0)
		return cmd_help(argc - 1, argv + 1);
	if (strcmp(verb, "--version") == 0 || strcmp(verb, "-V") == 0) {
		puts(argp_program_version);
		return finish();
	}
	fprintf(stderr, "preempt: '%s' is not a command; try 'preempt help'\n", verb);
	return EXIT_FAILED;
}
