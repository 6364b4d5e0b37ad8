// dump_main.c: dump_main [-t | -n] FILE: compiles FILE in memory and prints its table, without any cache, for oracle.py.
// -t prints time, memory and shares of the text instead; -n reads no debug information.

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "compiler.h"

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void print_sums(const char *path, const struct table_header *h, double seconds)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	printf("%s: %.3f s, %ld KiB, text %llu, table %llu, rows %u, syscalls %u\n", path, seconds,
	       usage.ru_maxrss, (unsigned long long)h->text_size, (unsigned long long)h->file_size,
	       h->nrows, h->nsyscalls);
	for (int i = 0; i < TABLE_REASONS; i++) {
		if (h->bytes[i])
			printf("  %-10s %6.2f %%\n", table_reason_name((enum table_reason)i),
			       100.0 * (double)h->bytes[i] / (double)h->text_size);
	}
	printf("  %-10s %6.2f %%\n  %-10s %6.2f %%\n", "critical",
	       100.0 * (double)h->bytes_critical / (double)h->text_size, "spin",
	       100.0 * (double)h->bytes_spin / (double)h->text_size);
}

int main(int argc, char **argv)
{
	bool sums = argc == 3 && strcmp(argv[1], "-t") == 0;
	bool no_debug_info = argc == 3 && strcmp(argv[1], "-n") == 0;
	struct buffer buf;
	struct table table;
	const char *why;
	double start = now();
	int err;

	if (argc != (sums || no_debug_info ? 3 : 2)) {
		fprintf(stderr, "usage: dump_main [-t | -n] FILE\n");
		return 2;
	}
	err = compile_module(argv[argc - 1], "", !no_debug_info, &buf, &why);
	if (err) {
		fprintf(stderr, "%s: %s: %s\n", argv[argc - 1], why, strerror(-err));
		return 1;
	}
	why = table_check(buf.data, buf.size, &table);
	if (why) {
		fprintf(stderr, "%s: %s\n", argv[argc - 1], why);
		return 1;
	}
	if (sums)
		print_sums(argv[argc - 1], table.header, now() - start);
	else
		err = dump_table(&table, stdout);
	free(buf.data);
	return err ? 1 : 0;
}
