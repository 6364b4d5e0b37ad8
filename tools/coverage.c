// coverage.c: what the tables say of the code: how much of it are safe points, and why the rest is not.
//
// Safe, critical and unsafe add up to all of the code. Shares are of executable bytes without the padding between functions, which never runs: with it, a
// file would look the worse the more its functions are aligned. Padding is listed apart.

#include <string.h>

#include "tables.h"

struct coverage {
	uint64_t text, code; // code: text without padding
	uint64_t bytes[TABLE_REASONS];
	uint64_t critical; // would be safe, but for the function they are in
	uint64_t all_critical, spin, unsafe;
};

// table_check() has compared the sums with the rows.
static void count(struct coverage *c, const struct table_header *h)
{
	uint64_t padding = h->bytes[TABLE_PADDING], sum = 0;

	c->text += h->text_size;
	c->code += h->text_size - (padding < h->text_size ? padding : h->text_size);
	for (int i = 0; i < TABLE_REASONS; i++) {
		c->bytes[i] += h->bytes[i];
		sum += h->bytes[i];
		if (i != TABLE_SAFE && i != TABLE_PADDING)
			c->unsafe += h->bytes[i];
	}
	c->critical += h->text_size - (sum < h->text_size ? sum : h->text_size);
	c->all_critical += h->bytes_critical;
	c->spin += h->bytes_spin;
}

static double share(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0;
}

static const char *state_name(const struct job *job)
{
	switch (job->state) {
	case JOB_BUILT:
		return "built";
	case JOB_CACHED:
		return "cached";
	case JOB_NO_CODE:
		return "no-code";
	case JOB_TODO:
		return "missing";
	case JOB_FAILED:
		break;
	}
	return "failed";
}

// --- a table for people ---------------------------------------------------------------------------------

static void print_line(FILE *out, const char *name, const struct coverage *c, const char *state)
{
	fprintf(out, "%10.1f %6.1f%% %8.1f%% %7.1f%% %5.1f%% %8.1f  %-7s %s\n",
		(double)c->code / 1024, 100 * share(c->bytes[TABLE_SAFE], c->code),
		100 * share(c->critical, c->code), 100 * share(c->unsafe, c->code),
		100 * share(c->spin, c->code), (double)c->bytes[TABLE_PADDING] / 1024, state, name);
}

static void print_reasons(FILE *out, const struct coverage *c)
{
	const char *comma = "";

	fprintf(out, "unsafe by reason:");
	for (int i = 0; i < TABLE_REASONS; i++) {
		if (i == TABLE_SAFE || i == TABLE_PADDING || !c->bytes[i])
			continue;
		fprintf(out, "%s %s %.2f%%", comma, table_reason_name((enum table_reason)i),
			100 * share(c->bytes[i], c->code));
		comma = ",";
	}
	fprintf(out, "%s\n", *comma ? "" : " none");
}

void coverage_print(FILE *out, const struct jobs *jobs)
{
	struct coverage total = {0};
	size_t n = 0;

	for (size_t i = 0; i < jobs->n; i++) {
		const struct job *job = &jobs->v[i];
		struct coverage c = {0};

		if (job->state == JOB_NO_CODE)
			fprintf(out, "%s: no code\n", job->path);
		if (!job->has_header)
			continue;
		if (n++ == 0)
			fprintf(out, "  CODE/KiB    SAFE  CRITICAL  UNSAFE   SPIN  PADDING  TABLE  "
				     " FILE\n");
		count(&c, &job->header);
		count(&total, &job->header);
		print_line(out, job->path, &c, state_name(job));
	}
	if (n > 1)
		print_line(out, "total", &total, "");
	if (n)
		print_reasons(out, &total);
}

// --- JSON -------------------------------------------------------------------------------------------------

static void json_string(FILE *out, const char *s)
{
	fputc('"', out);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < ' ' || c == 0x7f)
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

static void json_coverage(FILE *out, const struct coverage *c)
{
	fprintf(out,
		"\"text_bytes\": %llu, \"code_bytes\": %llu, \"padding_bytes\": %llu, \"safe\": "
		"%.6f, "
		"\"critical\": %.6f, \"unsafe\": %.6f, \"spin\": %.6f, \"bytes\": {",
		(unsigned long long)c->text, (unsigned long long)c->code,
		(unsigned long long)c->bytes[TABLE_PADDING], share(c->bytes[TABLE_SAFE], c->code),
		share(c->critical, c->code), share(c->unsafe, c->code), share(c->spin, c->code));
	for (int i = 0; i < TABLE_REASONS; i++)
		fprintf(out, "\"%s\": %llu, ", table_reason_name((enum table_reason)i),
			(unsigned long long)c->bytes[i]);
	fprintf(out, "\"critical\": %llu, \"spin\": %llu}", (unsigned long long)c->all_critical,
		(unsigned long long)c->spin);
}

static void json_source(FILE *out, uint32_t source)
{
	static const char *const names[] = {"eh_frame",	  "debug_frame",    "debug_line",
					    "debug_info", "debug_separate", "debug_alt",
					    "symtab"};
	const char *comma = "";

	fputs(", \"source\": [", out);
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		if (source & (1u << i)) {
			fprintf(out, "%s\"%s\"", comma, names[i]);
			comma = ", ";
		}
	}
	fputs("], ", out);
}

void coverage_json(FILE *out, const struct jobs *jobs)
{
	struct coverage total = {0};

	fputs("{\"files\": [", out);
	for (size_t i = 0; i < jobs->n; i++) {
		const struct job *job = &jobs->v[i];
		struct coverage c = {0};

		fprintf(out, "%s\n  {\"path\": ", i ? "," : "");
		json_string(out, job->path);
		fprintf(out, ", \"state\": \"%s\"", state_name(job));
		if (job->why) {
			fputs(", \"error\": ", out);
			json_string(out, job->why);
		}
		if (job->has_header) {
			count(&c, &job->header);
			count(&total, &job->header);
			json_source(out, job->header.source);
			json_coverage(out, &c);
		}
		fputc('}', out);
	}
	fputs("],\n  \"total\": {", out);
	json_coverage(out, &total);
	fputs("}}\n", out);
}
