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

static void json_coverage(json_t *object, const struct coverage *c)
{
	json_t *bytes = must(json_object());

	json_set(object, "text_bytes", json_integer((json_int_t)c->text));
	json_set(object, "code_bytes", json_integer((json_int_t)c->code));
	json_set(object, "padding_bytes", json_integer((json_int_t)c->bytes[TABLE_PADDING]));
	json_set(object, "safe", json_real(share(c->bytes[TABLE_SAFE], c->code)));
	json_set(object, "critical", json_real(share(c->critical, c->code)));
	json_set(object, "unsafe", json_real(share(c->unsafe, c->code)));
	json_set(object, "spin", json_real(share(c->spin, c->code)));
	for (int i = 0; i < TABLE_REASONS; i++)
		json_set(bytes, table_reason_name((enum table_reason)i),
			 json_integer((json_int_t)c->bytes[i]));
	json_set(bytes, "critical", json_integer((json_int_t)c->all_critical));
	json_set(bytes, "spin", json_integer((json_int_t)c->spin));
	json_set(object, "bytes", bytes);
}

static json_t *json_source(uint32_t source)
{
	static const char *const names[] = {"eh_frame",	  "debug_frame",    "debug_line",
					    "debug_info", "debug_separate", "debug_alt",
					    "symtab"};
	json_t *array = must(json_array());

	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		if ((source & (1u << i)) &&
		    json_array_append_new(array, json_string(names[i])) != 0)
			must(NULL);
	}
	return array;
}

void coverage_json(FILE *out, const struct jobs *jobs)
{
	json_t *report = must(json_object()), *files = must(json_array());
	json_t *whole = must(json_object());
	struct coverage total = {0};

	for (size_t i = 0; i < jobs->n; i++) {
		const struct job *job = &jobs->v[i];
		json_t *file = must(json_object());
		struct coverage c = {0};

		json_set(file, "path", json_text(job->path));
		json_set(file, "state", json_string(state_name(job)));
		if (job->why)
			json_set(file, "error", json_text(job->why));
		if (job->has_header) {
			count(&c, &job->header);
			count(&total, &job->header);
			json_set(file, "source", json_source(job->header.source));
			json_coverage(file, &c);
		}
		if (json_array_append_new(files, file) != 0)
			must(NULL);
	}
	json_set(report, "files", files);
	json_coverage(whole, &total);
	json_set(report, "total", whole);
	json_print(out, report);
}
