// command.c: what every subcommand needs: errors, memory, options, output.

#include "command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void die(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("preempt: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(EXIT_FAILED);
}

void *must(void *p)
{
	if (!p)
		die("out of memory");
	return p;
}

void set_env(const char *name, const char *value)
{
	if (setenv(name, value, 1) != 0)
		die("%s: %s", name, strerror(errno));
}

void parse_options(const struct argp *argp, int argc, char **argv, void *input)
{
	error_t err;

	argp_err_exit_status = EXIT_FAILED;
	err = argp_parse(argp, argc, argv, ARGP_IN_ORDER, NULL, input);
	if (err)
		die("%s", strerror(err));
}

int64_t parse_count(const struct argp_state *state, const char *option, const char *arg,
		    int64_t min, int64_t max)
{
	char *end;
	long long n;

	errno = 0;
	n = strtoll(arg, &end, 10);
	if (*end || end == arg || errno || n < min || n > max)
		argp_error(state, "%s %s: not a number from %lld to %lld", option, arg,
			   (long long)min, (long long)max);
	return n;
}

int finish_output(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	fprintf(stderr, "preempt: standard output: %s\n", strerror(errno));
	return EXIT_FAILED;
}
