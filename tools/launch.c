// launch.c: how a program is started with the library: where that is, its tables, LD_PRELOAD, exec.

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tables.h"

enum { OPT_LIBRARY = 0x800, OPT_NO_TABLES };

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct launch *l = state->input;

	switch (key) {
	case OPT_LIBRARY:
		l->library = arg;
		return 0;
	case OPT_NO_TABLES:
		l->no_tables = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{"no-tables", OPT_NO_TABLES, NULL, 0, "Do not build missing tables of safe points first",
	 1},
	{"library", OPT_LIBRARY, "FILE", 0, "Preload this libpreempt.so", 1},
	{0},
};
static const struct argp own = {.options = options, .parser = parse};

error_t launch_words(int key, struct launch *l, struct argp_state *state)
{
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

const struct argp *launch_argp(struct argp *argp, bool with_stats)
{
	static struct argp_child children[3]; // of the one subcommand that is run or explained

	children[0] = (struct argp_child){&own, 0, NULL, 1};
	children[1] = (struct argp_child){settings_argp(with_stats), 0,
					  "Settings of the library (`preempt help env`):", 2};
	argp->children = children;
	if (!argp->args_doc)
		argp->args_doc = "[--] COMMAND [ARG...]";
	return argp;
}

// In the build tree beside this command, in the libdir beside this bindir, or where it was to be installed.
static bool find(char ret_path[PATH_MAX])
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
				return true;
		}
	}
	return realpath(PREEMPT_LIBDIR "/libpreempt.so", ret_path);
}

void launch_library(struct launch *l)
{
	if (l->library) {
		if (!realpath(l->library, l->found))
			die("%s: %s", l->library, strerror(errno));
	} else if (!find(l->found)) {
		die("libpreempt.so not found beside this command or in %s; name it with --library",
		    PREEMPT_LIBDIR);
	}
	// The dynamic linker splits the list at these and has no way to quote them.
	if (strpbrk(l->found, " :"))
		die("%s: LD_PRELOAD cannot name a path with a space or colon; copy the library or "
		    "make a link elsewhere",
		    l->found);
	l->library = l->found;
}

void launch_prepare(struct launch *l)
{
	launch_library(l);
	if (!l->no_tables)
		tables_before_run(l->command[0], l->library);
}

// LD_PRELOAD without this library, in any version of it.
static char *others(const char *list)
{
	char *rest = must(calloc(1, strlen(list) + 1)), *copy = must(strdup(list)), *save, *word;

	for (word = strtok_r(copy, " :", &save); word; word = strtok_r(NULL, " :", &save)) {
		const char *name = strrchr(word, '/') ? strrchr(word, '/') + 1 : word;

		if (strcmp(name, "libpreempt.so") == 0)
			continue;
		if (*rest)
			strcat(rest, ":");
		strcat(rest, word);
	}
	free(copy);
	return rest;
}

void launch_plain(void)
{
	const char *old = getenv("LD_PRELOAD");
	char *rest;

	if (!old)
		return;
	rest = others(old);
	if (*rest)
		set_env("LD_PRELOAD", rest);
	else
		unsetenv("LD_PRELOAD");
	free(rest);
}

void launch_preload(const char *library)
{
	const char *old;
	char *value;

	launch_plain();
	old = getenv("LD_PRELOAD");
	if (asprintf(&value, "%s%s%s", library, old ? ":" : "", old ? old : "") < 0)
		must(NULL);
	set_env("LD_PRELOAD", value);
	free(value);
}

int launch_exec(char **command)
{
	int err;

	execvp(command[0], command);
	err = errno;
	fprintf(stderr, "preempt: %s: %s\n", command[0],
		err == ENOENT && strchr(command[0], '/') && access(command[0], F_OK) == 0
			? "its interpreter or dynamic linker does not exist"
			: strerror(err));
	return err == ENOENT ? EXIT_NOENT : EXIT_NOEXEC;
}
