// run.c: `preempt run`: sets the variables and LD_PRELOAD, builds missing tables, and becomes the program.

#include <errno.h>

#include "command.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct launch *l = state->input;

	(void)arg;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = l;
		return 0;
	case ARGP_KEY_ARGS:
		l->command = state->argv + state->next;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no command given");
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp *run_argp(void)
{
	static struct argp_child children[3];
	static const struct argp argp = {
		.parser = parse,
		.args_doc = "[--] COMMAND [ARG...]",
		.doc = "Run COMMAND with libpreempt.\vEach setting is the variable of its name: "
		       "--lock-grace sets PREEMPT_LOCK_GRACE.",
		.children = children,
	};

	children[0] = (struct argp_child){&launch_argp, 0, NULL, 1};
	children[1] = (struct argp_child){settings_argp(true), 0,
					  "Settings of the library (`preempt help env`):", 2};
	return &argp;
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
