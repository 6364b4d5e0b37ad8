// compare.c: `preempt compare`: does the library help this program, here?
//
// Problem. One run of each says little: machines warm up, slow down, and have other work. Approach: pairs of a plain run and one with
// the library, right after each other, in the other order every second time, so that what drifts slowly hits both. Each pair gives a
// ratio, above 1 if the library is better. Ratios multiply, so their logarithms are averaged; Student's t gives the interval in which the true
// ratio lies with 95 %. If 1 lies in it, no difference can be measured, whatever the mean is. The first run of all, which finds cold
// caches, does not count.
// Rejected: to compare the fastest runs of each. For threads that fight, the slow runs are what the library is for.

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compare.h"

enum { OPT_METRIC = 256, OPT_LOWER, OPT_INPUT, OPT_JSON, MAX_PAIRS = 1000 };
enum { OUTPUT_MAX = 64 << 20, TAIL_LINES = 5 };

static const double smallest = 0.01; // a difference below that is nobody's business

struct compare {
	struct launch launch;
	int pairs, warmup;
	bool lower, json, ignore;
	const char *input;
	struct metric metric;
	double own; // s of CPU time by all runs
};

struct result {
	struct sample plain, shim, ratio;
	struct sample logs; // of the ratios
	int better;
};

// --- options ------------------------------------------------------------------------------------------

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct compare *c = state->input;
	const char *why;

	switch (key) {
	case 'n':
		c->pairs = (int)parse_count(state, "--pairs", arg, 1, MAX_PAIRS);
		return 0;
	case 'w':
		c->warmup = (int)parse_count(state, "--warmup", arg, 0, MAX_PAIRS);
		return 0;
	case OPT_METRIC:
		why = metric_compile(&c->metric, arg);
		if (why)
			argp_error(state, "--metric '%s': %s; such as --metric 'rate: ([0-9.]+)'",
				   arg, why);
		return 0;
	case OPT_LOWER:
		c->lower = true;
		return 0;
	case OPT_INPUT:
		c->input = arg;
		return 0;
	case 'i':
		c->ignore = true;
		return 0;
	case OPT_JSON:
		c->json = true;
		return 0;
	default:
		return launch_words(key, &c->launch, state);
	}
}

static const struct argp_option options[] = {
	{"pairs", 'n', "N", 0, "Pairs of runs (default: 5)", 0},
	{"warmup", 'w', "N", 0, "Plain runs before that, which do not count (default: 1)", 0},
	{"metric", OPT_METRIC, "REGEX", 0,
	 "Compare a figure that the program prints, more is better: an extended regular expression "
	 "with one group; the last match counts (default: the time it takes)",
	 0},
	{"lower-is-better", OPT_LOWER, NULL, 0, "Of the metric", 0},
	{"input", OPT_INPUT, "FILE", 0, "Standard input of each run (default: /dev/null)", 0},
	{"ignore-failure", 'i', NULL, 0, "Go on when a run fails", 0},
	{"json", OPT_JSON, NULL, 0, "Print JSON", 0},
	{0},
};

static const struct argp *compare_argp(void)
{
	static struct argp argp = {
		.options = options,
		.parser = parse,
		.doc = "Run COMMAND with and without libpreempt in turn, and say whether it "
		       "helps.\vThe exit code is 0, or that of the first run that failed.",
	};

	return launch_argp(&argp, true);
}

void compare_help(FILE *out)
{
	argp_help(compare_argp(), out, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK,
		  (char *)"preempt compare");
}

// --- one run ------------------------------------------------------------------------------------------------

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		die("%s: %s", path, strerror(errno));
	return fd;
}

// What a run printed. Only its end, if it was too much.
static char *read_output(FILE *f)
{
	off_t size = lseek(fileno(f), 0, SEEK_END), from;
	ssize_t n = 0;
	char *text;

	from = size > OUTPUT_MAX ? size - OUTPUT_MAX : 0;
	text = must(malloc((size_t)(size - from) + 1));
	while (n < size - from) {
		ssize_t r = pread(fileno(f), text + n, (size_t)(size - from - n), from + n);

		if (r <= 0)
			break;
		n += r;
	}
	text[n] = 0;
	for (ssize_t i = 0; i < n; i++) {
		if (!text[i])
			text[i] = ' ';
	}
	return text;
}

static void print_tail(const char *text)
{
	const char *s = text + strlen(text);
	int lines = 0;

	while (s > text && s[-1] == '\n')
		s--;
	while (s > text && (s[-1] != '\n' || ++lines < TAIL_LINES))
		s--;
	if (*s)
		fprintf(stderr, "%s its output ends:\n%s%s", "preempt:", s,
			s[strlen(s) - 1] == '\n' ? "" : "\n");
}

static void run_failed(const struct compare *c, const struct child *child, const char *text,
		       const char *ended)
{
	fflush(stdout);
	fprintf(stderr, "preempt: %s: the run %s libpreempt failed: %s\n", c->launch.command[0],
		child->library ? "with" : "without", ended);
	print_tail(text);
}

// What runs now, for somebody who watches. what NULL: nothing any more.
static void progress(const struct compare *c, int i, const char *what)
{
	if (c->json || !isatty(2))
		return;
	fflush(stdout);
	if (what && i > 0)
		fprintf(stderr, "\rpair %d of %d, %s ...", i, c->pairs, what);
	else
		fprintf(stderr, what ? "\rwarming up ..." : "\r\033[K");
	fflush(stderr);
}

// The figure of one run; pair 0: to warm up. 0, or the exit code to end with, after a message.
static int run_once(struct compare *c, int pair, bool shim, double *ret)
{
	struct child child = {
		.command = c->launch.command,
		.library = shim ? c->launch.library : NULL,
	};
	FILE *kept = tmpfile();
	const char *why = NULL;
	char *text, buf[64];
	int null, r;

	if (!kept)
		die("no file for the output: %s; is /tmp full?", strerror(errno));
	null = open_or_die("/dev/null", O_WRONLY);
	child.in = open_or_die(c->input ? c->input : "/dev/null", O_RDONLY);
	child.err = fileno(kept);
	child.out = c->metric.text ? fileno(kept) : null;
	// Else the program and its standard error would write over each other.
	fcntl(fileno(kept), F_SETFL, O_APPEND);
	progress(c, pair, shim ? "with libpreempt" : "plain");
	r = child_run(&child);
	progress(c, 0, NULL);
	close(null);
	close(child.in);
	if (r != 0)
		return r;
	text = read_output(kept);
	fclose(kept);
	c->own += 1e-9 * (double)(child.user + child.sys);
	*ret = (double)child.wall;
	if (child.interrupted) {
		fprintf(stderr, "preempt: interrupted\n");
		r = child_failed(&child) ? child_exit(&child) : 128 + child.interrupted;
	} else if (child_failed(&child) && !c->ignore) {
		run_failed(c, &child, text, child_ended(&child, buf));
		r = child_exit(&child);
	} else if (c->metric.text && (why = metric_find(&c->metric, text, ret))) {
		fflush(stdout);
		fprintf(stderr, "preempt: %s: the run %s libpreempt %s\n", c->launch.command[0],
			shim ? "with" : "without", why);
		print_tail(text);
		r = EXIT_FAILED;
	}
	free(text);
	return r;
}

// --- what it means ---------------------------------------------------------------------------------------------

struct verdict {
	double ratio, low, high; // and its interval
	const char *word;	 // for programs
	char text[160];
};

static void judge(const struct compare *c, const struct result *r, struct verdict *v)
{
	const char *more = c->metric.text ? "better" : "faster";
	const char *less = c->metric.text ? "worse" : "slower";
	size_t n = r->ratio.n;
	double mean = sample_mean(&r->logs);
	double half = n > 1 ? t_quantile(n) * sample_deviation(&r->logs) / sqrt((double)n) : 0;
	bool up = mean > 0;
	double factor = exp(fabs(mean));
	char how[40];

	v->ratio = exp(mean);
	v->low = exp(mean - half);
	v->high = exp(mean + half);
	if (factor < 1.095)
		snprintf(how, sizeof how, "%.0f %%", 100 * (factor - 1));
	else
		snprintf(how, sizeof how, "%.*fx", factor < 9.95 ? 1 : 0, factor);
	if (n < 2) {
		v->word = "unknown";
		snprintf(v->text, sizeof v->text,
			 "%s %s in the only pair; whether by chance, more pairs would tell (-n 5)",
			 how, up ? more : less);
	} else if ((v->low <= 1 && v->high >= 1) || factor < 1 + smallest) {
		v->word = "none";
		if (v->high < 1.5 * v->low)
			snprintf(v->text, sizeof v->text,
				 "no difference that can be measured (%.2fx to %.2fx)", v->low,
				 v->high);
		else
			snprintf(v->text, sizeof v->text,
				 "no difference that can be measured: the pairs spread from %.2fx "
				 "to "
				 "%.2fx; more pairs (-n) or longer runs would tell more",
				 sample_min(&r->ratio), sample_max(&r->ratio));
	} else {
		v->word = up ? more : less;
		snprintf(v->text, sizeof v->text, "%s %s, %d of %zu pairs", how, v->word,
			 up ? r->better : (int)n - r->better, n);
	}
}

// --- for people ------------------------------------------------------------------------------------------------

static void print_figure(const struct compare *c, char buf[32], double v)
{
	if (!c->metric.text)
		print_time(buf, v);
	else if (v >= 1000)
		print_count(buf, v);
	else
		snprintf(buf, 32, "%.4g", v);
}

static void print_pair(const struct compare *c, int i, double plain, double shim, double ratio)
{
	char a[32], b[32];

	if (i == 0)
		printf("%s%6s %14s %14s %8s%s\n", colour(stdout, BOLD), "PAIR", "PLAIN",
		       "LIBPREEMPT", "RATIO", colour(stdout, PLAIN));
	print_figure(c, a, plain);
	print_figure(c, b, shim);
	printf("%6d %14s %14s %7.2fx\n", i + 1, a, b, ratio);
	fflush(stdout);
}

static void print_verdict(const struct compare *c, const struct result *r, const struct verdict *v)
{
	bool lower = !c->metric.text || c->lower, up = v->ratio > 1;
	bool differs = strcmp(v->word, "none") != 0 && strcmp(v->word, "unknown") != 0;
	char a[32], b[32];

	print_figure(c, a, sample_median(&r->plain));
	print_figure(c, b, sample_median(&r->shim));
	printf("%6s %14s %14s %7.2fx", "median", a, b, sample_median(&r->ratio));
	if (r->ratio.n > 1)
		printf("   mean ratio %.2fx, 95 %% sure: %.2fx to %.2fx", v->ratio, v->low,
		       v->high);
	printf("\n\n%s%s%s\n",
	       colour(stdout, !differs ? BOLD
			      : up     ? GOOD
				       : BAD),
	       v->text, colour(stdout, PLAIN));
	if (c->metric.text)
		printf("(%s is better; the ratio is above 1 where libpreempt is)\n",
		       lower ? "less" : "more");
	if (differs && !up)
		puts("libpreempt does not help this program here; other settings may ('preempt "
		     "help env'), 'preempt doctor' may know why");
}

static void warn_busy(double others, double stolen, int cpus)
{
	if (others > 0.1 * cpus)
		fprintf(stderr,
			"%spreempt: warning: the machine was busy: other processes used %.1f of "
			"%d CPUs meanwhile; repeat this when it is quiet%s\n",
			colour(stderr, WARN), others, cpus, colour(stderr, PLAIN));
	if (stolen > 0.02)
		fprintf(stderr,
			"%spreempt: warning: the hypervisor gave %.0f %% of the CPUs' time to "
			"other machines%s\n",
			colour(stderr, WARN), 100 * stolen, colour(stderr, PLAIN));
}

// --- JSON --------------------------------------------------------------------------------------------------------

static json_t *json_sample(const struct sample *s)
{
	json_t *object = must(json_object()), *values = must(json_array());

	json_set(object, "mean", json_real(sample_mean(s)));
	json_set(object, "median", json_real(sample_median(s)));
	json_set(object, "stddev", json_real(sample_deviation(s)));
	json_set(object, "min", json_real(sample_min(s)));
	json_set(object, "max", json_real(sample_max(s)));
	for (size_t i = 0; i < s->n; i++) {
		if (json_array_append_new(values, json_real(s->v[i])) != 0)
			must(NULL);
	}
	json_set(object, "values", values);
	return object;
}

static json_t *json_report(const struct compare *c, const struct result *r, const struct verdict *v)
{
	json_t *report = must(json_object()), *ratio = json_sample(&r->ratio);

	json_set(report, "command", json_words(c->launch.command));
	json_set(report, "library", json_text(c->launch.library));
	json_set(report, "metric",
		 c->metric.text ? json_text(c->metric.text) : json_string("wall_ns"));
	json_set(report, "better", json_string(!c->metric.text || c->lower ? "lower" : "higher"));
	json_set(report, "pairs", json_integer((json_int_t)r->ratio.n));
	json_set(report, "plain", json_sample(&r->plain));
	json_set(report, "libpreempt", json_sample(&r->shim));
	json_set(ratio, "geometric_mean", json_real(v->ratio));
	json_set(ratio, "low", json_real(v->low));
	json_set(ratio, "high", json_real(v->high));
	json_set(ratio, "pairs_better", json_integer(r->better));
	json_set(report, "ratio", ratio);
	json_set(report, "verdict", json_string(v->word));
	json_set(report, "text", json_string(v->text));
	return report;
}

// --- the command ----------------------------------------------------------------------------------------------------

static int measure(struct compare *c, struct result *r)
{
	bool lower = !c->metric.text || c->lower;
	double v[2], unused;
	int status;

	for (int i = 0; i < c->warmup; i++) {
		status = run_once(c, 0, false, &unused);
		if (status != 0)
			return status;
	}
	for (int i = 0; i < c->pairs; i++) {
		double ratio;

		for (int j = 0; j < 2; j++) {
			bool shim = (i + j) % 2; // plain first, then last, ...

			status = run_once(c, i + 1, shim, &v[shim]);
			if (status != 0)
				return status;
		}
		ratio = lower ? v[0] / v[1] : v[1] / v[0];
		sample_add(&r->plain, v[0]);
		sample_add(&r->shim, v[1]);
		sample_add(&r->ratio, ratio);
		sample_add(&r->logs, log(ratio));
		r->better += ratio > 1;
		if (!c->json)
			print_pair(c, i, v[0], v[1], ratio);
	}
	return 0;
}

int cmd_compare(int argc, char **argv)
{
	struct compare c = {.pairs = 5, .warmup = 1};
	struct busy before, after;
	double others = 0, stolen = 0;
	struct result r = {0};
	struct verdict v;
	bool known;
	int status;

	parse_options(compare_argp(), argc, argv, &c);
	if (c.lower && !c.metric.text)
		die("--lower-is-better is about --metric; of the time, less is better anyway");
	launch_prepare(&c.launch);
	child_begin();
	known = busy_now(&before);
	status = measure(&c, &r);
	if (status != 0)
		return status;
	if (known && busy_now(&after)) {
		others = busy_others(&before, &after, c.own);
		stolen = busy_stolen(&before, &after);
	}
	judge(&c, &r, &v);
	if (c.json) {
		json_t *report = json_report(&c, &r, &v);

		json_set(report, "others_cpus", json_real(others));
		json_set(report, "stolen", json_real(stolen));
		status = json_print(stdout, report);
	} else {
		print_verdict(&c, &r, &v);
		status = finish_output(0);
	}
	warn_busy(others, stolen, known ? before.cpus : 1);
	sample_free(&r.plain);
	sample_free(&r.shim);
	sample_free(&r.ratio);
	sample_free(&r.logs);
	metric_free(&c.metric);
	return status;
}
