// report.c: how the subcommands print: colours, figures for people, JSON for programs.

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

// --- for people ---------------------------------------------------------------------------------------

const char *colour(FILE *to, enum colour c)
{
	static const char *const codes[] = {"\033[0m",	"\033[1m",  "\033[32m",
					    "\033[33m", "\033[31m", "\033[2m"};
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	if ((no && *no) || !term || strcmp(term, "dumb") == 0 || !isatty(fileno(to)))
		return "";
	return codes[c];
}

void print_count(char buf[32], double v)
{
	char digits[32];
	size_t n, o = 0;

	if (v < 100 && v != floor(v)) { // a mean
		snprintf(buf, 32, "%.1f", v);
		return;
	}
	snprintf(digits, sizeof digits, "%.0f", v < 1e18 ? v : 1e18);
	n = strlen(digits);
	for (size_t i = 0; i < n; i++) {
		buf[o++] = digits[i];
		if (i + 1 < n && (n - 1 - i) % 3 == 0)
			buf[o++] = ',';
	}
	buf[o] = 0;
}

void print_time(char buf[32], double ns)
{
	static const struct {
		double ns;
		const char *name;
	} units[] = {{1e9, "s"}, {1e6, "ms"}, {1e3, "us"}, {1, "ns"}};
	size_t i = 0;

	while (i < 3 && ns < units[i].ns)
		i++;
	ns /= units[i].ns;
	snprintf(buf, 32, "%.*f %s",
		 ns >= 100 || units[i].ns <= 1 ? 0
		 : ns >= 10		       ? 1
					       : 2,
		 ns, units[i].name);
}

// --- JSON -----------------------------------------------------------------------------------------------

// Length of the character at s, 0: it is no UTF-8.
static size_t valid(const char *s)
{
	for (size_t n = 1; n <= 4 && s[n - 1]; n++) {
		json_t *one = json_stringn(s, n);

		if (one) {
			json_decref(one);
			return n;
		}
	}
	return 0;
}

json_t *json_text(const char *s)
{
	json_t *text = json_string(s);
	char *copy, *to;

	if (text)
		return text;
	to = copy = must(malloc(3 * strlen(s) + 1));
	while (*s) {
		size_t n = valid(s);

		to = n ? mempcpy(to, s, n) : stpcpy(to, "\xef\xbf\xbd");
		s += n ? n : 1;
	}
	*to = 0;
	text = must(json_string(copy));
	free(copy);
	return text;
}

json_t *json_words(char *const *words)
{
	json_t *array = must(json_array());

	for (; *words; words++) {
		if (json_array_append_new(array, json_text(*words)) != 0)
			must(NULL);
	}
	return array;
}

void json_set(json_t *object, const char *key, json_t *value)
{
	if (json_object_set_new(object, key, value) != 0)
		must(NULL);
}

int json_print(FILE *out, json_t *object)
{
	int r;

	errno = 0;
	r = json_dumpf(object, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(12));
	json_decref(object);
	if (r != 0 || fputc('\n', out) == EOF || fflush(out) != 0)
		die("writing the report: %s", strerror(errno ? errno : EIO));
	return 0;
}
