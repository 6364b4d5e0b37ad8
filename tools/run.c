// run.c: `preempt run`: sets the variables and LD_PRELOAD, builds missing tables, and becomes the program.

#include "command.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	return launch_words(key, state->input, state);
}

static const struct argp *run_argp(void)
{
	static struct argp argp = {
		.parser = parse,
		.doc = "Run COMMAND with libpreempt.\vEach setting is the variable of its name: "
		       "--lock-grace sets PREEMPT_LOCK_GRACE.",
	};

	return launch_argp(&argp, true);
}

void run_help(FILE *out)
{
	argp_help(run_argp(), out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK, (char *)"preempt run");
}

int cmd_run(int argc, char **argv)
{
	struct launch l = {0};

	parse_options(run_argp(), argc, argv, &l);
	launch_prepare(&l);
	launch_preload(l.library);
	return launch_exec(l.command);
}
