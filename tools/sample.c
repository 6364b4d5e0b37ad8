// sample.c: figures of several runs.

#include <math.h>
#include <stdlib.h>

#include "command.h"

void sample_add(struct sample *s, double v)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 16;
		s->v = must(reallocarray(s->v, s->cap, sizeof *s->v));
	}
	s->v[s->n++] = v;
}

void sample_free(struct sample *s)
{
	free(s->v);
	*s = (struct sample){0};
}

double sample_mean(const struct sample *s)
{
	double sum = 0;

	for (size_t i = 0; i < s->n; i++)
		sum += s->v[i];
	return s->n ? sum / (double)s->n : 0;
}

double sample_deviation(const struct sample *s)
{
	double mean = sample_mean(s), sum = 0;

	for (size_t i = 0; i < s->n; i++)
		sum += (s->v[i] - mean) * (s->v[i] - mean);
	return s->n > 1 ? sqrt(sum / (double)(s->n - 1)) : 0;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double sample_median(const struct sample *s)
{
	struct sample sorted = {0};
	double median;

	if (!s->n)
		return 0;
	for (size_t i = 0; i < s->n; i++)
		sample_add(&sorted, s->v[i]);
	qsort(sorted.v, sorted.n, sizeof *sorted.v, by_value);
	median = (sorted.v[(s->n - 1) / 2] + sorted.v[s->n / 2]) / 2;
	sample_free(&sorted);
	return median;
}

double sample_min(const struct sample *s)
{
	double min = s->n ? s->v[0] : 0;

	for (size_t i = 1; i < s->n; i++)
		min = s->v[i] < min ? s->v[i] : min;
	return min;
}

double sample_max(const struct sample *s)
{
	double max = s->n ? s->v[0] : 0;

	for (size_t i = 1; i < s->n; i++)
		max = s->v[i] > max ? s->v[i] : max;
	return max;
}

double t_quantile(size_t n)
{
	static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
				   2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
				   2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
				   2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
	size_t df = n > 1 ? n - 1 : 1;

	// Beyond the table: within 0.1 % of the true value.
	return df <= sizeof t / sizeof *t ? t[df - 1] : 1.96 + 2.4 / (double)df;
}
