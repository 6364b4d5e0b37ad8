// metric.c: finds the user's figure in what a program printed.

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"

const char *metric_compile(struct metric *m, const char *text)
{
	static char why[200];
	int r = regcomp(&m->re, text, REG_EXTENDED | REG_NEWLINE);

	if (r != 0) {
		regerror(r, &m->re, why, sizeof why);
		return why;
	}
	m->text = text;
	if (m->re.re_nsub == 1)
		return NULL;
	return m->re.re_nsub ? "has more than one group ( )"
			     : "needs one group ( ) around the figure";
}

void metric_free(struct metric *m)
{
	if (m->text)
		regfree(&m->re);
	m->text = NULL;
}

const char *metric_find(const struct metric *m, const char *text, double *ret)
{
	static char why[300];
	char group[100], *end;
	const char *found = NULL;
	size_t length = 0;
	regmatch_t match[2];

	for (const char *s = text; *s || s == text; s += match[0].rm_eo) {
		int flags = s > text && s[-1] != '\n' ? REG_NOTBOL : 0;

		if (regexec(&m->re, s, 2, match, flags) != 0)
			break;
		if (match[1].rm_so >= 0) {
			found = s + match[1].rm_so;
			length = (size_t)(match[1].rm_eo - match[1].rm_so);
		}
		if (match[0].rm_eo == 0 && *s)
			match[0].rm_eo = 1; // an empty match
		if (!s[match[0].rm_eo])
			break;
	}
	if (!found)
		return "printed nothing that matches the metric";
	snprintf(group, sizeof group, "%.*s", (int)(length < sizeof group ? length : 99), found);
	errno = 0;
	*ret = strtod(group, &end);
	if (end == group || *end || errno || !isfinite(*ret)) {
		snprintf(why, sizeof why, "printed '%s' for the metric, which is not a number",
			 group);
		return why;
	}
	if (*ret > 0)
		return NULL;
	snprintf(why, sizeof why, "printed %s for the metric; only figures above 0 have a ratio",
		 group);
	return why;
}
