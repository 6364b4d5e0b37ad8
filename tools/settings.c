// settings.c: an option for each setting of the library, made from the library's own table (shim/env.c).
//
// Problem: a list of options here would drift apart from the settings. Approach: PREEMPT_LOCK_GRACE is --lock-grace, and
// its help, range, default and judgement of a value are those of the table. So a setting that is added there is an
// option at once. A bad value in the environment gets a warning and the default, for the library must never keep a
// program from running; a bad option ends this command, whose user is there to correct it.

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "shim.h"

enum { FIRST_KEY = 0x1000, MAX_SETTINGS = 64 };

static char *option_name(const char *name)
{
	char *option = must(strdup(name + strlen("PREEMPT_")));

	for (char *s = option; *s; s++)
		*s = *s == '_' ? '-' : (char)tolower(*s);
	return option;
}

// The key of a setting: its short option, if it has one.
static int key_of(int i, const char *name)
{
	if (strcmp(name, "PREEMPT_PROCS") == 0)
		return 'p';
	if (strcmp(name, "PREEMPT_QUANTUM") == 0)
		return 'q';
	return FIRST_KEY + i;
}

static char *option_doc(const struct setting_info *set)
{
	char *doc;

	if (asprintf(&doc, "%s (%s; default: %s)", set->help, set->range, set->def) < 0)
		must(NULL);
	doc[0] = (char)toupper(doc[0]);
	for (char *s = doc; *s; s++) {
		if (*s == '\n')
			*s = ' ';
	}
	return doc;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct setting_info set;
	const char *why;

	for (int i = 0; env_setting(i, &set); i++) {
		if (key != key_of(i, set.name))
			continue;
		if (!arg)
			arg = (char *)"1"; // a switch, or --stats
		why = env_check(i, arg);
		if (why) {
			char *option = option_name(set.name);

			argp_error(state, "--%s=%s: %s (%s)", option, arg, why, set.range);
		}
		set_env(set.name, arg);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static struct argp_option options[2][MAX_SETTINGS + 1];
static struct argp argps[2] = {{.parser = parse}, {.parser = parse}};

const struct argp *settings_argp(bool with_stats)
{
	struct argp_option *o = options[with_stats];
	struct setting_info set;

	if (argps[with_stats].options)
		return &argps[with_stats];
	for (int i = 0; i < MAX_SETTINGS && env_setting(i, &set); i++) {
		bool is_stats = strcmp(set.name, "PREEMPT_STATS") == 0;

		// PREEMPT_STATS_PAGE as well, or --stats would be short for it.
		if (!with_stats && strncmp(set.name, "PREEMPT_STATS", 13) == 0)
			continue;
		*o++ = (struct argp_option){
			.name = option_name(set.name),
			.key = key_of(i, set.name),
			.arg = set.arg,
			.flags = set.is_switch || is_stats ? OPTION_ARG_OPTIONAL : 0,
			.doc = option_doc(&set),
			.group = 2,
		};
	}
	argps[with_stats].options = options[with_stats];
	return &argps[with_stats];
}
